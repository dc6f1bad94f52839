"""BYTES tensors of the Open Inference Protocol v2: arrays of `str`, UTF-8 on the wire.

As bytes, each element is its length (4 bytes, little-endian) and its text, in row-major order: the
binary tensor data extension of Triton. In numpy it is an array of objects, all of them `str`.
"""

import struct
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadTensorError

TEXT = np.dtype(object)
Texts = NDArray[np.object_]
_LENGTH = struct.Struct("<I")


def packed(name: str, texts: Iterable[object]) -> bytes:
    """The bytes of a tensor of texts, in the order that they come in.

    Raises:
        BadTensorError: an element is no text, or one that UTF-8 cannot carry.
    """
    parts: list[bytes] = []
    for text in texts:
        raw = _utf8(name, text)
        parts += (_LENGTH.pack(len(raw)), raw)
    return b"".join(parts)


def _utf8(name: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise BadTensorError(f"tensor `{name}`: an element is a {type(text).__name__}, not a text")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadTensorError(f"tensor `{name}`: a text cannot be sent: {error}") from error


def unpacked(name: str, count: int, chunk: memoryview) -> Texts:
    """`count` texts out of their bytes, flat.

    Raises:
        BadTensorError: there are more or fewer, or one is not UTF-8.
    """
    if count * _LENGTH.size > len(chunk):  # before anything of that size is made
        raise _miscounted(name, count, chunk)
    texts: Texts = np.empty(count, TEXT)
    offset = 0
    for index in range(count):
        texts[index], offset = _next(name, count, chunk=chunk, offset=offset)
    if offset != len(chunk):
        raise _miscounted(name, count, chunk)
    return texts


def _next(name: str, count: int, *, chunk: memoryview, offset: int) -> tuple[str, int]:
    start = offset + _LENGTH.size
    if start > len(chunk):
        raise _miscounted(name, count, chunk)
    end = start + int(_LENGTH.unpack_from(chunk, offset)[0])
    if end > len(chunk):
        raise _miscounted(name, count, chunk)
    try:
        return str(chunk[start:end], "utf-8"), end
    except UnicodeDecodeError as error:
        raise BadTensorError(f"tensor `{name}`: a text is not UTF-8: {error}") from error


def _miscounted(name: str, count: int, chunk: memoryview) -> BadTensorError:
    return BadTensorError(
        f"tensor `{name}`: {len(chunk)} bytes are not {count} texts, each after its length in 4"
        " bytes, little-endian"
    )
