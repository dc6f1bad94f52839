"""Labelled pictures of any of the layouts of docs/data.md, as arrays of one size.

Pictures are decoded once. What is over `MOST_IN_MEMORY` lies in a temporary file that is mapped
into memory, so that training on it needs no more memory than on a small set.
"""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aimass_cloud.datasets.places import Place, located
from aimass_cloud.datasets.shelves import Content, Shelf, parts_of
from aimass_shared.errors import DataError

MOST_IN_MEMORY: Final = 512 << 20
FORMATS: Final = ("PNG", "JPEG", "BMP")
PEEKED: Final = 64
KEPT_SIDE, GRID = 32, 8
"""Sides up to the first are kept, longer ones are made a multiple of the second."""

Pixels = NDArray[np.uint8]
Shape = tuple[int, int, int]
Mode = Literal["L", "RGB"]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures `[n, C, H, W]` with the number of each one's class `[n]`."""

    pixels: Pixels
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class PictureSet:
    """What a person gave: classes by number, pictures, and those kept for the test, if any."""

    classes: tuple[str, ...]
    pictures: Pictures
    test: Pictures | None


def read(address: str | Place, side: int) -> PictureSet:
    """Pictures of one size: that of the first, but with no side longer than `side`.

    They are gray if the first ones are, else in colour.

    Raises:
        DataError: there is nothing, or not of a known layout; the detail names file and place.
        DownloadFailedError: the store does not answer.
    """
    training, test = parts_of(located(address))
    classes = _classes(training.labels, str(address))
    first, contents = _peeked(training.contents())
    mode, shape = _form(first, side)
    taken = _taken(training, contents, classes, mode=mode, shape=shape)
    if test is None:
        return PictureSet(classes, taken, None)
    return PictureSet(
        classes, taken, _taken(test, test.contents(), classes, mode=mode, shape=shape)
    )


def _classes(labels: Sequence[str], where: str) -> tuple[str, ...]:
    found = sorted(
        set(labels), key=lambda name: (0, int(name), "") if _is_number(name) else (1, 0, name)
    )
    if len(found) < 2:  # noqa: PLR2004  nothing to choose between
        raise DataError(f"{where} has pictures of {len(found)} class; at least 2 are needed")
    return tuple(found)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _peeked(contents: Iterable[Content]) -> tuple[list[Image.Image], Iterator[Content]]:
    """The first pictures, and all of them."""
    rest = iter(contents)
    first = list(islice(rest, PEEKED))
    return [_opened(content) for content in first], chain(first, rest)


def _form(first: Sequence[Image.Image], side: int) -> tuple[Mode, Shape]:
    gray = all(picture.mode in ("1", "L", "LA") or picture.mode[0] in "IF" for picture in first)
    mode: Mode = "L" if gray else "RGB"
    width, height = first[0].size
    shrunk = min(1.0, side / max(width, height))
    return mode, (1 if gray else 3, _fitting(height * shrunk), _fitting(width * shrunk))


def _fitting(side: float) -> int:
    """A side that can be halved several times."""
    whole = max(1, round(side))
    return whole if whole <= KEPT_SIDE else GRID * max(1, round(whole / GRID))


def _taken(
    shelf: Shelf, contents: Iterable[Content], classes: Sequence[str], *, mode: Mode, shape: Shape
) -> Pictures:
    numbers = {name: number for number, name in enumerate(classes)}
    if odd := sorted(set(shelf.labels) - set(classes)):
        raise DataError(f"{shelf.where} has the class {odd[0]!r}, which has no training pictures")
    labels = np.array([numbers[label] for label in shelf.labels], np.int64)
    pixels = _room((len(labels), *shape))
    for at, content in enumerate(contents):
        pixels[at] = _pixels(content, mode, shape)
    return Pictures(pixels, labels)


def _room(shape: tuple[int, ...]) -> Pixels:
    """Memory, or a file that goes when the array does."""
    if np.prod(shape) <= MOST_IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _pixels(content: Content, mode: Mode, shape: Shape) -> Pixels:
    """A picture `[C, H, W]`, squeezed to the size of the others if it has another."""
    channels, height, width = shape
    picture = _opened(content)
    picture.draft(mode, (width, height))
    picture = _told(content, lambda: _eight_bit(picture).convert(mode))
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)


def _opened(content: Content) -> Image.Image:
    value = content.value
    if isinstance(value, bytes):
        return _told(content, lambda: Image.open(io.BytesIO(value), formats=FORMATS))
    return Image.fromarray(value[..., 0] if value.shape[2:] == (1,) else value)


def _eight_bit(picture: Image.Image) -> Image.Image:
    """A picture with 16 bits a pixel, as some cameras write, with its upper 8."""
    if picture.mode[0] != "I":
        return picture
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def _told(content: Content, act: Callable[[], Any]) -> Image.Image:
    try:
        picture: Image.Image = act()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{content.where} is no whole picture of a known format (PNG, JPEG, BMP): {error}"
        ) from error
    return picture
