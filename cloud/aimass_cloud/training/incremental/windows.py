"""Rows that a learner has seen: some to learn from, the end of each shard to judge on."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import DataError

JUDGED = 512

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Shelf:
    """One shard.

    Attributes:
        name: of its file. rows: `[T, S]` in units, missing ones not a number.
        starts: first rows of the windows to learn from. judged: of those to judge on.
    """

    name: str
    rows: Floats
    starts: NDArray[np.int64]
    judged: NDArray[np.int64]


def shelf_of(name: str, rows: Floats, length: int, *, held_back: float) -> Shelf:
    """A shard with its end held back; no window to learn from reaches into it.

    Raises:
        DataError: it is too short for both.
    """
    end = len(rows) - max(length, round(held_back * len(rows)))
    starts = np.arange(0, end - length + 1)
    if not len(starts):
        raise DataError(f"{name} has {len(rows)} rows, too few: at least {2 * length} are needed")
    return Shelf(name, rows, starts, np.arange(end, len(rows) - length + 1)[-JUDGED:])


def cut(shelf: Shelf, starts: NDArray[np.int64], length: int) -> tuple[Floats, Floats]:
    """Values and mask `[n, length, S]` of windows; a missing value is 0 and its mask is 0."""
    values = shelf.rows[starts[:, None] + np.arange(length)]
    mask = np.isfinite(values)
    return np.where(mask, values, 0.0).astype(np.float32), mask.astype(np.float32)


def drawn(
    shelves: list[Shelf], random: np.random.Generator, *, batch: int, newest: float, length: int
) -> tuple[Floats, Floats]:
    """A batch of windows: a share of the newest shard, the rest from all others alike."""
    last, others = shelves[-1], shelves[:-1]
    own = batch if not others else max(1, round(newest * batch))
    parts = [cut(last, random.choice(last.starts, own), length)]
    sizes = np.array([len(shelf.starts) for shelf in others], float)
    if others and batch > own:
        counts = random.multinomial(batch - own, sizes / sizes.sum())
        parts += [
            cut(shelf, random.choice(shelf.starts, count), length)
            for shelf, count in zip(others, counts, strict=True)
            if count
        ]
    values, mask = (np.concatenate(each) for each in zip(*parts, strict=True))
    return values, mask


def kept(shelves: Iterable[Shelf], max_rows: int) -> list[Shelf]:
    """The newest shards that fit into memory, oldest first; the newest one in any case."""
    result: list[Shelf] = []
    rows = 0
    for shelf in reversed(list(shelves)):
        rows += len(shelf.rows)
        if result and rows > max_rows:
            break
        result.insert(0, shelf)
    return result
