"""Which number formats an ONNX file computes in, read from the file itself: devices have no `onnx`.

A walk over the few fields that tell it (onnx.proto3): nothing is copied, unknown fields are passed
over. Formats within subgraphs are not looked for.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from aimass_shared.errors import ModelLoadFailedError

GRAPH = 7
NODE, INITIALIZER = 1, 5
OP_TYPE = 4
DATA_TYPE = 2
FLOAT, FLOAT16 = 1, 10
QUANTIZED = (b"QuantizeLinear", b"DequantizeLinear")
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
PAYLOAD, MORE = 0x7F, 0x80
MOST_SHIFT = 63


def formats_of(path: Path) -> tuple[str, ...]:
    """The formats of a file's weights and operators, out of "fp16", "fp32" and "int8".

    Raises:
        ModelLoadFailedError: it cannot be read, or is no ONNX file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            return tuple(sorted(set(_formats(raw))))
    except (OSError, ValueError, IndexError) as error:
        raise ModelLoadFailedError(f"{path.name} cannot be read as ONNX: {error}") from error


def _formats(raw: mmap.mmap) -> Iterator[str]:
    for number, graph in _fields(raw, range(len(raw))):
        if number != GRAPH or isinstance(graph, int):
            continue
        for kind, piece in _fields(raw, graph):
            if isinstance(piece, int):
                continue
            if kind == NODE and _is_quantized(raw, piece):
                yield "int8"
            if kind == INITIALIZER:
                yield from _format_of(raw, piece)


def _is_quantized(raw: mmap.mmap, node: range) -> bool:
    return any(
        number == OP_TYPE
        and not isinstance(piece, int)
        and raw[piece.start : piece.stop] in QUANTIZED
        for number, piece in _fields(raw, node)
    )


def _format_of(raw: mmap.mmap, tensor: range) -> Iterator[str]:
    for number, value in _fields(raw, tensor):
        if number == DATA_TYPE:
            if value == FLOAT:
                yield "fp32"
            if value == FLOAT16:
                yield "fp16"
            return


def _fields(raw: mmap.mmap, message: range) -> Iterator[tuple[int, "range | int"]]:
    """Number and value of each field: whole numbers, and where bytes are."""
    at, end = message.start, message.stop
    while at < end:
        tag, at = _varint(raw, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(raw, at)
            yield number, value
        elif wire == BYTES:
            size, at = _varint(raw, at)
            if at + size > end:
                raise ValueError("a field is longer than what it is in")
            yield number, range(at, at + size)
            at += size
        elif wire in {FIXED64, FIXED32}:
            at += 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")


def _varint(raw: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & PAYLOAD) << shift
        if byte < MORE:
            return value, at
        shift += 7
        if shift > MOST_SHIFT:
            raise ValueError("a number without an end")
