"""Codec of what crosses a cut: named tensors in binary, rounded as little or as much as is right.

    magic "AIA1" | u32 CRC-32 of the rest | u8 number of tensors | tensors, one after the other
    tensor: u8 length of its name | name | u8 type | u8 coding | u8 packing | u8 rank
            | u32 for each axis | f64 scale | u8 zero | u32 length of its bytes | its bytes

Everything is little-endian. A coding is what floats are rounded to: `none` (as they are), `fp16`,
or `int8` with one scale and one zero point for the tensor, where 0.0 stays 0.0. Other types are
never rounded. With `fp16` and `int8` numbers are packed where that makes them smaller; in small
tensors it is not tried. Packing is deflate, once with repetitions and once with runs alone: most
activations have little to gain but the entropy of single bytes. The smaller of the two was never
larger than zstd's (ADR 15), and every Python has it.
"""

import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadTensorError, MalformedMessageError

ActivationCodec = Literal["none", "fp16", "int8"]
Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Tail: TypeAlias = Callable[[dict[str, NDArray[Any]]], Arrays]
Difference: TypeAlias = Callable[[Arrays, Arrays], float]

CODECS: Final[tuple[ActivationCodec, ...]] = get_args(ActivationCodec)
MAGIC: Final = b"AIA1"
MAX_MESSAGE_BYTES: Final = 64 << 20
MAX_DECODED_BYTES: Final = 256 << 20
MAX_TENSORS: Final = 64
MAX_RANK: Final = 8
MAX_NUMBERS: Final = (1 << 32) - 1
"""Of a tensor. Axes of 0 count as 1: numpy has a limit for the others even where one is 0."""
MAX_NAME: Final = 255
UNPACKED_BYTES: Final = 256
"""Tensors of fewer bytes are not packed: there is next to nothing to gain."""

TYPES: Final = (
    *("float32", "float16", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
"""That travel, by their place in here."""
_WIRE: Final = {"none": "", "fp16": "float16", "int8": "uint8"}
_PACKINGS: Final = ("raw", "deflate")
_START, _TENSOR, _AFTER = struct.Struct("<4sIB"), struct.Struct("<4B"), struct.Struct("<dBI")
_LEVELS: Final = 255
_NARROW: Final = 1e-30
"""Scales down to this are reckoned with in float32."""


class _Head(msgspec.Struct, frozen=True):
    """One tensor: its type when decoded, and how its bytes are written."""

    name: str
    dtype: str
    coding: ActivationCodec
    packing: str
    shape: tuple[int, ...]
    scale: float = 1.0
    zero: int = 0

    @property
    def wire(self) -> "np.dtype[np.generic]":
        """Type of its numbers on the way."""
        return np.dtype(_WIRE[self.coding] or self.dtype).newbyteorder("<")

    @property
    def size(self) -> int:
        """Its bytes when unpacked."""
        return math.prod(self.shape) * self.wire.itemsize


class Choice(msgspec.Struct, frozen=True):
    """A codec, chosen by what it does to the outputs.

    Attributes:
        size: bytes of the message. error: of the outputs. tried: of each codec, both; an error is
            infinite where the codec cannot hold the numbers.
    """

    codec: ActivationCodec
    size: int
    error: float
    tried: dict[ActivationCodec, tuple[int, float]]


def encode(arrays: Arrays, codec: ActivationCodec = "int8") -> bytes:
    """Bytes of tensors; the same tensors and codec always give the same bytes.

    Args:
        arrays: what crosses, at most `MAX_TENSORS`.
        codec: what floats are rounded to.

    Raises:
        BadTensorError: a type, name, number or size that does not travel, or floats that the codec
            cannot hold: not finite, or too large for `fp16`.
    """
    if len(arrays) > MAX_TENSORS:
        raise BadTensorError(f"{len(arrays)} tensors cross, the limit is {MAX_TENSORS}")
    if codec not in CODECS:
        raise BadTensorError(f"there is no codec {codec!r}: take {', '.join(CODECS)}")
    body = bytes([len(arrays)]) + b"".join(
        _encoded(name, np.asarray(array), codec) for name, array in arrays.items()
    )
    if len(body) + _START.size > MAX_MESSAGE_BYTES:
        raise BadTensorError(f"{len(body)} bytes cross, the limit is {MAX_MESSAGE_BYTES}")
    return MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def decode(
    raw: bytes | bytearray | memoryview,
    *,
    max_bytes: int = MAX_MESSAGE_BYTES,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
) -> dict[str, NDArray[Any]]:
    """Tensors of a peer that is not trusted, in the types that they had.

    Args:
        raw: the message.
        max_bytes: of the message.
        max_decoded_bytes: of all tensors together; nothing larger is ever allocated.

    Raises:
        MalformedMessageError: it is too long, no message, cut off, altered, or over a limit.
    """
    if len(raw) > max_bytes:
        raise MalformedMessageError(f"activations of {len(raw)} bytes, the limit is {max_bytes}")
    reader = _Reader(memoryview(raw).cast("B"))
    magic, checksum, count = reader.unpack(_START)
    if magic != MAGIC:
        raise MalformedMessageError("the bytes are no activations: they do not start with AIA1")
    if zlib.crc32(reader.view[_START.size - 1 :]) != checksum:
        raise MalformedMessageError("activations were altered on the way: the checksum is wrong")
    if count > MAX_TENSORS:
        raise MalformedMessageError(f"{count} activations, the limit is {MAX_TENSORS}")
    arrays: dict[str, NDArray[Any]] = {}
    left = max_decoded_bytes
    for _ in range(count):
        name, array = _decoded(reader, left)
        if name in arrays:
            raise MalformedMessageError(f"two activations have the name {name!r}")
        arrays[name] = array
        left -= array.nbytes
    if reader.at != len(reader.view):
        raise MalformedMessageError("activations have bytes after the last tensor")
    return arrays


def chosen(
    arrays: Arrays,
    tail: Tail,
    *,
    budget: float,
    difference: Difference | None = None,
    codecs: Sequence[ActivationCodec] = CODECS,
) -> Choice:
    """The codec with the fewest bytes that the outputs stand.

    Args:
        arrays: what crosses, of samples that are like those to come.
        tail: gives the outputs for what crosses.
        budget: largest error of the outputs.
        difference: error of outputs against those of `none`. By default the largest difference of
            any float, as a share of the largest value of its output; other types must be equal.
        codecs: those to try, `none` in any case.
    """
    expected = tail(dict(arrays))
    measure = difference or largest_share
    tried: dict[ActivationCodec, tuple[int, float]] = {}
    wanted: list[ActivationCodec] = ["none", *codecs]
    for codec in dict.fromkeys(wanted):
        try:
            raw = encode(arrays, codec)
        except BadTensorError:
            if codec == "none":
                raise
            tried[codec] = (0, math.inf)
            continue
        error = 0.0 if codec == "none" else measure(tail(decode(raw)), expected)
        tried[codec] = (len(raw), error)
    able = [name for name, (_, error) in tried.items() if error <= budget or name == "none"]
    best = min(able, key=lambda name: tried[name][0])
    return Choice(best, *tried[best], tried)


def largest_share(outputs: Arrays, expected: Arrays) -> float:
    """The largest difference of any float, as a share of the largest value of its output.

    Infinite where anything but a float differs.
    """
    worst = 0.0
    for name, wanted in expected.items():
        found = outputs[name]
        if wanted.dtype.kind != "f":
            worst = worst if np.array_equal(found, wanted) else math.inf
        elif wanted.size:
            missed = np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max()
            share = float(missed) / max(float(np.abs(wanted).max()), 1e-12)
            worst = max(worst, math.inf if math.isnan(share) else share)
    return worst


def _encoded(name: str, array: NDArray[Any], codec: ActivationCodec) -> bytes:
    raw_name = name.encode()
    if not 0 < len(raw_name) <= MAX_NAME:
        raise BadTensorError(f"name {name!r} of a tensor: it must have 1 to {MAX_NAME} bytes")
    if array.dtype.name not in TYPES:
        raise BadTensorError(f"tensor {name!r} of type {array.dtype} does not travel")
    if array.ndim > MAX_RANK or _is_huge(array.shape):
        raise BadTensorError(
            f"tensor {name!r} of shape {array.shape}: at most {MAX_RANK} axes and"
            f" {MAX_NUMBERS} numbers"
        )
    wire, head = _rounded(name, array, codec)
    content = wire.astype(head.wire, copy=False).tobytes()
    packing, content = ("raw", content) if codec == "none" else _packed(content)
    kinds = (
        TYPES.index(head.dtype),
        CODECS.index(head.coding),
        _PACKINGS.index(packing),
        array.ndim,
    )
    return b"".join(
        (
            bytes([len(raw_name)]),
            raw_name,
            _TENSOR.pack(*kinds),
            struct.pack(f"<{array.ndim}I", *array.shape),
            _AFTER.pack(head.scale, head.zero, len(content)),
            content,
        )
    )


def _is_huge(shape: tuple[int, ...]) -> bool:
    return math.prod(side or 1 for side in shape) > MAX_NUMBERS


def _rounded(name: str, array: NDArray[Any], codec: ActivationCodec) -> tuple[NDArray[Any], _Head]:
    """An array in the type of the wire, with what it takes to read it."""
    plain = _Head(name, array.dtype.name, "none", "", array.shape)
    if codec == "none" or array.dtype.kind != "f" or (codec, array.dtype.itemsize) == ("fp16", 2):
        return array, plain
    if not np.isfinite(array).all():
        raise BadTensorError(f"tensor {name!r} has values that are not finite: only none holds it")
    if codec == "int8":
        return _as_int8(array, plain)
    if float(np.abs(array).max(initial=0.0)) > float(np.finfo(np.float16).max):
        raise BadTensorError(f"tensor {name!r} has values too large for fp16: take int8 or none")
    return array.astype(np.float16), msgspec.structs.replace(plain, coding="fp16")


def _as_int8(array: NDArray[Any], plain: _Head) -> tuple[NDArray[Any], _Head]:
    """255 steps from the smallest value to the largest, with zero one of them."""
    low = min(float(array.min(initial=0.0)), 0.0)
    high = max(float(array.max(initial=0.0)), 0.0)
    scale = high / _LEVELS - low / _LEVELS or 1.0
    zero = min(_LEVELS, round(-low / scale))
    steps = array.astype(_wide(array.dtype, scale))
    steps /= steps.dtype.type(scale)
    np.rint(steps, out=steps)
    steps += zero
    np.clip(steps, 0, _LEVELS, out=steps)
    head = msgspec.structs.replace(plain, coding="int8", scale=scale, zero=zero)
    return steps.astype(np.uint8), head


def _wide(dtype: "np.dtype[Any]", scale: float) -> type[np.floating[Any]]:
    """The type to reckon in: float32 where its range is enough."""
    return np.float32 if dtype != np.float64 and scale > _NARROW else np.float64


def _packed(content: bytes) -> tuple[str, bytes]:
    if len(content) < UNPACKED_BYTES:
        return "raw", content
    smallest = min(
        (_deflated(content, strategy) for strategy in (zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY)),
        key=len,
    )
    return ("deflate", smallest) if len(smallest) < len(content) else ("raw", content)


def _deflated(content: bytes, strategy: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
    return packer.compress(content) + packer.flush()


class _Reader:
    """Bytes from the front to the end."""

    def __init__(self, view: memoryview) -> None:
        self.view, self.at = view, 0

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        if self.at + count > len(self.view):
            raise MalformedMessageError("activations are cut off")
        self.at += count
        return self.view[self.at - count : self.at]

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        """The next numbers."""
        return form.unpack(self.take(form.size))


def _decoded(reader: _Reader, most: int) -> tuple[str, NDArray[Any]]:
    head, length = _read_head(reader)
    if (
        _is_huge(head.shape)
        or max(head.size, math.prod(head.shape) * np.dtype(head.dtype).itemsize) > most
    ):
        raise MalformedMessageError(
            f"activation {head.name!r} of shape {head.shape}: over the limit of all tensors"
        )
    sent = reader.take(length)
    content = _unpacked(sent, head) if head.packing == "deflate" else sent
    if len(content) != head.size:
        raise MalformedMessageError(
            f"activation {head.name!r} has {len(content)} bytes, its shape needs {head.size}"
        )
    wire = np.frombuffer(content, head.wire).reshape(head.shape)
    if head.dtype == "bool" and np.frombuffer(content, np.uint8).max(initial=0) > 1:
        raise MalformedMessageError(f"activation {head.name!r} has truth values but 0 and 1")
    return head.name, _widened(wire, head)


def _read_head(reader: _Reader) -> tuple[_Head, int]:
    (count,) = reader.take(1)
    try:
        name = bytes(reader.take(count)).decode()
    except UnicodeDecodeError as error:
        raise MalformedMessageError("the name of an activation is no text") from error
    dtype, coding, packing, rank = reader.unpack(_TENSOR)
    if dtype >= len(TYPES) or coding >= len(CODECS) or packing >= len(_PACKINGS):
        raise MalformedMessageError(f"activation {name!r} is of a kind that is not known")
    if rank > MAX_RANK or not name:
        raise MalformedMessageError(f"activation {name!r} has {rank} axes: at most {MAX_RANK}")
    shape = reader.unpack(struct.Struct(f"<{rank}I"))
    scale, zero, length = reader.unpack(_AFTER)
    head = _Head(
        name, TYPES[dtype], CODECS[coding], _PACKINGS[packing], shape, scale=scale, zero=zero
    )
    if head.coding != "none" and np.dtype(head.dtype).kind != "f":
        raise MalformedMessageError(f"activation {name!r}: only floats are rounded")
    largest = float(np.finfo(head.dtype).max) if head.coding == "int8" else math.inf
    if not (math.isfinite(scale) and 0 < scale <= largest):
        raise MalformedMessageError(f"activation {name!r} has scale {scale}")
    return head, length


def _unpacked(content: memoryview, head: _Head) -> bytes:
    """Unpack at most as much as the shape needs: a bomb does not go off."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = unpacker.decompress(content, head.size + 1)
    except zlib.error as error:
        raise MalformedMessageError(f"activation {head.name!r} does not unpack") from error
    if len(found) > head.size or not unpacker.eof or unpacker.unused_data:
        raise MalformedMessageError(f"activation {head.name!r} does not unpack to its shape")
    return found


def _widened(wire: NDArray[Any], head: _Head) -> NDArray[Any]:
    dtype = np.dtype(head.dtype)
    if head.coding != "int8":
        return wire.astype(dtype, copy=False)
    steps = wire.astype(_wide(dtype, head.scale))
    steps -= head.zero
    limit = float(np.finfo(dtype).max)
    with np.errstate(over="ignore"):
        steps *= steps.dtype.type(head.scale)
        if head.scale > limit / (2 * _LEVELS):  # the last step may lie beyond the largest number
            np.clip(steps, -limit, limit, out=steps)
        return steps.astype(dtype, copy=False)
