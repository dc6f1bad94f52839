"""Codec of federated updates: named arrays and a little metadata, without pickle and without flwr.

    magic "AIU1" | u32 header length | JSON header | little-endian arrays, one after the other

Everything is little-endian. float32 arrays travel as they are (`f32`), as float16 (`f16`), or as
int8 with one scale per array (`int8`); all other types travel as they are, since moments and
counters must not be rounded. The codec neither knows models nor decides who may send what.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeGuard, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadUpdateError

UpdatePrecision = Literal["f32", "f16", "int8"]
Coding = Literal["raw", "f16", "int8"]
Scalar = str | int | float | bool | None
Meta = dict[str, Scalar | list[str]]

MAGIC = b"AIU1"
MAX_UPDATE_BYTES = 256 << 20
MAX_HEADER_BYTES = 1 << 20
MAX_ARRAYS = 4096
MAX_RANK = 8
MAX_NAME = 256

_LENGTH = struct.Struct("<I")
_INT8_MAX = 127
_PRECISIONS: frozenset[str] = frozenset(get_args(UpdatePrecision))
_DTYPES = frozenset({"float32", "float64", "int8", "uint8", "int32", "int64", "bool"})
_WIRE = {"raw": "", "f16": "float16", "int8": "int8"}


class Update(msgspec.Struct, frozen=True):
    """Decoded arrays (read-only where they were not converted) and the sender's metadata."""

    meta: Meta
    arrays: dict[str, NDArray[Any]]


class _Entry(msgspec.Struct, frozen=True):
    """One array in the header: its type when decoded, and how its bytes are written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    coding: Coding = "raw"
    scale: float = 1.0


class _Header(msgspec.Struct, frozen=True):
    meta: Meta
    arrays: list[_Entry]


def encode(
    arrays: Mapping[str, NDArray[np.generic]], meta: Meta, precision: UpdatePrecision = "f32"
) -> bytes:
    """Bytes of an update; the same arrays, metadata and precision always give the same bytes.

    Args:
        arrays: at most `MAX_ARRAYS`, finite.
        meta: what the receiver must know besides: scalars and lists of text.
        precision: how float32 arrays travel. An array that float16 cannot hold travels whole.

    Raises:
        BadUpdateError: an array is not finite, or of a type or rank that does not travel.
    """
    parts: list[bytes] = []
    entries: list[_Entry] = []
    for name, array in arrays.items():
        entry, raw = _encode_array(name, np.asarray(array), precision)
        entries.append(entry)
        parts.append(raw)
    _check_entries(entries)
    header = msgspec.json.encode(_Header(meta, entries))
    if len(header) > MAX_HEADER_BYTES:
        raise BadUpdateError(f"the update's header has {len(header)} bytes: {_limit('header')}")
    return b"".join([MAGIC, _LENGTH.pack(len(header)), header, *parts])


def decode(raw: bytes, *, max_bytes: int = MAX_UPDATE_BYTES) -> Update:
    """Read an update of a peer that is not trusted.

    Raises:
        BadUpdateError: it is too long, no update, cut off, over a limit, or not finite.
    """
    if len(raw) > max_bytes:
        raise BadUpdateError(f"the update has {len(raw)} bytes, the limit is {max_bytes}")
    header, start = _decode_header(raw)
    _check_entries(header.arrays)
    arrays: dict[str, NDArray[np.generic]] = {}
    for entry, piece in _pieces(header.arrays, memoryview(raw)[start:]):
        arrays[entry.name] = _decode_array(entry, piece)
    return Update(header.meta, arrays)


def is_precision(text: object) -> TypeGuard[UpdatePrecision]:
    """Whether a text from the wire names a precision that `encode` knows."""
    return text in _PRECISIONS


def _encode_array(
    name: str, array: NDArray[np.generic], precision: UpdatePrecision
) -> tuple[_Entry, bytes]:
    if array.dtype.name not in _DTYPES:
        raise BadUpdateError(f"array {name!r} of type {array.dtype} does not travel")
    if not np.isfinite(array).all():
        raise BadUpdateError(f"array {name!r} has values that are not finite")
    wire, coding, scale = _narrow(array, precision)
    entry = _Entry(name, array.dtype.name, array.shape, coding, scale)
    return entry, wire.astype(wire.dtype.newbyteorder("<"), copy=False).tobytes()


def _narrow(
    array: NDArray[np.generic], precision: UpdatePrecision
) -> tuple[NDArray[np.generic], Coding, float]:
    """An array in the wire's type, the name of the coding, and its scale."""
    if array.dtype != np.float32 or precision == "f32":
        return array, "raw", 1.0
    values = array.astype(np.float64)
    peak = float(np.abs(values).max(initial=0.0))
    if precision == "int8":
        scale = peak / _INT8_MAX or 1.0
        return np.rint(values / scale).astype(np.int8), "int8", scale
    if peak > float(np.finfo(np.float16).max):
        return array, "raw", 1.0
    return array.astype(np.float16), "f16", 1.0


def _decode_header(raw: bytes) -> tuple[_Header, int]:
    start = len(MAGIC) + _LENGTH.size
    if len(raw) < start or raw[: len(MAGIC)] != MAGIC:
        raise BadUpdateError("the bytes are no update: they do not start with AIU1")
    (length,) = _LENGTH.unpack_from(raw, len(MAGIC))
    if length > MAX_HEADER_BYTES:
        raise BadUpdateError(f"the update's header has {length} bytes: {_limit('header')}")
    if start + length > len(raw):
        raise BadUpdateError("the update is cut off within its header")
    try:
        header = msgspec.json.decode(raw[start : start + length], type=_Header)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadUpdateError(f"the update's header does not decode: {error}") from error
    return header, start + length


def _check_entries(entries: list[_Entry]) -> None:
    if len(entries) > MAX_ARRAYS:
        raise BadUpdateError(f"the update has {len(entries)} arrays: {_limit('arrays')}")
    if len({entry.name for entry in entries}) != len(entries):
        raise BadUpdateError("the update has two arrays of one name")
    for entry in entries:
        _check_entry(entry)


def _check_entry(entry: _Entry) -> None:
    if not 0 < len(entry.name) <= MAX_NAME or not entry.name.isprintable():
        raise BadUpdateError(f"an array's name must be 1-{MAX_NAME} printable characters")
    if entry.dtype not in _DTYPES:
        raise BadUpdateError(f"array {entry.name!r} has type {entry.dtype!r}, which is not known")
    if len(entry.shape) > MAX_RANK or any(size < 0 for size in entry.shape):
        raise BadUpdateError(f"array {entry.name!r} has shape {entry.shape}: {_limit('rank')}")
    if math.prod(size or 1 for size in entry.shape) > MAX_UPDATE_BYTES:
        raise BadUpdateError(f"array {entry.name!r} of shape {entry.shape} is too large")
    if entry.coding != "raw" and entry.dtype != "float32":
        raise BadUpdateError(f"array {entry.name!r}: only float32 has the coding {entry.coding}")
    if not (math.isfinite(entry.scale) and entry.scale > 0):
        raise BadUpdateError(f"array {entry.name!r} has scale {entry.scale}")


def _pieces(entries: list[_Entry], body: memoryview) -> Iterator[tuple[_Entry, memoryview]]:
    """Cut the body into the bytes of the arrays; nothing may be missing or left over."""
    start = 0
    for entry in entries:
        size = math.prod(entry.shape) * _wire_type(entry).itemsize
        if start + size > len(body):
            raise BadUpdateError(f"the update is cut off within array {entry.name!r}")
        yield entry, body[start : start + size]
        start += size
    if start != len(body):
        raise BadUpdateError(f"the update has {len(body) - start} bytes after its last array")


def _wire_type(entry: _Entry) -> np.dtype[np.generic]:
    return np.dtype(_WIRE[entry.coding] or entry.dtype).newbyteorder("<")


def _decode_array(entry: _Entry, piece: memoryview) -> NDArray[np.generic]:
    wire = np.frombuffer(piece, _wire_type(entry)).reshape(entry.shape)
    array = wire if entry.coding == "raw" else _widen(wire, entry)
    if entry.dtype == "bool" and np.frombuffer(piece, np.uint8).max(initial=0) > 1:
        raise BadUpdateError(f"array {entry.name!r} has truth values other than 0 and 1")
    if not np.isfinite(array).all():
        raise BadUpdateError(f"array {entry.name!r} has values that are not finite")
    return array.astype(np.dtype(entry.dtype), copy=False)


def _widen(wire: NDArray[np.generic], entry: _Entry) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what overflows is refused as not finite
        return (wire.astype(np.float64) * entry.scale).astype(np.float32)


def _limit(what: str) -> str:
    limits = {"header": MAX_HEADER_BYTES, "arrays": MAX_ARRAYS, "rank": MAX_RANK}
    return f"the limit is {limits[what]} ({what})"
