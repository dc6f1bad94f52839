"""Recipe "sensor-graph": forecasts telemetry and finds faults, over a graph learned from it."""

from collections.abc import Mapping
from typing import Final

import msgspec

from aimass_cloud.datasets import series
from aimass_cloud.datasets.series import Series
from aimass_cloud.models.forecaster import ForecasterConfig
from aimass_cloud.models.network import Network
from aimass_cloud.models.samples import Arrays
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_cloud.models.windows import scaled_deviation, scaled_error
from aimass_cloud.recipes import tep
from aimass_cloud.recipes.plant_task import PlantTask
from aimass_cloud.recipes.run import Optimizer, RunSettings, configured
from aimass_cloud.recipes.sensor_task import Naming, SensorTask
from aimass_cloud.recipes.settling import network_of, settled_constants
from aimass_cloud.recipes.task import Task
from aimass_shared.moments import Moments

SIZES: Final = {
    "tiny": ForecasterConfig(hidden=32),
    "base": ForecasterConfig(),
    "large": ForecasterConfig(hidden=256, steps=3),
    "xl": ForecasterConfig(hidden=3584, steps=3),
}
KINDS_HELD: Final = frozenset(("sampled",))
"""Kinds of sensors that report the same value several times."""
BOUND: Final = 3.0
NAME: Final = "sensor-graph"


class SensorGraphRecipe:
    """Forecasts and finds faults."""

    name = NAME
    model = tep.PLANT.model
    summary = "forecast sensor telemetry and find faults, over a graph learned from it"
    layout = "a table with a column for each sensor, rows in time order (docs/data.md, Series)"
    sizes: Mapping[str, msgspec.Struct] = SIZES
    run = RunSettings()
    run_own = RunSettings(
        size="tiny",
        steps=1200,
        batch=16,
        optimizer=Optimizer(rate=5e-3),
        clip_norm=1.0,
        average=0.98,
        patience=6,
    )

    def open(self, run: RunSettings, base: Moments | None = None) -> Task:
        """Read a plant and solve its linear base.

        Raises:
            BadUpdateError: `base` is of other sensors or lags.
            DataError: the data are not of the layout, or too few.
            TrainingFailedError: there are too few rows.
        """
        if not run.data:
            return PlantTask(configured(run, SIZES), seed=run.seed, base=base)
        data = series.open(run.data)
        config = adapted(configured(run, SIZES), data, run.options)
        return SensorTask(data, config, Naming(NAME, monitored=True), seed=run.seed, base=base)

    def module(self, info: ModelInfo, constants: Arrays) -> Network:
        """The network with its graph as constants."""
        return network_of(info, constants)

    def settle(self, model: TrainedModel) -> Arrays:
        """Gate and relations of each width, chosen on held-back windows."""
        return settled_constants(model)

    def error(self, outputs: Arrays, truth: Arrays) -> float:
        """Mean squared error in squared standard deviations of the training rows."""
        return scaled_error(outputs["forecast"], truth["future"], truth["scale"])

    def figures(self, outputs: Arrays, truth: Arrays) -> dict[str, float]:
        """The errors under the names that reports give them, in training deviations."""
        forecast = outputs["forecast"]
        deviation = scaled_deviation(forecast, truth["future"], truth["scale"])
        return {"val_mse": self.error(outputs, truth), "val_mae": deviation}


RECIPE: Final = SensorGraphRecipe()


def adapted(
    config: ForecasterConfig, data: Series, options: Mapping[str, object]
) -> ForecasterConfig:
    """The configuration for recordings that nobody has tuned it for, where options do not say.

    Levels may drift, so inputs are relative to the newest value; corrections may be larger than the
    monitor of a steady plant would want them, and the graph starts from what the rows tell.
    """
    held = any(sensor.kind in KINDS_HELD for sensor in data.sensors)
    wanted = {"relative": True, "bound": BOUND, "hold": held, "start": "data"}
    own = {name: value for name, value in wanted.items() if name not in options}
    return msgspec.structs.replace(config, **own)
