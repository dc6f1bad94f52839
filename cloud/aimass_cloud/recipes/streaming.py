"""Training batches of data that need not fit in memory: windows of Parquet shards.

A recipe whose series is large makes this its source; what it holds of the data does not grow with
them. A run can be taken up at any step: batches before it are not read again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets.shards import Shards
from aimass_cloud.models.network import Batch
from aimass_shared.errors import DataError

Windows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Streamed:
    """One epoch of shuffled windows after the other, each in its own order.

    Attributes:
        shards: the series. length: rows of a window. stride: rows between windows.
        batch: windows of one step over all processes; `rank` of `world` gets every `world`-th.
        made: a training batch of windows `[n, length, S]`; what is random in it comes from the
            generator that it is given.
    """

    shards: Shards
    length: int
    stride: int
    seed: int
    batch: int
    made: Callable[[Windows, np.random.Generator], Batch]
    rank: int = 0
    world: int = 1

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches from number `start` on, without end.

        Raises:
            DataError: there are fewer windows than a batch has, or a file changed.
        """
        number = start
        epoch, taken = divmod(start, self._of_an_epoch())
        while True:
            for windows in self._epoch(epoch, taken):
                random = np.random.default_rng((self.seed, number, self.rank + 1))
                yield self.made(windows, random)
                number += 1
            epoch, taken = epoch + 1, 0

    def _of_an_epoch(self) -> int:
        windows = self.shards.order(self.length, self.stride).total
        if windows < self.batch:
            raise DataError(
                f"there are {windows} windows of {self.length} rows, fewer than batch ="
                f" {self.batch}: lower it, or take windows at a smaller stride"
            )
        return windows // self.batch

    def _epoch(self, epoch: int, taken: int) -> Iterator[Windows]:
        return self.shards.windows(
            self.length,
            stride=self.stride,
            batch=self.batch,
            seed=self.seed,
            epoch=epoch,
            rank=self.rank,
            world=self.world,
            start=taken,
        )
