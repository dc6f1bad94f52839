"""How inputs and activations travel in the bench: plain, halves, int8, pictures as JPEG."""

import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 90
FLOATS: Final = {np.dtype("float32"), np.dtype("float64")}
Array = NDArray[Any]


@dataclass(frozen=True)
class Codec:
    """How an array travels: `pack` to bytes, `unpack` to what arrives."""

    pack: Callable[[Array], bytes]
    unpack: Callable[[bytes, Array], Array]


def _int8(array: Array) -> bytes:
    scale = np.float32(max(float(np.abs(array).max()), 1e-12) / 127)
    return scale.tobytes() + zlib.compress(np.rint(array / scale).astype(np.int8).tobytes(), 1)


def _from_int8(raw: bytes, like: Array) -> Array:
    scale = np.frombuffer(raw[:4], np.float32)[0]
    found = np.frombuffer(zlib.decompress(raw[4:]), np.int8).reshape(like.shape)
    values: Array = (found * scale).astype(like.dtype)
    return values


def _small(array: Array) -> Array:
    """Floats as halves; identifiers as 16 bits where they fit."""
    if array.dtype in FLOATS:
        return array.astype(np.float16)
    return array.astype(np.uint16) if array.min() >= 0 and array.max() < 1 << 16 else array


def _from_half(raw: bytes, like: Array) -> Array:
    found = np.frombuffer(zlib.decompress(raw), _small(like).dtype)
    return found.reshape(like.shape).astype(like.dtype)


def _jpeg(array: Array) -> bytes:
    """Pictures `[batch, channels, height, width]` of 0 to 1, one under the other."""
    stacked = np.concatenate(np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8), axis=1)
    buffer = io.BytesIO()
    Image.fromarray(stacked.transpose(1, 2, 0).squeeze()).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _from_jpeg(raw: bytes, like: Array) -> Array:
    batch, channels, height, width = like.shape
    pixels = np.asarray(Image.open(io.BytesIO(raw)), np.uint8)
    pictures = pixels.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pictures, dtype=like.dtype) / np.float32(255)


CODECS: Final[Mapping[str, Codec]] = {
    "none": Codec(lambda array: array.tobytes(), lambda _raw, like: like),
    "f16+zlib": Codec(lambda array: zlib.compress(_small(array).tobytes(), 1), _from_half),
    "int8+zlib": Codec(_int8, _from_int8),
    "jpeg": Codec(_jpeg, _from_jpeg),
}


def suits(codec: str, arrays: Mapping[str, Array]) -> bool:
    """Whether a codec is for such arrays."""
    floats = all(array.dtype in FLOATS for array in arrays.values())
    pictures = all(array.shape[1:2] in {(1,), (3,)} for array in arrays.values())
    return {"int8+zlib": floats, "jpeg": floats and pictures}.get(codec, True)
