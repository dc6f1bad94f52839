"""Drift of the inputs and of the forecast's errors, sensor by sensor, as windows go by.

Inputs are compared with normal operation as the release's contract has it; errors are those of the
forecast that the window before gave. It watches telemetry only, in memory that does not grow.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_edge.predict.telemetry import MASK, VALUES, Floats
from aimass_shared.drift import SMALL, DriftScore
from aimass_shared.manifest import Contract, Normal

MOST_TOLD = 16
FINEST = 1e-12


class Drift(msgspec.Struct, frozen=True):
    """Scores of a sensor (see `aimass_shared.drift`): of its values, of the forecast's errors."""

    inputs: float
    residuals: float


class DriftWatch:
    """Drift under one model. Without a reference in the contract there is nothing to tell."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._reference = None if contract.normal is None else _Reference(contract.normal)
        size = len(contract.sensors)
        self._inputs, self._residuals = DriftScore(size), DriftScore(size)
        self._next: tuple[int, Floats] | None = None

    def step(self, feeds: dict[str, Floats], end_ms: int, forecast: tuple[float, ...]) -> None:
        """Take in the rows that are new in a window.

        Args:
            feeds: what the model got, of batch 1.
            end_ms: time of the window's last row.
            forecast: the row after it, in the sensors' units; () where none was made.
        """
        if self._reference is None:
            return
        contract, values = self._contract, feeds[VALUES][0]
        known = feeds[MASK][0] > 0 if MASK in feeds else np.ones(values.shape, np.bool_)
        new = min(contract.stride, len(values))
        scaled = self._reference.scaled(values[-new:])
        for row, seen in zip(scaled, known[-new:], strict=True):
            self._inputs.add(row, seen)
        first_ms = end_ms - (new - 1) * contract.step_ms
        if self._next is not None and self._next[0] == first_ms:
            missed = self._reference.missed(values[-new], self._next[1])
            self._residuals.add(missed, known[-new])
        row = np.array(forecast, np.float32)
        self._next = (end_ms + contract.step_ms, row) if len(row) else None

    def found(self) -> dict[str, Drift]:
        """The scores of all sensors, by name."""
        if self._reference is None:
            return {}
        scores = zip(self._inputs.scores(), self._residuals.scores(), strict=True)
        return {
            sensor.name: Drift(round(float(inputs), 4), round(float(residuals), 4))
            for sensor, (inputs, residuals) in zip(self._contract.sensors, scores, strict=True)
        }

    def worst(self) -> dict[str, float]:
        """The larger score of the sensors that drift most, at most 16, the worst first."""
        each = {name: max(one.inputs, one.residuals) for name, one in self.found().items()}
        drifting = sorted(each.items(), key=lambda item: -item[1])[:MOST_TOLD]
        return {name: score for name, score in drifting if score >= SMALL}


class _Reference:
    """Normal operation as arrays `[S]`."""

    def __init__(self, normal: Normal) -> None:
        self._mean = np.array(normal.mean)
        self._deviation = np.maximum(np.array(normal.deviation), FINEST)
        self._error = np.maximum(np.array(normal.error), FINEST)

    def scaled(self, rows: Floats) -> NDArray[np.float64]:
        """Rows in deviations from the mean."""
        return np.asarray((rows - self._mean) / self._deviation, np.float64)

    def missed(self, row: Floats, forecast: Floats) -> NDArray[np.float64]:
        """What a forecast missed of a row, in deviations of its usual error."""
        return np.asarray((row.astype(np.float64) - forecast) / self._error, np.float64)
