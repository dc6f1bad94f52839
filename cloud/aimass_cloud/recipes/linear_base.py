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
ROWS_EACH: Final = 4
"""Complete rows for each coefficient of a sensor that a VAR needs to be a base."""
RUNS: Final = 8
"""Of training rows, or blocks, that units are taken from."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Units:
    """In which recordings are seen, and in which errors are given.

    Attributes:
        mean, scale: of each sensor `[S]`, over training rows, as a network sees them.
        counted: what an error of each sensor is divided by. Where all sensors have one unit it is
            one number, so that errors count as they are in it.
    """

    mean: Floats
    scale: Floats
    counted: Floats

    @classmethod
    def of(cls, series: Series, var: Var | None) -> "Units":
        """Those of the VAR, or of all values that were measured."""
        rows = np.concatenate(list(islice(training_rows(series), RUNS)))
        mean, spread = (each.astype(np.float64) for each in (_mean(rows), np.nanstd(rows, axis=0)))
        spread = np.where(spread**2 <= FLAT * (1 + mean**2), 1.0, spread)
        units = {sensor.unit for sensor in series.sensors}
        is_one = len(units) == 1 and units != {""}
        counted = np.full_like(spread, np.sqrt(np.mean(spread**2))) if is_one else spread
        return cls(mean, spread, counted) if var is None else cls(var.mean, var.scale, counted)

    def error_rows(self, rows: Rows) -> Floats:
        """Rows about the mean, in what errors are given in."""
        return (rows.astype(np.float64) - self.mean) / self.counted


@dataclass(frozen=True, eq=False)
class LinearBase:
    """The linear forecast of some recordings.

    Attributes:
        constants: as `models.base` takes them. name: what it is. rows: that it looks back.
        errors: on held-back windows, of the best of each kind. units: in which they are.
    """

    constants: Tensors
    name: str
    rows: int
    errors: Mapping[str, float]
    units: Units


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


def chosen_base(
    series: Series, config: ForecasterConfig, var: Var | None, *, complete: int
) -> LinearBase:
    """The best linear forecast on held-back rows, or of the kind that the run asks for.

    A VAR with many coefficients for its rows misses less on those than on others: a network that
    learns to correct it there learns too little. So it is a base only where rows are many.

    Args:
        series: the recordings.
        config: of the run.
        var: of the training rows, if there are enough.
        complete: rows that it was solved from.

    Raises:
        TrainingFailedError: runs are too short for window and horizon, or the run asks for a VAR
            and there are too few complete rows, or too many steps, for one.
    """
    units, horizon = Units.of(series, var), horizon_of(series, config)
    looked = _look_backs(series, config, horizon)
    plain, direct = _firsts(series, units, looked=looked, horizon=horizon)
    errors, rows = {plain.name: plain.error, direct.name: direct.error}, direct.direct.rows
    usable = dict(errors)
    if var is not None and horizon <= MOST_STEPS:
        errors[VAR] = _var_error(var, series, units, window=rows, horizon=horizon)
        if complete >= ROWS_EACH * len(var.coefficients):
            usable[VAR] = errors[VAR]
    kinds = {"persistence": plain.name, "direct": direct.name, "var": VAR}
    name = kinds.get(config.base) or min(usable, key=usable.__getitem__)
    if name == VAR:
        own = _coefficients(var if VAR in errors else None)
    else:
        own = {"maps": (plain if name == plain.name else direct).direct.maps}
    return LinearBase(_constants(units, own), name, rows, errors, units)


def _coefficients(var: Var | None) -> Mapping[str, Floats]:
    if var is None:
        raise TrainingFailedError(
            f"no VAR here: it needs more complete rows than sensors, and at most {MOST_STEPS} ahead"
        )
    return {"intercept": var.intercept, "coefficients": var.coefficients}


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
        train.append(units.error_rows(rows[: most - taken]))
        taken += len(train[-1])
        if taken >= most:
            break
    held_back = [units.error_rows(run.rows) for run in series.calibration]
    found = candidates(train, held_back, rows=looked, horizon=horizon)
    direct = [each for each in found if each.name != PERSISTENCE]
    return found[0], min(direct, key=lambda each: each.error)


def _var_error(var: Var, series: Series, units: Units, *, window: int, horizon: int) -> float:
    """The error of a VAR on held-back windows."""
    windows = Windows.of(series.calibration, window + horizon).spread(JUDGED)
    past, future = windows[:, :window], windows[:, window:]
    mean = np.broadcast_to(var.mean, past.shape)
    forecast = var.forecast(np.where(np.isfinite(past), past, mean), horizon)
    return scaled_error(forecast * var.scale + var.mean, future, units.counted)


def _mean(rows: Rows) -> Floats:
    return np.asarray(np.nanmean(rows, axis=0), np.float64)


def _constants(units: Units, own: Mapping[str, Floats]) -> Tensors:
    arrays = {"mean": units.mean, "scale": units.scale, **own}
    return {
        f"base.{name}": torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()
    }
