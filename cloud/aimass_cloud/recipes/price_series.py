"""Recipe "price-series": from the history of a market to its trend, with persistence beside it.

The last price, repeated, is hard to beat on liquid markets: the report always compares with it, and
says in words whether the model did better. Bands of quantiles say how little is known.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets import series
from aimass_cloud.datasets.runs import Run, Split, cut
from aimass_cloud.datasets.series import Series
from aimass_cloud.models.forecaster import ForecasterConfig
from aimass_cloud.models.network import Network
from aimass_cloud.models.samples import Arrays, Part
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_cloud.models.windows import scaled_deviation, scaled_error
from aimass_cloud.recipes.run import Optimizer, RunSettings, configured
from aimass_cloud.recipes.sensor_task import Naming, SensorTask
from aimass_cloud.recipes.settling import network_of, outputs_on_test, settled_constants
from aimass_cloud.recipes.task import Task
from aimass_shared.manifest import Sensor
from aimass_shared.moments import Moments

NAME: Final = "price-series"
DAY_MS: Final = 86_400_000
PRICES: Final = ForecasterConfig(
    hidden=32, relative=True, hold=False, bound=3.0, start="data", quantiles=True
)
SIZES: Final = {
    "tiny": msgspec.structs.replace(PRICES, hidden=16),
    "base": PRICES,
    "large": msgspec.structs.replace(PRICES, hidden=128, steps=3),
    "xl": msgspec.structs.replace(PRICES, hidden=3584, steps=3),
}
RUN: Final = RunSettings(
    steps=400, batch=32, optimizer=Optimizer(rate=5e-3), clip_norm=1.0, average=0.98
)
SYNTHETIC_ROWS, SYNTHETIC_PRICES = 2000, 6
LEAST_GAIN: Final = 0.01
"""Of the squared error, under which a model is not called better than persistence."""

Floats = NDArray[np.floating]


class PriceTask(SensorTask):
    """A market's history, and what a forecast of it is worth."""

    def report(self, model: TrainedModel) -> dict[str, Any]:
        """What was tried, the band, how often the direction is right, and persistence in words."""
        test, outputs = model.samples.test, outputs_on_test(model)
        gain = 1 - _error(outputs["forecast"], test.truth) / _error(_held(test), test.truth)
        return {
            **super().report(model),
            "trend": _directions(outputs["forecast"], test),
            "gain_over_persistence": round(gain, 4),
            "verdict": verdict(gain),
        }


class PriceSeriesRecipe:
    """Forecasts prices, their band and their trend."""

    name = NAME
    model = NAME
    summary = "forecast prices and their trend from a market's history, beside persistence"
    layout = "a table with a column for each price, rows in time order (docs/data.md, Series)"
    sizes: Mapping[str, msgspec.Struct] = SIZES
    run = RUN

    def open(self, run: RunSettings, base: Moments | None = None) -> Task:
        """Read a market's history; without an address it is a synthetic one.

        Raises:
            DataError: the data are not of the layout, or too few.
            TrainingFailedError: there are too few rows.
        """
        data = series.open(run.data) if run.data else synthetic()
        naming = Naming(NAME, monitored=False, trend=True)
        return PriceTask(data, configured(run, SIZES), naming, seed=run.seed, base=base)

    def module(self, info: ModelInfo, constants: Arrays) -> Network:
        """The network with its graph as constants."""
        return network_of(info, constants)

    def settle(self, model: TrainedModel) -> Arrays:
        """Gate, relations and reach of the band of each width, chosen on held-back windows."""
        return settled_constants(model)

    def error(self, outputs: Arrays, truth: Arrays) -> float:
        """Mean squared error in squared standard deviations of the training rows."""
        return _error(outputs["forecast"], truth)

    def figures(self, outputs: Arrays, truth: Arrays) -> dict[str, float]:
        """The errors under the names that reports give them, in training deviations."""
        deviation = scaled_deviation(outputs["forecast"], truth["future"], truth["scale"])
        return {"val_mse": self.error(outputs, truth), "val_mae": deviation}


RECIPE: Final = PriceSeriesRecipe()


def verdict(gain: float) -> str:
    """What a gain over persistence means, in words."""
    if gain < LEAST_GAIN:
        return (
            "not better than persistence: on the test rows the last price, repeated, forecasts as "
            "well or better; use the band, not the trend"
        )
    return f"better than persistence on the test rows: {100 * gain:.1f} % less squared error"


def synthetic() -> Series:
    """Geometric random walks that share a factor with a little momentum, for trying things out."""
    random = np.random.default_rng(20)
    noise = random.normal(size=(SYNTHETIC_ROWS, SYNTHETIC_PRICES + 1))
    factor = np.zeros(SYNTHETIC_ROWS)
    for row in range(1, SYNTHETIC_ROWS):
        factor[row] = 0.4 * factor[row - 1] + noise[row, 0]
    returns = 0.01 * (0.5 * factor[:, None] + noise[:, 1:])
    prices = (100 * np.exp(np.cumsum(returns, axis=0))).astype(np.float32)
    names = [f"price{number}" for number in range(SYNTHETIC_PRICES)]
    parts = cut([Run("synthetic", prices)], Split())
    sensors = tuple(Sensor(name, "", "price") for name in names)
    return Series(sensors, DAY_MS, parts.train, parts.calibration, parts.test)


def _error(forecast: Floats, truth: Arrays) -> float:
    return scaled_error(forecast, truth["future"], truth["scale"])


def _newest(part: Part) -> Floats:
    """The newest measured price of each window `[n, S]`."""
    values, mask = part.inputs["values"], part.inputs["mask"]
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1] > 0, axis=1)
    newest: Floats = np.take_along_axis(values, last[:, None], axis=1)[:, 0]
    return newest


def _held(part: Part) -> Floats:
    """Persistence, for every step ahead."""
    return np.repeat(_newest(part)[:, None], part.truth["future"].shape[1], axis=1)


def _directions(forecast: Floats, part: Part) -> dict[str, float]:
    """How often the sign of the change over the horizon is right, and how often one sign is."""
    newest = _newest(part)
    came, said = part.truth["future"][:, -1] - newest, forecast[:, -1] - newest
    moved = np.isfinite(came) & (came != 0)
    rising = float((came[moved] > 0).mean()) if moved.any() else 0.5
    right = float((np.sign(came) == np.sign(said))[moved].mean()) if moved.any() else 0.5
    return {
        "direction_right": round(right, 4),
        "always_the_commoner": round(max(rising, 1 - rising), 4),
    }
