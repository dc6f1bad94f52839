"""In which order windows of a long series are drawn: arithmetic on row numbers, no data.

Rows lie in blocks, which are read as a whole. An epoch goes through all blocks in an order drawn
from the seed, some at a time, and through the windows of those in a drawn order. So few blocks are
open at once, and how far any number of windows reaches is known without reading them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Stretch:
    """Rows `first` to `stop` (not included) of one site; no window reaches beyond them."""

    site: str
    first: int
    stop: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.first


@dataclass(frozen=True, eq=False)
class Order:
    """The windows of `length` rows that begin each `stride` rows of each stretch.

    Attributes:
        bounds: rows `[blocks + 1]` at which blocks begin; a window belongs to where it begins.
        stretches: in the order of their rows.
        together: blocks that are mixed with each other, and open at once.
    """

    bounds: Integers
    stretches: Sequence[Stretch]
    length: int
    stride: int
    together: int

    @cached_property
    def counts(self) -> Integers:
        """Windows of each block."""
        counts = np.zeros(len(self.bounds) - 1, np.int64)
        for stretch in self.stretches:
            begun = self._begun(stretch, self.bounds)
            counts += np.diff(begun)
        return counts

    @property
    def total(self) -> int:
        """Windows of an epoch."""
        return int(self.counts.sum())

    def starts(self, block: int) -> Integers:
        """First rows of the windows of a block."""
        ends = self.bounds[block : block + 2]
        parts = [
            stretch.first + self.stride * np.arange(*self._begun(stretch, ends))
            for stretch in self.stretches
            if stretch.first < ends[1] and stretch.stop > ends[0]
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def rounds(self, seed: int, epoch: int, skip: int = 0) -> Iterator[tuple[Integers, Integers]]:
        """Blocks to open together, and the windows to take from them, in turn.

        Args:
            seed: of all epochs.
            epoch: each has its own order.
            skip: windows that were taken before; blocks of which nothing is left are left out.
        """
        used = np.flatnonzero(self.counts)
        blocks = np.random.default_rng((seed, epoch)).permutation(used)
        for number, at in enumerate(range(0, len(blocks), self.together), 1):
            mixed = blocks[at : at + self.together]
            size = int(self.counts[mixed].sum())
            if skip < size:
                starts = np.concatenate([self.starts(int(block)) for block in mixed])
                np.random.default_rng((seed, epoch, number)).shuffle(starts)
                yield mixed, starts[skip:]
            skip = max(skip - size, 0)

    def _begun(self, stretch: Stretch, rows: Integers) -> Integers:
        """How many windows of a stretch begin before each of some rows."""
        total = max((stretch.rows - self.length) // self.stride + 1, 0)
        return np.clip(-((stretch.first - rows) // self.stride), 0, total)
