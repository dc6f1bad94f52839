"""The codec of what crosses a cut: as exact as it says, small, and never hurt by what it reads."""

import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from aimass_shared.activations import CODECS, MAX_TENSORS, Choice, chosen, decode, encode
from aimass_shared.errors import BadTensorError, MalformedMessageError

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)
FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
OTHERS = st.sampled_from(["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
RANDOM = np.random.default_rng(0)


def floats(*, finite: bool) -> st.SearchStrategy[NDArray[Any]]:
    return FLOATS.flatmap(
        lambda kind: hnp.arrays(
            kind,
            SHAPES,
            elements=st.floats(
                width=8 * np.dtype(kind).itemsize,  # type: ignore[arg-type]  # 16, 32 or 64
                allow_nan=not finite,
                allow_infinity=not finite,
            ),
        )
    )


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        floats(finite=False) | OTHERS.flatmap(lambda kind: hnp.arrays(kind, SHAPES)),
        max_size=4,
    )
)
def test_none_gives_back_every_bit(arrays: dict[str, NDArray[Any]]) -> None:
    found = decode(encode(arrays, "none"))
    assert list(found) == list(arrays)
    assert all(same(found[name], array) for name, array in arrays.items())


@given(OTHERS.flatmap(lambda kind: hnp.arrays(kind, SHAPES)), st.sampled_from(CODECS))
def test_what_is_no_float_is_never_rounded(array: NDArray[Any], codec: Any) -> None:  # noqa: ANN401  of CODECS
    assert same(decode(encode({"x": array}, codec))["x"], array)


@given(floats(finite=True))
@example(np.array([-65504, 65504, 1], np.float16))
@example(np.array([-3.4e38, 3.4e38], np.float32))
@example(np.array([-1.7e308, 1.7e308], np.float64))
@example(np.array([1e-45, 0], np.float32))
@example(np.array([6e-301, -5e-324]))
@example(np.array([1e-321, -1e-321]))
def test_int8_is_within_half_a_step_and_keeps_zero(array: NDArray[Any]) -> None:
    found = decode(encode({"x": array}, "int8"))["x"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    if not array.size:
        return
    assert np.isfinite(found).all()
    assert not found[array == 0].any()
    wide = array.astype(np.longdouble)
    step = (max(wide.max(), 0) - min(wide.min(), 0)) / 255
    rounding = np.finfo(array.dtype).eps * np.abs(wide).max() + np.finfo(array.dtype).tiny
    # Half a step, and half of one more at an end where zero lies between two steps.
    assert np.abs(found.astype(np.longdouble) - wide).max() <= 1.01 * step + 2 * rounding


@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(-60000, 60000, width=32)))
def test_fp16_is_what_numpy_rounds_to(array: NDArray[Any]) -> None:
    found = decode(encode({"x": array}, "fp16"))["x"]
    assert same(found, array.astype(np.float16).astype(np.float32))


def test_activations_become_four_to_ten_times_smaller() -> None:
    relu = np.maximum(RANDOM.standard_normal((8, 32, 16, 16)), 0).astype(np.float32)
    signed = RANDOM.standard_normal((8, 64, 32)).astype(np.float32)
    assert relu.nbytes / len(encode({"x": relu}, "int8")) > 6
    assert signed.nbytes / len(encode({"x": signed}, "int8")) > 4
    assert signed.nbytes / len(encode({"x": signed}, "fp16")) > 2
    rows = np.tile(RANDOM.standard_normal(64).astype(np.float32), (64, 1))
    assert rows.nbytes / len(encode({"x": rows}, "int8")) > 40


def test_small_tensors_are_not_packed_and_nothing_grows() -> None:
    small = np.zeros(255, np.float32)
    assert len(encode({"x": small}, "int8")) == 255 + 9 + 1 + 1 + 4 + 4 + 13
    noise = RANDOM.integers(0, 256, 5000).astype(np.uint8)
    assert len(encode({"x": noise}, "int8")) < 5000 + 50


def test_the_same_tensors_give_the_same_bytes() -> None:
    array = RANDOM.standard_normal((3, 5)).astype(np.float32)
    assert encode({"x": array}) == encode({"x": array.copy()})
    turned = np.asfortranarray(array)
    assert encode({"x": turned}) == encode({"x": array})


@pytest.mark.parametrize(
    ("array", "codec", "why"),
    [
        (np.array([np.nan], np.float32), "int8", "not finite"),
        (np.array([np.inf], np.float64), "fp16", "not finite"),
        (np.array([1e6], np.float32), "fp16", "too large for fp16"),
        (np.array(["text"]), "none", "does not travel"),
        (np.array([1j]), "none", "does not travel"),
        (np.zeros((1,) * 9, np.float32), "none", "at most 8 axes"),
        (np.zeros((0, 1 << 16, 1 << 16), np.float32), "none", "at most"),
        (np.zeros(1, np.float32), "gzip", "no codec"),
    ],
)
def test_what_cannot_be_held_is_refused(array: NDArray[Any], codec: Any, why: str) -> None:  # noqa: ANN401  of CODECS and not
    with pytest.raises(BadTensorError, match=why):
        encode({"x": array}, codec)


@pytest.mark.parametrize("arrays", [{"": np.zeros(1)}, {"x" * 256: np.zeros(1)}])
def test_names_have_a_limit(arrays: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(BadTensorError, match="name"):
        encode(arrays)


def test_the_number_of_tensors_has_a_limit() -> None:
    with pytest.raises(BadTensorError, match="limit is 64"):
        encode({f"x{n}": np.zeros(1) for n in range(MAX_TENSORS + 1)})


MESSAGE = encode(
    {
        "relu": np.maximum(RANDOM.standard_normal((4, 1000)), 0).astype(np.float32),
        "shape": np.array([4, 1000]),
        "on": np.array([True, False]),
    }
)


@given(st.binary(max_size=300))
def test_any_bytes_give_one_error(raw: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode(raw)


@given(st.integers(0, len(MESSAGE) - 1))
def test_a_message_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(MalformedMessageError):
        decode(MESSAGE[:length])


@given(st.integers(0, len(MESSAGE) - 1), st.integers(1, 255))
def test_an_altered_byte_is_noticed(at: int, change: int) -> None:
    raw = bytearray(MESSAGE)
    raw[at] ^= change
    with pytest.raises(MalformedMessageError):
        decode(raw)


@given(st.lists(st.tuples(st.integers(9, 80), st.integers(0, 255)), max_size=6))
def test_whoever_makes_the_checksum_right_harms_nobody(changes: list[tuple[int, int]]) -> None:
    body = bytearray(MESSAGE)
    for at, value in changes:
        body[at] = value
    try:
        found = decode(signed(bytes(body[8:])), max_decoded_bytes=1 << 20)
    except MalformedMessageError:
        return
    assert sum(array.nbytes for array in found.values()) <= 1 << 20


def signed(body: bytes) -> bytes:
    return b"AIA1" + struct.pack("<I", zlib.crc32(body)) + body


def message(*, shape: tuple[int, ...], content: bytes, packing: int = 0, **other: Any) -> bytes:  # noqa: ANN401  numbers
    """One float32 tensor as somebody with bad intentions would write it."""
    kinds = (other.get("dtype", 0), other.get("coding", 0), packing, len(shape))
    return signed(
        b"\x01\x01x"
        + struct.pack("<4B", *kinds)
        + struct.pack(f"<{len(shape)}I", *shape)
        + struct.pack("<dBI", other.get("scale", 1.0), 0, other.get("length", len(content)))
        + content
        + other.get("rest", b"")
    )


BOMB = zlib.compress(b"\0" * (1 << 24))[2:-4]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (message(shape=(2,), content=b"1234"), "its shape needs 8"),
        (message(shape=(1 << 31, 1 << 31), content=b""), "over the limit"),
        (message(shape=(1 << 31, 0, 1 << 31), content=b""), "over the limit"),
        (message(shape=(1 << 31, 0), content=b"", dtype=13), "not known"),
        (message(shape=(1,), content=b"1234", coding=3), "not known"),
        (message(shape=(1,), content=b"1234", packing=2), "not known"),
        (message(shape=(1,), content=b"1234", length=5), "cut off"),
        (message(shape=(1,), content=b"1234", rest=b"5"), "after the last"),
        (message(shape=(1,), content=b"2", dtype=3), "truth values"),
        (message(shape=(1,), content=b"2", dtype=8, coding=2), "only floats"),
        (message(shape=(1,), content=b"2", coding=2, scale=math.nan), "scale"),
        (message(shape=(1,), content=b"2", coding=2, scale=-1.0), "scale"),
        (message(shape=(1,), content=b"2", coding=2, scale=1e300), "scale"),
        (message(shape=(1,), content=BOMB, packing=1), "does not unpack to its shape"),
        (message(shape=(1,), content=b"abcd", packing=1), "does not unpack"),
        (message(shape=(1,) * 9, content=b"1234"), "9 axes"),
        (signed(b"\xff"), "limit is 64"),
        (signed(b"\x01\x01\xff" + bytes(21)), "no text"),
        (signed(b"\x02" + 2 * message(shape=(1,), content=b"1234")[9:]), "two activations"),
    ],
)
def test_bad_intentions_are_refused_by_name(raw: bytes, why: str) -> None:
    with pytest.raises(MalformedMessageError, match=why):
        decode(raw)


def test_limits_are_those_of_who_reads() -> None:
    with pytest.raises(MalformedMessageError, match="limit is 10"):
        decode(MESSAGE, max_bytes=10)
    with pytest.raises(MalformedMessageError, match="over the limit"):
        decode(MESSAGE, max_decoded_bytes=15_999)
    assert set(decode(MESSAGE, max_decoded_bytes=16_100)) == {"relu", "shape", "on"}


def tail(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {"y": arrays["x"].sum(axis=1), "best": arrays["x"].argmax(axis=1)}


def test_the_smallest_codec_that_the_outputs_stand_is_chosen() -> None:
    x = np.abs(RANDOM.standard_normal((4, 1000))).astype(np.float32)
    x[range(4), range(4)] = 8.0  # far ahead of the others: the best stays the best
    loose = chosen({"x": x}, tail, budget=1e-2)
    assert loose.codec == "int8"
    assert loose.tried["int8"] == (loose.size, loose.error)
    assert 0 < loose.error <= 1e-2
    assert loose.size < loose.tried["fp16"][0] < loose.tried["none"][0]
    assert chosen({"x": x}, tail, budget=loose.error / 2).codec == "fp16"
    assert chosen({"x": x}, tail, budget=0.0).codec == "none"
    assert chosen({"x": x}, tail, budget=1.0, codecs=["fp16"]).codec == "fp16"


def sums(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> float:
    return float(np.abs(found["y"] - expected["y"]).max())


def test_an_own_measure_decides_and_labels_must_be_equal() -> None:
    x = np.array([[1.0, 1.0001]], np.float32)
    assert chosen({"x": x}, tail, budget=1e9).codec == "none"
    same_sum = chosen({"x": x}, tail, budget=1e-2, difference=sums)
    assert same_sum.codec == "int8"


def test_what_a_codec_cannot_hold_is_left_to_another() -> None:
    x = np.full((1, 2000), 1e6, np.float32)
    found = chosen({"x": x}, lambda arrays: {"y": arrays["x"]}, budget=1e-2)
    assert found.tried["fp16"] == (0, math.inf)
    assert found.codec == "int8"
    assert isinstance(found, Choice)
