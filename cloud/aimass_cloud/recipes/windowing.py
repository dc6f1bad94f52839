"""Windows of recordings, cut when they are asked for, as training and judging take them.

No window reaches from one run into another. Rows that training streams from disk are not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets.runs import Rows, Run
from aimass_shared.errors import DataError

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Windows:
    """All windows of some runs.

    Attributes:
        rows: of all runs `[T, S]`, in units; NaN where nothing was measured.
        starts: first row of each window. length: rows of a window.
    """

    rows: Rows
    starts: Numbers
    length: int

    @classmethod
    def of(cls, runs: Sequence[Run], length: int) -> "Windows":
        """Windows that begin at each row of each run.

        Raises:
            DataError: no run is long enough.
        """
        firsts = np.cumsum([0, *(len(run.rows) for run in runs)])
        starts = [
            first + np.arange(max(0, len(run.rows) - length + 1))
            for first, run in zip(firsts, runs, strict=False)
        ]
        joined = np.concatenate([np.empty(0, np.int64), *starts])
        if not len(joined):
            longest = max((len(run.rows) for run in runs), default=0)
            raise DataError(
                f"no window of {length} rows (window and horizon) fits: the longest run of this "
                f"part has {longest}; take a shorter window or horizon, or more rows"
            )
        return cls(np.concatenate([run.rows for run in runs]), joined, length)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.starts)

    def cut(self, numbers: Numbers) -> Rows:
        """Some of them, `[n, length, S]`."""
        chosen: Rows = self.rows[self.starts[numbers][:, None] + np.arange(self.length)]
        return chosen

    def spread(self, most: int) -> Rows:
        """All of them, or `most` that lie evenly, `[n, length, S]`."""
        count = min(most, len(self))
        return self.cut(np.linspace(0, len(self) - 1, count).round().astype(np.int64))
