"""Which number formats an ONNX file computes in, read from the file itself: devices have no `onnx`.

A walk over the few fields that tell it (onnx.proto3): nothing is copied, unknown fields are passed
over. Formats within subgraphs are not looked for.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from aimass_shared.errors import ModelLoadFailedError

Piece = memoryview

GRAPH = 7
NODE, INITIALIZER, INPUT = 1, 5, 11
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
            view = memoryview(raw)
            try:
                return tuple(sorted(set(_formats(view))))
            finally:
                view.release()
    except (OSError, ValueError, IndexError) as error:
        raise ModelLoadFailedError(f"{path.name} cannot be read as ONNX: {error}") from error


def _formats(model: Piece) -> Iterator[str]:
    for number, graph in _fields(model):
        if number != GRAPH or isinstance(graph, int):
            continue
        for kind, piece in _fields(graph):
            if isinstance(piece, int):
                continue
            if kind == NODE and _is_quantized(piece):
                yield "int8"
            if kind == INITIALIZER:
                yield from _format_of(piece)


def _is_quantized(node: Piece) -> bool:
    return any(
        number == OP_TYPE and not isinstance(piece, int) and bytes(piece) in QUANTIZED
        for number, piece in _fields(node)
    )


def _format_of(tensor: Piece) -> Iterator[str]:
    for number, value in _fields(tensor):
        if number == DATA_TYPE:
            if value == FLOAT:
                yield "fp32"
            if value == FLOAT16:
                yield "fp16"
            return


def _fields(message: Piece) -> Iterator[tuple[int, "Piece | int"]]:
    """Number and value of each field: whole numbers, and bytes as views."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif wire == BYTES:
            size, at = _varint(message, at)
            yield number, message[at : at + size]
            at += size
        elif wire in {FIXED64, FIXED32}:
            at += 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
    if at > len(message):
        raise ValueError("a field is longer than the file")


def _varint(message: Piece, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & PAYLOAD) << shift
        if byte < MORE:
            return value, at
        shift += 7
        if shift > MOST_SHIFT:
            raise ValueError("a number without an end")
