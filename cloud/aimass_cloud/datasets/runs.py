"""Runs: rows of one site or experiment, and how they are cut in time into parts."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets.order import Stretch
from aimass_cloud.datasets.shards import Shards
from aimass_shared.errors import DataError

Rows = NDArray[np.float32]
Labels = NDArray[np.bool_]

LEAD_HELD_BACK: Final = 0.2
"""Of the rows at the beginning that are known to be normal; the last of them."""


class Split(NamedTuple):
    """Shares of a run, in time order; those of parts with their own files do not count."""

    train: float = 0.72
    calibration: float = 0.08
    test: float = 0.20

    def without(self, parts: Collection[str]) -> "Split":
        """The shares of what is left, which sum to 1."""
        left = [0.0 if name in parts else self[index] for index, name in enumerate(self._fields)]
        return Split(*(share / sum(left) for share in left))


@dataclass(frozen=True, eq=False)
class Run:
    """Rows `[T, S]` of one site or experiment in time order; no window reaches into another run.

    Attributes:
        rows: in the sensors' units, NaN where nothing was measured.
        labels: `[T]` which rows are faulty; None where nobody says.
    """

    name: str
    rows: Rows
    labels: Labels | None = None

    def part(self, first: int, stop: int) -> "Run":
        """Some of the rows."""
        labels = None if self.labels is None else self.labels[first:stop]
        return Run(self.name, self.rows[first:stop], labels)


class Parts(NamedTuple):
    """Runs by what they are for."""

    train: tuple[Run, ...]
    calibration: tuple[Run, ...]
    test: tuple[Run, ...]


def cut(runs: Sequence[Run], split: Split, lead_rows: int = 0) -> Parts:
    """Training, held-back and test rows of each run, in this order of time.

    Only normal rows are trained on: where labels say that a run turns faulty, the shares are of the
    rows before, and all that follows is test.

    Args:
        runs: whole.
        split: shares of the parts.
        lead_rows: normal rows at the beginning of each run; the test is all that follows. 0 takes
            the shares.

    Raises:
        DataError: training rows are labelled faulty, and there is no test part to put them in.
    """
    pieces: list[list[Run]] = [[], [], []]
    for run in runs:
        ends = [0, *_ends(run, split, lead_rows), len(run.rows)]
        for index, runs_of_part in enumerate(pieces):
            if ends[index] < ends[index + 1]:
                runs_of_part.append(run.part(ends[index], ends[index + 1]))
    return Parts(*(tuple(piece) for piece in pieces))


def _ends(run: Run, split: Split, lead_rows: int) -> tuple[int, int]:
    """Rows at which the held-back and the test part begin."""
    normal = len(run.rows)
    if run.labels is not None and run.labels.any():
        normal = int(np.argmax(run.labels))
        if not split.test:
            raise DataError(
                f"{run.name}, row {normal + 1}: a training row is labelled faulty; training rows "
                "are normal operation, others belong into the test"
            )
    if lead_rows:
        held_back = LEAD_HELD_BACK if split.calibration else 0.0
        lead = min(lead_rows, len(run.rows))
        return round(lead * (1 - held_back)), lead
    return round(split.train * normal), round((split.train + split.calibration) * normal)


def cut_shards(shards: Shards, split: Split, most_bytes: int) -> tuple[Shards, Parts]:
    """Shards of the training rows alone, and the first rows of the other parts in memory.

    Args:
        shards: whole.
        split: shares of the parts.
        most_bytes: of each of the other parts, as float32.
    """
    most = most_bytes // (len(shards.names) * np.float32().nbytes * len(shards.stretches))
    train: list[Stretch] = []
    pieces: list[list[Run]] = [[], []]
    for one in shards.stretches:
        ends = [one.first + round(share * one.rows) for share in np.cumsum(split)]
        train.append(Stretch(one.site, one.first, ends[0]))
        for index, runs in enumerate(pieces):
            stop = min(ends[index + 1], ends[index] + most)
            runs.extend(_loaded(shards, Stretch(one.site, ends[index], stop)))
    return shards.within(train), Parts((), tuple(pieces[0]), tuple(pieces[1]))


def _loaded(shards: Shards, stretch: Stretch) -> Iterator[Run]:
    if stretch.rows > 0:
        blocks = shards.rows_from(stretch.first, stretch.rows, stop=stretch.stop)
        yield Run(stretch.site, next(blocks))
