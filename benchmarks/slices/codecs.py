"""Pictures as JPEG, beside the product's codecs: many cameras give it for nothing."""

import io
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aimass_cloud.slicing.profiling import Packing

QUALITY: Final = 90
CHANNELS: Final = (1, 3)
Array = NDArray[Any]


def jpeg(like: Mapping[str, Array]) -> Packing | None:
    """A packing of pictures `[batch, channels, height, width]` of 0 to 1; None for anything else.

    Args:
        like: arrays of a request, which all others are like.
    """
    if len(like) != 1:
        return None
    (name,) = like
    shape = like[name].shape
    if like[name].dtype != np.float32 or shape[1:2] not in {(one,) for one in CHANNELS}:
        return None
    return Packing(
        lambda arrays: to_jpeg(arrays[name]),
        lambda raw: {name: from_jpeg(raw, shape[1:])},
    )


def to_jpeg(array: Array) -> bytes:
    """Pictures, one under the other."""
    stacked = np.concatenate(np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8), axis=1)
    buffer = io.BytesIO()
    Image.fromarray(stacked.transpose(1, 2, 0).squeeze()).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def from_jpeg(raw: bytes, shape: tuple[int, ...]) -> Array:
    """The pictures again, each `[channels, height, width]`."""
    channels, height, width = shape
    pixels = np.asarray(Image.open(io.BytesIO(raw)), np.uint8)
    pictures = pixels.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pictures, dtype=np.float32) / np.float32(255)
