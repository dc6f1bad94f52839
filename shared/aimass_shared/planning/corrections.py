"""How this device differs from the profiles: one factor for all, learnt at once, and one for each.

A device of another speed is mostly slower by one factor, so the first requests teach it for all
candidates, also for those that have not run yet. What is left of a candidate is its own and is
learnt slowly, with how much it varies (exponentially weighted, in logarithms).
"""

import math

import numpy as np
from numpy.typing import NDArray

from aimass_shared.planning.prediction import LEAST_SPREAD

SHARED_GAIN, OWN_GAIN, SPREAD_GAIN = 0.05, 0.1, 0.05
SHRINK = 1.0
"""Requests that a candidate's own factor is worth before it has run: it starts at no difference."""
MOST_SPREAD = 1.0


class Corrections:
    """Factors on the edge times of some candidates, by their row. Not thread-safe.

    Attributes:
        slowdown: `[candidates]`, how many times longer than in its profile each takes here.
        spread: `[candidates]`, standard deviation of the logarithm of that.
    """

    def __init__(self, first_slowdown: float, spread: NDArray[np.float64]) -> None:
        """Start from a guess of the device's factor, and the spreads of the profiles."""
        self._shared = math.log(first_slowdown)
        self._own = np.zeros(len(spread))
        self._seen = np.zeros(len(spread), dtype=np.int64)
        self._variance = spread**2
        self.slowdown = np.full(len(spread), first_slowdown)
        self.spread = np.sqrt(self._variance)

    def add(self, row: int, expected_ms: float, *, measured_ms: float) -> None:
        """Take in one run of the edge part of a candidate.

        Args:
            row: of the candidate.
            expected_ms: what its profile says, of the reference machine.
            measured_ms: what it took here.
        """
        if expected_ms <= 0 or measured_ms <= 0:
            return
        ratio = math.log(measured_ms / expected_ms)
        total = int(self._seen.sum())
        self._seen[row] += 1
        off = ratio - self._own[row] - self._shared
        self._shared += max(1.0 / (total + 1), SHARED_GAIN) * off
        rest = ratio - self._shared - self._own[row]
        own_gain = max(1.0 / (self._seen[row] + SHRINK), OWN_GAIN) if total else 0.0
        self._own[row] += own_gain * rest
        if total:  # the first tells the device's factor and nothing of its spread
            self._variance[row] += SPREAD_GAIN * (min(rest**2, MOST_SPREAD) - self._variance[row])
        np.exp(self._shared + self._own, out=self.slowdown)
        self.spread = np.sqrt(np.maximum(self._variance, LEAST_SPREAD**2))
