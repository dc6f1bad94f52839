"""Where labelled pictures lie: a folder for each class, Parquet tables, or `.npz` files.

A shelf knows the labels at once and gives the contents one after the other, not yet decoded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aimass_cloud.datasets.places import PARQUET, Place
from aimass_shared.errors import DataError

ENDINGS: Final = (".png", ".jpg", ".jpeg", ".bmp")
NPZ: Final = ".npz"
TRAIN, TEST = "train", "test"
BATCH_ROWS: Final = 256
MOST_FILE_BYTES: Final = 64 << 20

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Content:
    """One picture: an encoded file, or pixels `[h, w]` or `[h, w, c]`; `where` is for messages."""

    value: bytes | NDArray[np.uint8]
    where: str


@dataclass(frozen=True, eq=False)
class Shelf:
    """Labelled pictures of one part; `contents` reads them, in the order of the labels."""

    where: str
    labels: Sequence[str]
    contents: Callable[[], Iterator[Content]]


def parts_of(place: Place) -> tuple[Shelf, Shelf | None]:
    """The pictures of a place, and those of them that are for the test, where they are apart.

    Raises:
        DataError: there is nothing, or not of a known layout.
    """
    if not place.is_folder:
        return _of_file(place)
    train, test = place.find(TRAIN), place.find(TEST)
    if train is not None and test is not None:
        return _one(train), _one(test)
    single = [entry for entry in place.entries if entry.ending == NPZ]
    return _of_file(single[0]) if len(single) == 1 else (_one(place), None)


def _of_file(place: Place) -> tuple[Shelf, Shelf | None]:
    if place.ending != NPZ:
        return _one(place), None
    parts = _of_arrays(_loaded(place), place)
    if set(parts) == {TRAIN, TEST}:
        return parts[TRAIN], parts[TEST]
    if len(parts) != 1:
        raise DataError(
            f"{place} holds no pictures: x and y, or train_jpeg, train_offset and so on"
        )
    return next(iter(parts.values())), None


def _one(place: Place) -> Shelf:
    """The pictures of a file or folder that is one part."""
    if not place.is_folder:
        if place.ending == PARQUET:
            return _of_tables([place], place)
        if place.ending == NPZ:
            return _of_file(place)[0]
        raise DataError(f"{place} is no folder, no {NPZ} and no {PARQUET} file")
    tables = [entry for entry in place.entries if entry.ending == PARQUET]
    return _of_tables(tables, place) if tables else _of_folders(place)


def _of_folders(place: Place) -> Shelf:
    files = [
        (file, folder.name)
        for folder in place.entries
        if folder.is_folder
        for file in folder.entries
        if file.ending in ENDINGS
    ]
    if not files:
        raise DataError(
            f"{place} holds no pictures; it must hold a folder for each class with PNG, JPEG or"
            f" BMP files, or one {NPZ} file, or {PARQUET} files"
        )

    def contents() -> Iterator[Content]:
        for file, _ in files:
            yield Content(file.content(MOST_FILE_BYTES), str(file))

    return Shelf(str(place), [label for _, label in files], contents)


def _of_tables(tables: Sequence[Place], place: Place) -> Shelf:
    """Parquet with columns `image` (bytes, or a struct with a field `bytes`) and `label`."""
    labels = [label for table in tables for label in _labels(table)]

    def contents() -> Iterator[Content]:
        for table in tables:
            for row, value in enumerate(_images(table)):
                yield Content(value, f"{table}, row {row + 1}")

    return Shelf(str(place), labels, contents)


def _labels(table: Place) -> list[str]:
    with table.opened() as file:
        parquet = pq.ParquetFile(file)
        if lacking := {"image", "label"} - set(parquet.schema_arrow.names):
            raise DataError(f"{table} lacks the column {min(lacking)!r}; it has image and label")
        values = parquet.read(["label"], use_threads=False)["label"].to_pylist()
    if None in values:
        raise DataError(f"{table}, row {values.index(None) + 1}: the label is missing")
    return [str(value) for value in values]


def _images(table: Place) -> Iterator[bytes]:
    with table.opened() as file:
        batches = pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=["image"])
        for batch in batches:
            column = batch.column("image")
            if pa.types.is_struct(column.type):
                column = column.field("bytes")
            for value in column.to_pylist():
                yield value if isinstance(value, bytes) else b""


def _loaded(place: Place) -> Arrays:
    try:
        with place.opened() as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{place} does not load without pickle: {error}") from error


def _of_arrays(arrays: Arrays, place: Place) -> dict[str, Shelf]:
    """Shelves by part; the part is "" where the names say none."""
    names = [str(name) for name in arrays["classes"]] if "classes" in arrays else None
    parts: dict[str, Shelf] = {}
    for part in ("", TRAIN, TEST):
        start, end = (f"{part}_", f"_{part}") if part else ("", "")
        values: Any
        if f"{start}jpeg" in arrays:
            values, numbers = _encoded(arrays, start, place)
        elif f"x{end}" in arrays:
            values, numbers = _pixels(arrays, end, place)
        else:
            continue
        parts[part] = _shelf(values, _named(numbers, names, place), place)
    return parts


def _shelf(values: Sequence[Any], labels: Sequence[str], place: Place) -> Shelf:
    if len(values) != len(labels):
        raise DataError(f"{place} has {len(values)} pictures and {len(labels)} labels")

    def contents() -> Iterator[Content]:
        for row in range(len(values)):
            yield Content(values[row], f"{place}, picture {row + 1}")

    return Shelf(str(place), labels, contents)


def _encoded(arrays: Arrays, start: str, place: Place) -> tuple[Sequence[bytes], NDArray[Any]]:
    """Files behind each other, as `*_jpeg` with the `*_offset` of each and of the end."""
    offset = _held(arrays, f"{start}offset", place)
    raw = arrays[f"{start}jpeg"].astype(np.uint8, copy=False).tobytes()
    values = [raw[at:end] for at, end in pairwise(offset)]
    return values, _held(arrays, f"{start}label", place)


def _pixels(arrays: Arrays, end: str, place: Place) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    values = arrays[f"x{end}"]
    flat, coloured = values.ndim == 3, values.ndim == 4 and values.shape[-1] in (1, 3)  # noqa: PLR2004
    if values.dtype != np.uint8 or not (flat or coloured):
        raise DataError(
            f"{place}: x{end} is {values.dtype} of shape {values.shape}; it must be uint8,"
            " [n, h, w] or [n, h, w, c] with c 1 or 3"
        )
    return values, _held(arrays, f"y{end}", place)


def _held(arrays: Arrays, name: str, place: Place) -> NDArray[Any]:
    if name not in arrays:
        raise DataError(f"{place} lacks the array {name!r}; it has {', '.join(sorted(arrays))}")
    return arrays[name].reshape(-1)


def _named(numbers: NDArray[Any], names: Sequence[str] | None, place: Place) -> list[str]:
    if names is None or numbers.dtype.kind not in "iu":
        return [str(value) for value in numbers]
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(names):
        raise DataError(f"{place} has the class {numbers.max()}, but {len(names)} classes")
    return [names[number] for number in numbers]
