"""A ridge vector autoregression, solved from moments: the base of the forecast and the monitor.

Moments add up over sites, so the solution of the sum is the solution of the pooled rows, with no
rounds. A site's own VAR is shrunk towards the fleet's in the same closed form: some rows of the
fleet count as rows of the site. The solution lives in standardised units, so that one penalty suits
all sensors. A device can do all of this. Numpy only; the same forecast as a torch module is in
`aimass_cloud.models.base`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import TrainingFailedError
from aimass_shared.moments import Moments

RIDGE = 50.0
SHRINKAGE = 0.1
FLAT = 1e-9

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Var:
    """x(t) = intercept + [x(t-1), ..., x(t-lags)] @ coefficients, in standardised units.

    Attributes:
        mean, scale: `[S]`, of the sensors, in their units.
        intercept: `[S]`. coefficients: `[lags * S, S]`.
        covariance: `[S, S]`, of the residuals over the rows that were fitted.
    """

    mean: Floats
    scale: Floats
    intercept: Floats
    coefficients: Floats
    covariance: Floats
    lags: int

    def standardised(self, values: NDArray[np.floating]) -> Floats:
        """Values in the sensors' units as standard deviations from the mean."""
        return (np.asarray(values, np.float64) - self.mean) / self.scale

    def forecast(self, windows: NDArray[np.floating], horizon: int) -> Floats:
        """Forecasts `[n, horizon, S]` in standardised units after windows `[n, W, S]` in units."""
        history = self.standardised(windows)[:, -self.lags :]
        for _ in range(horizon):
            past = history[:, : -self.lags - 1 : -1].reshape(len(history), -1)
            row = self.intercept + past @ self.coefficients
            history = np.concatenate([history, row[:, None]], axis=1)
        return history[:, self.lags :]

    def residuals(self, rows: NDArray[np.floating]) -> Floats:
        """One-step errors `[T - lags, S]` in standardised units over a run `[T, S]` in units.

        A missing value (not a number) counts as the mean where it is history, and has no error.
        """
        raw = self.standardised(rows)
        missing = np.isnan(raw)
        z = np.where(missing, 0.0, raw)
        count = len(z) - self.lags
        past = [z[self.lags - lag : self.lags - lag + count] for lag in range(1, self.lags + 1)]
        ahead = self.intercept + np.concatenate(past, axis=1) @ self.coefficients
        return np.where(missing[self.lags :], 0.0, z[self.lags :] - ahead)

    def shrunk_covariance(self, shrinkage: float = SHRINKAGE) -> Floats:
        """The residuals' covariance, shrunk towards its diagonal.

        It comes from the rows that were fitted: unshrunk, its small eigenvalues are too small on
        any other row.
        """
        spread = np.diag(np.maximum(np.diag(self.covariance), FLAT))
        return (1 - shrinkage) * self.covariance + shrinkage * spread

    def whitening(self, shrinkage: float = SHRINKAGE) -> Floats:
        """W `[S, S]` such that residuals @ W have unit covariance, each still near its own sensor.

        W = D^-1/2 R^-1/2 with the variances D and the correlations R: of all whitenings the one
        whose results correlate most with the sensors (corr-max: Garthwaite and Koch, Australian &
        New Zealand Journal of Statistics 58 (2016) 99-119; ZCA-cor: Kessy, Lewin and Strimmer, The
        American Statistician 72 (2018) 309-314). So a squared result is its sensor's share of T2:
        the shares are not negative and add up to T2 exactly.
        """
        covariance = self.shrunk_covariance(shrinkage)
        deviation = np.sqrt(np.diag(covariance))
        values, axes = np.linalg.eigh(covariance / np.outer(deviation, deviation))
        root = (axes / np.sqrt(np.maximum(values, FLAT))) @ axes.T
        return np.asarray(root / deviation[:, None], np.float64)

    def surprise(self, rows: NDArray[np.floating]) -> float:
        """Mean negative log-likelihood of a held-back run `[T, S]` in units, up to a constant.

        The measure by which a shrinkage is chosen; it adds up over sites like any mean.
        """
        white = self.residuals(rows) @ self.whitening()
        _, volume = np.linalg.slogdet(self.shrunk_covariance())
        return float(((white**2).sum(axis=1).mean() + volume) / 2 + np.log(self.scale).sum())


def solve(moments: Moments, ridge: float = RIDGE) -> Var:
    """The ridge VAR of moments; the intercept is not penalised.

    Raises:
        TrainingFailedError: there are too few rows, or they give no finite solution.
    """
    mean, scale = _units(moments)
    return _solved(_standardised(moments, mean, scale), mean, scale, ridge=ridge)


def centred(moments: Moments) -> Moments:
    """The moments of a site's rows less the site's own mean.

    Their sum over sites holds the dynamics within sites and no differences between them, so it is
    what sites shrink towards. Exact, without the rows.

    Raises:
        TrainingFailedError: there are no rows.
    """
    if moments.n == 0:
        raise TrainingFailedError("a site without complete rows has no mean: collect more history")
    mean = moments.zy[0] / moments.n
    centre = np.concatenate([[0.0], np.tile(mean, moments.lags)])
    total = moments.zz[0]
    moved = np.outer(total, centre)
    zz = _square(moments.zz - moved - moved.T + moments.n * np.outer(centre, centre))
    zy = moments.zy - np.outer(total, mean)
    yy = _square(moments.yy - moments.n * np.outer(mean, mean))
    # What is left of a sensor that never moves is rounding noise, which is not to become its unit.
    moves = np.diag(yy) > FLAT * moments.n * (1 + mean**2)
    known = np.concatenate([[True], np.tile(moves, moments.lags)])
    return Moments(
        zz=np.where(np.outer(known, known), zz, 0.0),
        zy=np.where(np.outer(known, moves), zy, 0.0),
        yy=np.where(np.outer(moves, moves), yy, 0.0),
        n=moments.n,
        sensors=moments.sensors,
        lags=moments.lags,
    )


def shrunk(site: Moments, fleet: Moments, weight: float, *, ridge: float = RIDGE) -> Var:
    """A site's VAR, shrunk towards its fleet's: `weight` rows of the fleet count as the site's own.

    Coefficients and covariance are those of a conjugate normal-inverse-Wishart prior with the
    fleet's moments as `weight` rows of evidence. Mean and intercept are the site's. It runs on a
    device from its own moments and the fleet's.

    Args:
        site: of the site's rows, in the sensors' units.
        fleet: the sum of `centred` moments over sites.
        weight: 0 is the site alone, infinity the fleet's dynamics about the site's mean.
        ridge: as for `solve`.

    Raises:
        BadUpdateError: site and fleet have other sensors or lags.
        TrainingFailedError: there are too few rows, or they give no finite solution.
    """
    site.add(fleet)
    _, scale = _units(fleet)
    mean = site.zy[0] / max(site.n, 1)
    own = _standardised(centred(site), np.zeros_like(mean), scale)
    common = _standardised(fleet, np.zeros_like(mean), scale)
    found = _solved(own.mixed(common, weight), mean, scale, ridge=ridge)
    return Var(
        mean=mean,
        scale=scale,
        intercept=found.intercept,
        coefficients=found.coefficients,
        covariance=_pooled(own, common, found, weight=weight, ridge=ridge),
        lags=site.lags,
    )


@dataclass(frozen=True, eq=False)
class _Sums:
    """Moments of standardised rows; `n` need not be whole."""

    zz: Floats
    zy: Floats
    yy: Floats
    n: float
    lags: int

    @property
    def arrays(self) -> tuple[Floats, Floats, Floats]:
        return self.zz, self.zy, self.yy

    def mixed(self, other: "_Sums", rows: float) -> "_Sums":
        """These and as much of the others as `rows` rows are; all of the others at infinity."""
        if math.isinf(rows):
            return other
        share = rows / other.n
        arrays = zip(self.arrays, other.arrays, strict=True)
        zz, zy, yy = (own + share * more for own, more in arrays)
        return _Sums(zz, zy, yy, self.n + rows, self.lags)

    def covariance(self, solution: Floats) -> Floats:
        """Of the residuals that a solution leaves `[S, S]`."""
        cross = solution.T @ self.zy
        found = (self.yy - cross - cross.T + solution.T @ self.zz @ solution) / self.n
        return np.asarray((found + found.T) / 2, np.float64)


def _solved(sums: _Sums, mean: Floats, scale: Floats, *, ridge: float) -> Var:
    penalty = np.diag(np.concatenate([[0.0], np.full(len(sums.zz) - 1, ridge)]))
    solution = _solution(sums.zz + penalty, sums.zy)
    return Var(
        mean=mean,
        scale=scale,
        intercept=solution[0],
        coefficients=solution[1:],
        covariance=sums.covariance(solution),
        lags=sums.lags,
    )


def _pooled(own: _Sums, common: _Sums, found: Var, *, weight: float, ridge: float) -> Floats:
    """Covariance of the site's residuals and, as `weight` rows, of the fleet's under its own VAR.

    The fleet's residuals are those of the fleet's solution: those of the site's would count the
    difference between the two as noise.
    """
    nowhere = np.zeros_like(found.mean)
    fleet = _solved(common, nowhere, found.scale, ridge=ridge).covariance
    if math.isinf(weight):
        return fleet
    site = own.covariance(np.vstack([found.intercept, found.coefficients]))
    return np.asarray((own.n * site + weight * fleet) / (own.n + weight), np.float64)


def _square(products: Floats) -> Floats:
    """A matrix of sums of products without what rounding may do: one-sided or negative squares."""
    even = (products + products.T) / 2
    np.fill_diagonal(even, np.maximum(np.diag(even), 0.0))
    return even


def _units(moments: Moments) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each sensor."""
    sensors, rows = len(moments.sensors), moments.n
    if rows <= sensors:
        raise TrainingFailedError(
            f"{rows} complete rows of {sensors} sensors cannot fit a VAR: collect more history"
        )
    mean = moments.zy[0] / rows
    variance = np.diag(moments.yy) / rows - mean**2
    # A sensor that never moves would divide by rounding noise: leave it in its unit.
    scale = np.where(variance > FLAT * (1 + mean**2), np.sqrt(np.maximum(variance, FLAT)), 1.0)
    return mean, scale


def _solution(normal: Floats, right: Floats) -> Floats:
    try:
        solution = np.linalg.solve(normal, right)
    except np.linalg.LinAlgError as error:
        raise TrainingFailedError("the moments are singular: check for copied sensors") from error
    if not np.isfinite(solution).all():
        raise TrainingFailedError("the moments give no finite VAR: check the history for outliers")
    return np.asarray(solution, np.float64)


def _standardised(moments: Moments, mean: Floats, scale: Floats) -> _Sums:
    """The moments that the rows would have had in standardised units."""
    means, scales = np.tile(mean, moments.lags), np.tile(scale, moments.lags)
    past = np.diag(np.concatenate([[1.0], 1 / scales]))
    past[0, 1:] = -means / scales
    # y = mean + scale * y', and the first entry of z is 1: its row of zy is the sum of y.
    zz = past.T @ moments.zz @ past
    zy = past.T @ (moments.zy - np.outer(moments.zz[:, 0], mean)) / scale
    total = moments.zy[0]
    centre = (
        moments.yy
        - np.outer(total, mean)
        - np.outer(mean, total)
        + moments.n * np.outer(mean, mean)
    )
    return _Sums(zz, zy, centre / np.outer(scale, scale), moments.n, moments.lags)
