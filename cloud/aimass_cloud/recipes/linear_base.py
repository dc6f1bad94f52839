"""The linear forecast that a network corrects: of several, the best on held-back rows.

Persistence, direct maps of several look-backs, and a VAR that is stepped to the horizon. All are in
closed form; none sees a test row.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from aimass_cloud.datasets.runs import Rows
from aimass_cloud.datasets.series import Series
from aimass_cloud.models.direct import PERSISTENCE, Candidate, candidates
from aimass_cloud.models.forecaster import ForecasterConfig
from aimass_cloud.models.network import Tensors
from aimass_cloud.models.windows import scaled_error
from aimass_cloud.recipes.windowing import Windows
from aimass_shared.errors import TrainingFailedError
from aimass_shared.var import FLAT, Var

LOOK_BACKS: Final = (12, 24, 48, 96, 192, 336, 512, 720)
"""Rows that are tried where nobody says how far a forecast looks back."""
HORIZON: Final = 12
BLOCK_ROWS: Final = 1 << 16
MOST_SUMS: Final = 4e9
"""Products of rows that direct maps are fitted from; of more, the first rows are taken."""
MOST_STEPS: Final = 24
"""Rows ahead that a VAR is stepped to."""
JUDGED: Final = 256
VAR: Final = "var"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Units:
    """Mean and deviation of sensors `[S]`, over training rows."""

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, series: Series, var: Var | None) -> "Units":
        """Those of the VAR, or of all values that were measured."""
        if var is not None:
            return cls(var.mean, var.scale)
        rows = np.concatenate(list(islice(training_rows(series), 4)))
        mean, spread = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
        flat = spread**2 <= FLAT * (1 + mean**2)
        return cls(mean.astype(np.float64), np.where(flat, 1.0, spread).astype(np.float64))

    def standard(self, rows: Rows) -> Floats:
        """Rows in deviations from the mean."""
        return (rows.astype(np.float64) - self.mean) / self.scale


@dataclass(frozen=True, eq=False)
class LinearBase:
    """The linear forecast of some recordings.

    Attributes:
        constants: as `models.base` takes them. name: what it is. rows: that it looks back.
        errors: on held-back windows, of the best of each kind, in squared standard deviations.
    """

    constants: Tensors
    name: str
    rows: int
    errors: Mapping[str, float]


def training_rows(series: Series) -> Iterator[Rows]:
    """The training rows in runs, or in blocks where they are streamed."""
    if series.shards is None:
        yield from (run.rows for run in series.train)
        return
    for stretch in series.shards.stretches:
        yield from series.shards.rows_from(stretch.first, BLOCK_ROWS, stop=stretch.stop)


def horizon_of(series: Series, config: ForecasterConfig) -> int:
    """Rows ahead: what the run asks for, what the data say, or the recipe's own."""
    return config.horizon or series.horizon or HORIZON


def chosen_base(series: Series, config: ForecasterConfig, var: Var | None) -> LinearBase:
    """The best linear forecast on held-back rows, or of the kind that the run asks for.

    Raises:
        TrainingFailedError: runs are too short for window and horizon, or the run asks for a VAR
            and there are too few complete rows, or too many steps, for one.
    """
    units, horizon = Units.of(series, var), horizon_of(series, config)
    looked = _look_backs(series, config, horizon)
    plain, direct = _firsts(series, units, looked=looked, horizon=horizon)
    errors = {plain.name: plain.error, direct.name: direct.error}
    if var is not None and horizon <= MOST_STEPS:
        errors[VAR] = _var_error(var, series, window=direct.direct.rows, horizon=horizon)
    kinds = {"persistence": plain.name, "direct": direct.name, "var": VAR}
    name = kinds.get(config.base) or min(errors, key=errors.__getitem__)
    if name != VAR:
        maps = (plain if name == plain.name else direct).direct.maps
        return LinearBase(_constants(units, {"maps": maps}), name, direct.direct.rows, errors)
    if var is None or VAR not in errors:
        raise TrainingFailedError(
            f"no VAR here: it needs more complete rows than sensors, and at most {MOST_STEPS} ahead"
        )
    own = {"intercept": var.intercept, "coefficients": var.coefficients}
    return LinearBase(_constants(units, own), name, direct.direct.rows, errors)


def _look_backs(series: Series, config: ForecasterConfig, horizon: int) -> tuple[int, ...]:
    given = config.window or series.window
    if given:
        return (given,)
    longest = max((len(run.rows) for run in series.calibration), default=0)
    fitting = tuple(rows for rows in LOOK_BACKS if 2 * (rows + horizon) <= longest)
    return fitting or LOOK_BACKS[:1]


def _firsts(
    series: Series, units: Units, *, looked: tuple[int, ...], horizon: int
) -> tuple[Candidate, Candidate]:
    """Persistence and the best direct forecast."""
    most = int(MOST_SUMS / (len(series.sensors) * (max(looked) + horizon)))
    train, taken = [], 0
    for rows in training_rows(series):
        train.append(units.standard(rows[: most - taken]))
        taken += len(train[-1])
        if taken >= most:
            break
    held_back = [units.standard(run.rows) for run in series.calibration]
    found = candidates(train, held_back, rows=looked, horizon=horizon)
    direct = [each for each in found if each.name != PERSISTENCE]
    return found[0], min(direct, key=lambda each: each.error)


def _var_error(var: Var, series: Series, *, window: int, horizon: int) -> float:
    """The error of a VAR on held-back windows."""
    windows = Windows.of(series.calibration, window + horizon).spread(JUDGED)
    past, future = windows[:, :window], windows[:, window:]
    mean = np.broadcast_to(var.mean, past.shape)
    forecast = var.forecast(np.where(np.isfinite(past), past, mean), horizon)
    return scaled_error(forecast, var.standardised(future), np.ones(len(var.mean)))


def _constants(units: Units, own: Mapping[str, Floats]) -> Tensors:
    arrays = {"mean": units.mean, "scale": units.scale, **own}
    return {
        f"base.{name}": torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()
    }
