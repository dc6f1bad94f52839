"""Direct linear forecasts in closed form: each step ahead is a ridge regression on newest rows.

Values are taken relative to the newest one (NLinear: Zeng et al., AAAI 2023), with one map for all
sensors (RLinear: Li et al., 2023) or one for each. The moments of overlapping windows are running
sums of lagged products: any look-back, penalty and kind of map is solved from them, and its error
on held-back rows comes from theirs, without a window being made. Rows are standardised. Numpy only;
the same forecast as a torch module is in `aimass_cloud.models.base`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import TrainingFailedError

RIDGES: Final = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties, in mean squares of the features."""
MOST_WORK: Final = 5e9
"""Of sensors times cubed look-back, for which each sensor gets a map of its own."""
MOST_NUMBERS: Final = 1e8
"""Of the moments of all sensors; beyond, only one map for all is tried."""
FLAT: Final = 1e-12

PERSISTENCE: Final = "persistence"

Floats = NDArray[np.float64]
Rows = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class WindowMoments:
    """Sums over all windows of some runs, of the products of their rows with each other.

    Attributes:
        products: `[K, length, length]`, K = 1 or one for each sensor.
        windows: how many there were, of all K together.
    """

    products: Floats
    windows: int

    @classmethod
    def of(cls, runs: Sequence[Rows], length: int, *, pooled: bool) -> "WindowMoments":
        """Moments of the windows of `length` rows of runs `[T, S]`.

        Args:
            runs: standardised, in time order; a gap is filled with the value before.
            length: rows of a window, look-back and horizon.
            pooled: one sum over all sensors.

        Raises:
            TrainingFailedError: no run has so many rows.
        """
        long = [filled(run) for run in runs if len(run) >= length]
        if not long:
            most = max((len(run) for run in runs), default=0)
            raise TrainingFailedError(
                f"windows of {length} rows do not fit: the longest run has {most}; take a shorter "
                "window or horizon, or more rows"
            )
        sensors = long[0].shape[1]
        products = np.zeros((1 if pooled else sensors, length, length))
        for run in long:
            _add(products, run, length)
        return cls(products, sum(len(run) - length + 1 for run in long) * sensors)

    def pooled(self) -> "WindowMoments":
        """The sum over all sensors."""
        return WindowMoments(self.products.sum(axis=0, keepdims=True), self.windows)


def _add(products: Floats, run: Floats, length: int) -> None:
    windows = len(run) - length + 1
    pooled = len(products) == 1
    for lag in range(length):
        lagged = run[: len(run) - lag] * run[lag:]
        sums = _sums(lagged.sum(axis=1, keepdims=True) if pooled else lagged, windows)
        places = np.arange(length - lag)
        products[:, places, places + lag] += sums.T
        if lag:
            products[:, places + lag, places] += sums.T


def _sums(rows: Floats, windows: int) -> Floats:
    """Sums of each stretch of so many rows."""
    running = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)])
    return np.asarray(running[windows:] - running[:-windows], np.float64)


def filled(run: Rows) -> Floats:
    """The run `[T, S]` with each gap filled by the value before it, or 0 (the mean)."""
    values = np.asarray(run, np.float64)
    known = np.isfinite(values)
    if known.all():
        return values
    newest = np.maximum.accumulate(np.where(known, np.arange(len(values))[:, None], -1), axis=0)
    taken = np.take_along_axis(values, np.maximum(newest, 0), axis=0)
    return np.where(newest >= 0, taken, 0.0)


@dataclass(frozen=True, eq=False)
class Direct:
    """forecast = newest + (rows - newest) @ maps.

    Attributes:
        maps: `[K, L, horizon]`, K = 1 for all sensors, or one for each; L rows of look-back.
    """

    maps: Floats

    @property
    def rows(self) -> int:
        """Rows of look-back."""
        return int(self.maps.shape[1])

    def forecast(self, windows: Rows) -> Floats:
        """Forecasts `[n, horizon, S]` after complete windows `[n, W, S]`, standardised."""
        past = np.asarray(windows[:, -self.rows :], np.float64)
        newest = past[:, -1:]
        added = (past - newest).transpose(2, 0, 1) @ self.maps
        return np.asarray(newest + added.transpose(1, 2, 0), np.float64)


def persistence(horizon: int) -> Direct:
    """The newest value, repeated."""
    return Direct(np.zeros((1, 1, horizon)))


class Fit:
    """All direct forecasts of one horizon that some training windows give."""

    def __init__(self, moments: WindowMoments, horizon: int) -> None:
        """Take moments of windows whose last `horizon` rows are to be forecast."""
        self._horizon, self._windows = horizon, moments.windows
        self._newest = moments.products.shape[1] - horizon - 1
        self._products = _relative(moments.products, self._newest)

    def solved(self, rows: int) -> Iterator[tuple[float, Direct]]:
        """Forecasts from `rows` rows with each of `RIDGES`."""
        normal, right = self._blocks(self._products, rows)
        scale = np.trace(normal, axis1=1, axis2=2)[:, None] / max(1, rows - 1)
        values, vectors = np.linalg.eigh(normal)
        rotated = vectors.transpose(0, 2, 1) @ right
        for ridge in RIDGES:
            # A sensor that never moves has no scale.
            damped = np.maximum(values, 0.0) + ridge * np.maximum(scale, FLAT)
            yield ridge, Direct(vectors @ (rotated / damped[..., None]))

    def error(self, direct: Direct) -> float:
        """Mean squared error of a forecast over the windows of these moments."""
        products = self._products
        if len(direct.maps) < len(products):
            products = products.sum(axis=0, keepdims=True)
        normal, right = self._blocks(products, direct.rows)
        truth = products[:, self._targets, self._targets].sum()
        total = truth + np.sum(direct.maps * (normal @ direct.maps - 2 * right))
        return float(max(total, 0.0) / (self._windows * self._horizon))

    @property
    def _targets(self) -> NDArray[np.int64]:
        return np.arange(self._newest + 1, self._newest + 1 + self._horizon)

    def _blocks(self, products: Floats, rows: int) -> tuple[Floats, Floats]:
        """Moments of look-back rows with each other and with the rows ahead."""
        features = np.arange(self._newest - rows + 1, self._newest + 1)[:, None]
        return products[:, features, features.T], products[:, features, self._targets]


def _relative(products: Floats, newest: int) -> Floats:
    """The moments with all rows relative to the newest, which is 0 then."""
    moved = products - products[:, newest : newest + 1]
    return np.asarray(moved - moved[:, :, newest : newest + 1], np.float64)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A forecast and how well it does on held-back windows.

    Attributes:
        name: the kind of map, its look-back and its penalty.
        error: mean squared error in squared standard deviations.
    """

    name: str
    error: float
    direct: Direct


def candidates(
    train: Sequence[Rows], held_back: Sequence[Rows], *, rows: Sequence[int], horizon: int
) -> list[Candidate]:
    """Persistence, and what each look-back, kind of map and penalty gives.

    Args:
        train: standardised runs `[T, S]`.
        held_back: the same, of which the errors are.
        rows: look-backs that are tried.
        horizon: rows ahead.

    Raises:
        TrainingFailedError: the longest look-back and the horizon do not fit into any run.
    """
    length, sensors = max(rows) + horizon, train[0].shape[1]
    pooled = sensors * float(length) ** 2 > MOST_NUMBERS
    moments = WindowMoments.of(train, length, pooled=pooled)
    judged = WindowMoments.of(held_back, length, pooled=pooled)
    truth, plain = Fit(judged, horizon), persistence(horizon)
    fits = {"shared": Fit(moments.pooled(), horizon)}
    if not pooled and sensors * float(max(rows)) ** 3 <= MOST_WORK:
        fits["own"] = Fit(moments, horizon)
    found = [Candidate(PERSISTENCE, truth.error(plain), plain)]
    for kind, fit in fits.items():
        for look_back in rows:
            found += [
                Candidate(f"{kind} {look_back} rows, ridge {ridge:g}", truth.error(direct), direct)
                for ridge, direct in fit.solved(look_back)
            ]
    return found


def best(found: Sequence[Candidate]) -> Candidate:
    """The one with the smallest error."""
    return min(found, key=lambda each: each.error)
