"""The update codec: round trips, precision, and refusal of everything a bad peer may send."""

import json
import struct

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimass_shared.errors import BadUpdateError
from aimass_shared.updates import MAGIC, MAX_ARRAYS, Meta, decode, encode, is_precision

Arrays = dict[str, NDArray[np.generic]]

META: Meta = {"task": "t1", "kept": None, "on": True, "width": 0.5, "sensors": ["a", "b"]}
names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
floats32 = hnp.arrays(np.float32, shapes, elements=st.floats(-(2.0**100), 2.0**100, width=32))
kept = st.one_of(
    hnp.arrays(np.float64, shapes, elements=st.floats(allow_nan=False, allow_infinity=False)),
    hnp.arrays(np.int64, shapes),
    hnp.arrays(np.bool_, shapes),
    hnp.arrays(np.uint8, shapes),
)


def frame(header: object, body: bytes = b"") -> bytes:
    """A hand-made update, so that tests can say what `encode` never would."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + body


def one_array(body: bytes = b"", **changes: object) -> bytes:
    entry: dict[str, object] = {"name": "w", "dtype": "float32", "shape": [2], **changes}
    return frame({"meta": {}, "arrays": [entry]}, body)


@given(st.dictionaries(names, st.one_of(floats32, kept), max_size=5))
def test_f32_gives_back_every_array_bit_by_bit(arrays: Arrays) -> None:
    update = decode(encode(arrays, META))
    assert update.meta == META
    assert list(update.arrays) == list(arrays)
    for name, array in arrays.items():
        assert update.arrays[name].dtype == array.dtype
        assert update.arrays[name].shape == array.shape
        assert update.arrays[name].tobytes() == array.tobytes()


@given(floats32)
def test_int8_is_within_half_a_step(array: NDArray[np.float32]) -> None:
    got = decode(encode({"w": array}, {}, "int8")).arrays["w"]
    assert got.dtype == np.float32
    assert got.shape == array.shape
    peak = float(np.abs(array.astype(np.float64)).max(initial=0.0))
    error = np.abs(got.astype(np.float64) - array)
    assert (error <= peak / 127 * 0.5 * (1 + 1e-5) + 1e-45).all()


@given(floats32)
def test_f16_is_within_half_precision_or_whole(array: NDArray[np.float32]) -> None:
    got = decode(encode({"w": array}, {}, "f16")).arrays["w"].astype(np.float64)
    assert (np.abs(got - array) <= np.abs(array.astype(np.float64)) * 2**-11 + 2**-25).all()


@given(kept, st.sampled_from(["f16", "int8"]))
def test_other_types_are_never_rounded(array: NDArray[np.generic], precision: str) -> None:
    assert is_precision(precision)
    assert decode(encode({"n": array}, {}, precision)).arrays["n"].tobytes() == array.tobytes()


def test_precisions_cost_what_they_say() -> None:
    arrays: Arrays = {"w": np.ones((100, 100), np.float32)}
    sizes = {p: len(encode(arrays, {}, p)) for p in ("f32", "f16", "int8") if is_precision(p)}
    assert 40_000 < sizes["f32"] < 40_200
    assert 20_000 < sizes["f16"] < 20_200
    assert 10_000 < sizes["int8"] < 10_200


def test_views_and_big_endian_arrays_travel() -> None:
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    arrays: Arrays = {"turned": base.T, "big": np.arange(3, dtype=">f8")}
    got = decode(encode(arrays, {})).arrays
    np.testing.assert_array_equal(got["turned"], base.T)
    np.testing.assert_array_equal(got["big"], [0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.0, np.nan], np.float32),
        np.array([np.inf]),
        np.array(["text"]),
        np.array([object()]),
        np.zeros(1, np.complex64),
        np.zeros((1,) * 9, np.float32),
    ],
    ids=["nan", "inf", "text", "object", "complex", "rank"],
)
def test_encode_refuses(array: NDArray[np.generic]) -> None:
    with pytest.raises(BadUpdateError):
        encode({"w": array}, {})


BAD = {
    "empty": (b"", "no update"),
    "pickle": (b"\x80\x04K\x01.", "no update"),
    "header-cut": (MAGIC + struct.pack("<I", 99) + b"{}", "cut off"),
    "header-long": (MAGIC + struct.pack("<I", 2**32 - 1), "limit"),
    "not-json": (frame(b"\xff\xfe"), "does not decode"),
    "deep": (frame(b'{"meta":{"a":' + b"[" * 100_000), "does not decode"),
    "deep-unknown": (frame(b'{"meta":{},"arrays":[],"x":' + b"[" * 100_000), "does not decode"),
    "list": (frame([]), "does not decode"),
    "dtype": (one_array(b"12345678", dtype="object"), "not known"),
    "coding": (one_array(b"12", dtype="int8", coding="int8"), "only float32"),
    "coding-unknown": (one_array(b"12345678", coding="zip"), "does not decode"),
    "negative": (one_array(shape=[-1]), "shape"),
    "rank": (one_array(b"1234", shape=[1] * 9), "shape"),
    "huge": (one_array(shape=[2**40]), "too large"),
    "huge-but-empty": (one_array(shape=[2**62, 0]), "too large"),
    "cut": (one_array(b"1234567"), "cut off"),
    "left-over": (one_array(b"123456789"), "after its last"),
    "nan": (one_array(np.array([0, np.nan], np.float32).tobytes()), "not finite"),
    "nan-f16": (one_array(np.array([0, np.nan], np.float16).tobytes(), coding="f16"), "not finite"),
    "scale-overflow": (one_array(b"\x7f\x7f", coding="int8", scale=1e300), "not finite"),
    "scale-zero": (one_array(b"\x7f\x7f", coding="int8", scale=0.0), "scale"),
    "bool": (one_array(b"\x02\x01", dtype="bool"), "truth"),
    "name": (one_array(b"12345678", name=""), "name"),
    "name-control": (one_array(b"12345678", name="a\x00"), "name"),
    "name-twice": (
        frame({"meta": {}, "arrays": [{"name": "w", "dtype": "int8", "shape": [0]}] * 2}),
        "two arrays",
    ),
    "many": (
        frame(
            {
                "meta": {},
                "arrays": [
                    {"name": str(i), "dtype": "int8", "shape": [0]} for i in range(MAX_ARRAYS + 1)
                ],
            }
        ),
        "arrays",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_decode_refuses(case: str) -> None:
    raw, why = BAD[case]
    with pytest.raises(BadUpdateError, match=why):
        decode(raw)


def test_decode_refuses_what_is_over_the_callers_limit() -> None:
    raw = encode({"w": np.zeros(100, np.float32)}, {})
    decode(raw, max_bytes=len(raw))
    with pytest.raises(BadUpdateError, match="limit"):
        decode(raw, max_bytes=len(raw) - 1)


@given(st.data())
def test_a_damaged_update_is_decoded_or_refused_never_worse(data: st.DataObject) -> None:
    arrays: Arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.ones(1)}
    raw = bytearray(encode(arrays, META, "int8"))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        update = decode(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    except BadUpdateError:
        return
    assert all(np.isfinite(array).all() for array in update.arrays.values())
