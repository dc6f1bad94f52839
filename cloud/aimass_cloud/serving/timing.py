"""How long a run takes, by its number of windows, as measured here.

Estimates only: what to do with them (admission, size of a batch, thread or not) is the batcher's.
"""

import numpy as np


class RunTimes:
    """Smoothed run times, kept per power of two of the number of windows.

    Args:
        weight: of a new measurement against all before it.
    """

    def __init__(self, weight: float = 0.2) -> None:
        self._weight = weight
        self._by_bits: dict[int, float] = {}

    def add(self, windows: int, seconds: float) -> None:
        """Take in one measurement."""
        bits = windows.bit_length()
        before = self._by_bits.get(bits, seconds)
        self._by_bits[bits] = before + self._weight * (seconds - before)

    def predict(self, windows: int) -> float | None:
        """Seconds that a run should take; None before the first measurement.

        Straight lines between measured sizes; beyond the largest, time grows with size.
        """
        if not self._by_bits:
            return None
        known = sorted(self._by_bits)
        sizes = [2.0 ** (bits - 1) for bits in known]
        seconds = [self._by_bits[bits] for bits in known]
        if windows > sizes[-1] and windows.bit_length() > known[-1]:
            return seconds[-1] * windows / sizes[-1]
        return float(np.interp(windows, sizes, seconds))
