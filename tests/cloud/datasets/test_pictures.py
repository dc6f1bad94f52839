"""Labelled pictures are read from every layout of docs/data.md, and what is wrong is named."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from aimass_cloud.datasets import pictures
from aimass_cloud.datasets.pictures import read
from aimass_shared.errors import DataError

SIDE = 16


def pixels(value: int, *, colour: bool = False, size: tuple[int, int] = (12, 10)) -> NDArray[Any]:
    """A picture `[h, w]` or `[h, w, 3]` whose upper left corner is white."""
    made = np.full((*size[::-1], 3) if colour else size[::-1], value, np.uint8)
    made[0, 0] = 255
    return made


def encoded(picture: NDArray[Any], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


def folders(place: Path, **files: list[bytes]) -> Path:
    for name, contents in files.items():
        folder = place / name
        folder.mkdir(parents=True)
        for number, content in enumerate(contents):
            (folder / f"{number}.png").write_bytes(content)
    return place


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    first = [encoded(pixels(10)), encoded(pixels(20))]
    found = read(str(folders(tmp_path, dent=first, crack=[encoded(pixels(30), "BMP")])), SIDE)
    assert found.classes == ("crack", "dent")
    assert found.test is None
    assert found.pictures.pixels.shape == (3, 1, 10, 12)
    assert found.pictures.labels.tolist() == [0, 1, 1]
    assert found.pictures.pixels[:, 0, 5, 5].tolist() == [30, 10, 20]
    assert found.pictures.pixels[:, 0, 0, 0].tolist() == [255] * 3


def test_parts_in_folders_of_their_own(tmp_path: Path) -> None:
    for part, value in (("train", 10), ("test", 20)):
        folders(tmp_path / part, a=[encoded(pixels(value))], b=[encoded(pixels(value))] * 2)
    found = read(str(tmp_path), SIDE)
    assert found.test is not None
    assert found.pictures.labels.tolist() == found.test.labels.tolist() == [0, 1, 1]
    assert found.test.pixels[0, 0, 5, 5] == 20


def test_classes_that_are_numbers_keep_their_order(tmp_path: Path) -> None:
    files = {name: [encoded(pixels(1))] for name in ("10", "9", "other")}
    assert read(str(folders(tmp_path, **files)), SIDE).classes == ("9", "10", "other")


@pytest.mark.parametrize("colour", [False, True])
def test_arrays_of_pixels(tmp_path: Path, colour: bool) -> None:  # noqa: FBT001  a parameter
    stack = np.stack([pixels(value, colour=colour) for value in (1, 2, 3)])
    np.savez(tmp_path / "a.npz", x=stack, y=[1, 0, 1], classes=["good", "bad"])
    found = read(str(tmp_path / "a.npz"), SIDE)
    assert found.classes == ("bad", "good")
    assert found.pictures.labels.tolist() == [0, 1, 0]
    assert found.pictures.pixels.shape == (3, 3 if colour else 1, 10, 12)
    assert found.pictures.pixels[:, -1, 5, 5].tolist() == [1, 2, 3]


def test_arrays_in_two_parts(tmp_path: Path) -> None:
    stack = np.stack([pixels(value)[..., None] for value in (1, 2)])
    np.savez(tmp_path / "a.npz", x_train=stack, y_train=[0, 1], x_test=stack[:1], y_test=[1])
    found = read(str(tmp_path), SIDE)
    assert found.classes == ("0", "1")
    assert found.test is not None
    assert found.test.labels.tolist() == [1]


def test_files_behind_each_other_in_an_array(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"classes": ["a", "b"]}
    for part in ("train", "test"):
        files = [encoded(pixels(value, colour=True), "JPEG") for value in (50, 90)]
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{part}_offset"] = np.cumsum([0, *map(len, files)])
        arrays[f"{part}_label"] = np.array([0, 1], np.uint8)
    np.savez(tmp_path / "a.npz", **arrays)
    found = read(str(tmp_path / "a.npz"), SIDE)
    assert found.pictures.pixels.shape == (2, 3, 10, 12)
    assert found.pictures.pixels[:, 0, 8, 8] == pytest.approx([50, 90], abs=3)
    assert found.test is not None


@pytest.mark.parametrize("nested", [False, True])
def test_parquet(tmp_path: Path, nested: bool) -> None:  # noqa: FBT001  a parameter
    files = [encoded(pixels(value)) for value in (1, 2, 3)]
    images = [{"bytes": file, "path": "x.png"} for file in files] if nested else files
    table = pa.table({"image": images, "label": ["b", "a", "b"]})
    pq.write_table(table, tmp_path / "part-0.parquet", row_group_size=2)
    found = read(str(tmp_path), SIDE)
    assert found.classes == ("a", "b")
    assert found.pictures.pixels[:, 0, 5, 5].tolist() == [1, 2, 3]


def test_all_pictures_get_the_size_of_the_first_which_is_not_too_large(tmp_path: Path) -> None:
    first, second = encoded(pixels(9, size=(200, 100))), encoded(pixels(9, size=(30, 30)))
    found = read(str(folders(tmp_path, a=[first, second], b=[second])), 64)
    assert found.pictures.pixels.shape == (3, 1, 32, 64)
    assert found.pictures.pixels[:, 0, 20, 20].tolist() == [9, 9, 9]


def test_gray_among_coloured_becomes_coloured_and_16_bits_become_8(tmp_path: Path) -> None:
    deep = np.full((10, 12), 77 << 8, np.uint16)
    gray = read(str(folders(tmp_path / "1", a=[encoded(deep)], b=[encoded(pixels(5))])), SIDE)
    assert gray.pictures.pixels[:, :, 5, 5].tolist() == [[77], [5]]
    both = folders(tmp_path / "2", a=[encoded(pixels(5))], b=[encoded(pixels(6, colour=True))])
    assert read(str(both), SIDE).pictures.pixels[:, :, 5, 5].tolist() == [[5] * 3, [6] * 3]


def test_what_does_not_fit_into_memory_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(folders(tmp_path, a=[encoded(pixels(1))] * 2, b=[encoded(pixels(2))]))
    kept = read(place, SIDE)
    monkeypatch.setattr(pictures, "MOST_IN_MEMORY", 100)
    mapped = read(place, SIDE)
    assert isinstance(mapped.pictures.pixels, np.memmap)
    assert np.array_equal(mapped.pictures.pixels, kept.pictures.pixels)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    good = encoded(pixels(1))
    noise = np.random.default_rng(0).integers(0, 256, (20, 20)).astype(np.uint8)
    cases: dict[str, tuple[Path, str]] = {
        "nothing": (tmp_path / "none", "no file or folder"),
        "empty": (folders(tmp_path / "empty", a=[]), "holds no pictures"),
        "one class": (folders(tmp_path / "one", a=[good]), "at least 2"),
        "damaged": (
            folders(tmp_path / "bad", a=[good], b=[encoded(noise)[:200]]),
            "b/0.png is no whole",
        ),
        "no picture": (folders(tmp_path / "text", a=[good], b=[b"x"]), "b/0.png is no whole"),
    }
    parts = tmp_path / "parts"
    folders(parts / "train", a=[good], b=[good])
    cases["unknown class"] = folders(parts / "test", c=[good]).parent, "the class 'c'"
    for place, told in cases.values():
        with pytest.raises(DataError, match=told):
            read(str(place), SIDE)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.zeros((2, 4, 4), np.float32), "y": [0, 1]}, "must be uint8"),
        ({"x": np.zeros((2, 4, 4, 7), np.uint8), "y": [0, 1]}, "c 1 or 3"),
        ({"x": np.zeros((2, 4, 4), np.uint8)}, "lacks the array 'y'"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": [0, 1, 1]}, "2 pictures and 3 labels"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": [0, 2], "classes": ["a", "b"]}, "class 2"),
        ({"z": np.zeros(3)}, "x and y"),
    ],
)
def test_arrays_of_another_layout_are_refused(
    tmp_path: Path, arrays: dict[str, Any], told: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=told):
        read(str(tmp_path / "a.npz"), SIDE)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"not an archive")
    (tmp_path / "a.csv").write_text("1,2")
    pq.write_table(pa.table({"image": [b""]}), tmp_path / "a.parquet")
    told = {"a.npz": "does not load", "a.csv": "is no folder", "a.parquet": "lacks the column"}
    for name, words in told.items():
        with pytest.raises(DataError, match=words):
            read(str(tmp_path / name), SIDE)


def test_a_row_without_a_picture_is_named(tmp_path: Path) -> None:
    table = pa.table({"image": [encoded(pixels(1)), None], "label": ["a", "b"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 2 is no whole picture"):
        read(str(tmp_path / "a.parquet"), SIDE)
