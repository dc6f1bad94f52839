"""Pairs of texts with a score: from a table, or from a folder with a table for each part.

docs/data.md has the layout. Whatever scores there are, `Scale` says how they lie between 0 and 1.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets import tables
from aimass_cloud.datasets.places import PARQUET, Place, located
from aimass_cloud.datasets.tables import Table
from aimass_shared.errors import DataError

ONE: Final = ("a", "sentence_a", "sentence1", "sentence_1", "text1", "text_a", "s1", "#1 string")
OTHER: Final = ("b", "sentence_b", "sentence2", "sentence_2", "text2", "text_b", "s2", "#2 string")
SCORE: Final = (
    *("score", "relatedness_score", "relatedness", "similarity", "match", "label"),
    *("is_duplicate", "gold", "quality"),
)
"""Names of columns, the likeliest first; case does not matter."""
PARTS: Final = {
    "train": "train",
    "training": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev", "trial"), "calibration"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Words in the name of a file, and the part that it is of."""
HELD_BACK, TESTED = 0.1, 0.2
"""Shares of the rows for the parts that have no file."""
FEWEST = 10

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Some pairs: `a[i]` and `b[i]` are scored `score[i]`."""

    a: Sequence[str]
    b: Sequence[str]
    score: Floats

    def __len__(self) -> int:
        """How many."""
        return len(self.score)

    def rows(self, chosen: NDArray[np.int64]) -> "Pairs":
        """Some of the pairs, by number."""
        a, b = ([texts[row] for row in chosen] for texts in (self.a, self.b))
        return Pairs(a, b, self.score[chosen])


class PairParts(NamedTuple):
    """Pairs by what they are for."""

    train: Pairs
    calibration: Pairs
    test: Pairs


class Scale(NamedTuple):
    """The range of the scores. `labels`: they are 0 or 1 and nothing between."""

    low: float
    high: float
    labels: bool

    def share(self, score: Floats) -> Floats:
        """Where scores lie in the range, 0 to 1."""
        return np.clip((score - self.low) / (self.high - self.low), 0.0, 1.0)


def read(address: str, *, seed: int) -> PairParts:
    """The pairs of a file or a folder; parts without a file are drawn from the training rows.

    Raises:
        DataError: it is not of the layout, or there are too few pairs.
        DownloadFailedError: the store does not answer.
    """
    place = located(address)
    by_part = _files(place)
    found = {part: _joined([_one(file) for file in files]) for part, files in by_part.items()}
    parts = _completed(found, seed)
    if few := [name for name, part in parts._asdict().items() if len(part) < FEWEST]:
        raise DataError(f"{place}: fewer than {FEWEST} pairs for {few[0]}; give more rows")
    return parts


def scale_of(score: Floats, where: object) -> Scale:
    """The range of training scores, between whole numbers.

    Raises:
        DataError: all scores are the same.
    """
    if score.min() == score.max():
        raise DataError(f"{where}: all scores are {score[0]:g}, there is nothing to learn")
    labels = bool(np.isin(score, (0.0, 1.0)).all())
    return Scale(float(np.floor(score.min())), float(np.ceil(score.max())), labels)


def _files(place: Place) -> Mapping[str, list[Place]]:
    """The tables of each part; all are for training if none is named after a part."""
    named: dict[str, list[Place]] = {}
    for file in place.tables:
        words = [PARTS[word] for word in re.split(r"[^a-z]+", file.stem.lower()) if word in PARTS]
        for part in words[-1:]:
            named.setdefault(part, []).append(file)
    return named if "train" in named and place.is_folder else {"train": list(place.tables)}


def _completed(found: Mapping[str, Pairs], seed: int) -> PairParts:
    left = np.random.default_rng(seed).permutation(len(found["train"]))
    parts = dict(found)
    for part, share in (("test", TESTED), ("calibration", HELD_BACK)):
        if part not in found:
            count = round(share * len(found["train"]))
            parts[part], left = found["train"].rows(left[:count]), left[count:]
    return PairParts(found["train"].rows(np.sort(left)), parts["calibration"], parts["test"])


def _joined(pieces: Sequence[Pairs]) -> Pairs:
    a = [text for piece in pieces for text in piece.a]
    b = [text for piece in pieces for text in piece.b]
    return Pairs(a, b, np.concatenate([piece.score for piece in pieces]))


def _one(file: Place) -> Pairs:
    """The pairs of a table; rows without a score are left out."""
    table, (one, other, score) = _table(file)
    scores = tables.numbers(table, [score], file)[:, 0].astype(np.float64)
    kept = np.flatnonzero(np.isfinite(scores))
    a, b = ([str(table[name][row]) for row in kept] for name in (one, other))
    return Pairs(a, b, scores[kept])


def _table(file: Place) -> tuple[Table, tuple[str, str, str]]:
    """A table, and the names of its columns for both texts and the score."""
    if file.ending == PARQUET:
        table = tables.read(file)
        return table, _roles(list(table), file)
    names = _header(file)
    if _found(names, ONE) is None or _found(names, OTHER) is None:
        table = tables.read(file, header=False)
        return table, _guessed(table, file)
    roles = _roles(names, file)
    return tables.read(file, header=True, text=roles[:2]), roles


def _header(file: Place) -> list[str]:
    """The cells of the first line."""
    raw = file.content(tables.MOST_BYTES)[: tables.SAMPLE_BYTES]
    lines = [line for line in raw.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{file} is empty")
    separator = tables.form_of(lines[: tables.SAMPLE_LINES]).separator
    return [cell.strip().strip('"') for cell in lines[0].split(separator)]


def _roles(names: Sequence[str], file: Place) -> tuple[str, str, str]:
    found = [_found(names, role) for role in (ONE, OTHER, SCORE)]
    if None in found:
        raise DataError(
            f"{file} has the columns {', '.join(names)[:200]}; name those of a pair a, b and score"
        )
    one, other, score = (str(name) for name in found)
    return one, other, score


def _found(names: Sequence[str], role: Sequence[str]) -> str | None:
    by_lower = {name.lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in role if name in by_lower), None)


def _guessed(table: Table, file: Place) -> tuple[str, str, str]:
    """Columns without a header: the two longest texts, and the numbers that are likest a score."""
    texts = [name for name, column in table.items() if column.dtype.kind == "O"]
    texts = sorted(texts, key=lambda name: -sum(map(len, table[name])))[:2]
    counts = {
        name: (column.dtype.kind != "f", len(np.unique(column)))
        for name, column in table.items()
        if column.dtype.kind in "fiu"
    }
    scores = sorted((name for name in counts if counts[name][1] > 1), key=lambda name: counts[name])
    if len(texts) < 2 or not scores:  # noqa: PLR2004  both sides of a pair
        raise DataError(
            f"{file} has not two columns of texts and one of scores; give it a header with the "
            "names a, b and score"
        )
    one, other = sorted(texts, key=list(table).index)
    return one, other, scores[0]
