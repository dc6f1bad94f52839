"""Recordings of one plant, in the parts that training and honest figures need. No torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aimass_shared.manifest import Sensor

Rows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PlantData:
    """Recordings of one plant, rows `[T, S]` in the sensors' units, all read-only.

    Attributes:
        sensors: the S channels, in the order of the columns.
        train: normal operation to learn from.
        calibration: normal operation that is held back, for thresholds and every choice.
        test: normal operation that nothing is chosen on; the figures of a report come from it.
        faults: runs that turn faulty at row `fault_start`, by the fault's number.
        fault_labels: what each fault is.
        step_ms: time between two rows.
    """

    sensors: tuple[Sensor, ...]
    step_ms: int
    train: Rows
    calibration: Rows
    test: Rows
    faults: Mapping[int, Rows]
    fault_start: int
    fault_labels: Mapping[int, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The sensors' names, in the order of the columns."""
        return tuple(sensor.name for sensor in self.sensors)

    def site_runs(self, fault_excluded: int | None = None) -> dict[int, Rows]:
        """Normal lead-ins of the faulty runs: private histories of sites, never trained on here.

        Args:
            fault_excluded: number of the fault that a demonstration replays, whose lead-in is kept
                out of every history.
        """
        return {
            fault: rows[: self.fault_start]
            for fault, rows in self.faults.items()
            if fault != fault_excluded
        }


@dataclass(frozen=True)
class ShippedPlant:
    """A plant whose recordings ship with the product.

    Attributes:
        name: of the plant. recipe: that is trained on it. model: name of the models it gives.
        step_ms: time between two rows. window: rows of an input. horizon: rows of a forecast.
        load: reads the recordings; the result is shared and read-only.
    """

    name: str
    recipe: str
    model: str
    step_ms: int
    window: int
    horizon: int
    load: Callable[[], PlantData]
