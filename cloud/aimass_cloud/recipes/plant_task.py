"""The shipped plant as a task: its forecaster on a VAR, and how well its monitor finds faults."""

from typing import Any

import msgspec
import numpy as np

from aimass_cloud.datasets.runs import Run
from aimass_cloud.datasets.series import Series
from aimass_cloud.models.base import base_of
from aimass_cloud.models.forecaster import ForecasterConfig
from aimass_cloud.models.monitor import Monitor
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes import detection, tep
from aimass_cloud.recipes.plant import PlantData
from aimass_cloud.recipes.sensor_task import Naming, SensorTask
from aimass_shared.moments import Moments


class PlantTask(SensorTask):
    """The Tennessee Eastman process; its sites add their moments to the base, so it is a VAR."""

    def __init__(self, config: ForecasterConfig, *, seed: int, base: Moments | None = None) -> None:
        """Read the plant and solve its linear base.

        Raises:
            BadUpdateError: `base` is of other sensors or lags.
        """
        plant = tep.PLANT
        self._plant = plant.load()
        own = msgspec.structs.replace(
            config, base="var", window=plant.window, horizon=plant.horizon
        )
        naming = Naming(plant.model, monitored=True)
        super().__init__(_series(self._plant), own, naming, seed=seed, base=base)

    def report(self, model: TrainedModel) -> dict[str, Any]:
        """How well the monitor finds faults, beside PCA."""
        monitor = Monitor(self._constants)
        score = detection.monitor_score(base_of(self._constants), monitor, tep.PLANT.window)
        return {
            **super().report(model),
            "detection": detection.report(score, self._plant, tep.PLANT.window),
        }


def _series(plant: PlantData) -> Series:
    faults = [
        Run(str(fault), rows, np.arange(len(rows)) >= plant.fault_start)
        for fault, rows in plant.faults.items()
    ]
    train, calibration, test = (
        (Run(name, getattr(plant, name)),) for name in ("train", "calibration", "test")
    )
    return Series(plant.sensors, plant.step_ms, train, calibration, test, tuple(faults))
