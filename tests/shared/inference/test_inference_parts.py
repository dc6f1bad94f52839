"""Requests with packed tensors: what one side asks and the other unpacks, and what is refused."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aimass_shared.activations import encode
from aimass_shared.errors import BadTensorError, MalformedMessageError
from aimass_shared.inference import InferRequest, InferResponse, WantedOutput, parts
from aimass_shared.inference.parts import ACTIVATIONS, SLICE, Destination

ARRAYS = {"hidden": np.arange(12, dtype=np.float32).reshape(2, 6), "mask": np.ones((2, 3), bool)}
TO = Destination("r1", "w1.00-fp32-cut-x-1", "none", ("early",))


def request(*outputs: str) -> InferRequest:
    wanted = tuple(WantedOutput(name) for name in outputs)
    given = {"x": np.zeros((2, 3), np.float32)}
    return InferRequest(model="m", inputs=given, id="q", deadline_ms=50, outputs=wanted)


def test_what_is_asked_is_what_is_unpacked() -> None:
    asked = parts.asked(request("early", "late"), ARRAYS, TO)
    assert (asked.version, asked.deadline_ms, asked.parameters) == ("r1", 50, {SLICE: TO.slice})
    assert [one.name for one in asked.outputs] == ["late"]
    assert parts.slice_of(asked) == TO.slice
    found = parts.unpacked(asked)
    assert found.keys() == ARRAYS.keys()
    assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=st.floats(-9, 9, width=32)))
def test_floats_come_back_within_a_step_of_the_codec(array: np.ndarray) -> None:
    to = Destination("r1", "s", "int8")
    found = parts.unpacked(parts.asked(request(), {"h": array}, to))["h"]
    step = (max(float(array.max()), 0.0) - min(float(array.min()), 0.0)) / 255
    assert np.abs(found - array).max() <= 0.51 * step + 1e-6


def test_the_answer_has_what_the_head_had_given() -> None:
    late = InferResponse(model="m", version="r1", outputs={"late": np.ones(2)}, id="other")
    early = {"early": np.zeros(2)}
    told = parts.told(request(), late, early)
    assert (set(told.outputs), told.id) == ({"early", "late"}, "q")
    assert set(parts.told(request("early"), late, early).outputs) == {"early"}


def test_a_plain_request_is_for_no_slice() -> None:
    assert parts.slice_of(request()) == ""


def test_a_slice_without_its_release_is_refused() -> None:
    asked = parts.asked(request(), ARRAYS, TO)
    with pytest.raises(BadTensorError, match="versions/RELEASE"):
        parts.slice_of(msgspec.structs.replace(asked, version=""))
    with pytest.raises(BadTensorError, match="must be the name"):
        parts.slice_of(msgspec.structs.replace(asked, parameters={SLICE: 3}))


def test_what_is_no_message_is_named() -> None:
    message = np.frombuffer(encode(ARRAYS), np.uint8)
    for inputs in (
        {},
        {"x": message},
        {ACTIVATIONS: message, "x": message},
        {ACTIVATIONS: message.astype(np.int8)},
        {ACTIVATIONS: message.reshape(1, -1)},
    ):
        with pytest.raises(BadTensorError, match="UINT8"):
            parts.unpacked(msgspec.structs.replace(request(), inputs=inputs))
    for bad in (message[:-1], message[:3], message[::-1]):
        broken = msgspec.structs.replace(request(), inputs={ACTIVATIONS: bad})
        with pytest.raises(MalformedMessageError, match="`activations`"):
            parts.unpacked(broken)
    whole = msgspec.structs.replace(request(), inputs={ACTIVATIONS: message})
    with pytest.raises(MalformedMessageError, match="over the limit"):
        parts.unpacked(whole, max_bytes=8)
