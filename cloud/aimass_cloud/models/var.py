"""A ridge vector autoregression, solved from moments: the base of the forecast and the monitor.

Moments add up over sites, so the solution of the sum is the solution of the pooled rows, with no
rounds. The solution lives in standardised units, so that one penalty suits all sensors. Numpy only;
the same sums as a torch module are in `aimass_cloud.models.base`.
"""

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

    def whitening(self, shrinkage: float = SHRINKAGE) -> Floats:
        """W `[S, S]` such that residuals @ W have unit covariance.

        The covariance is shrunk towards its diagonal, because it comes from the rows that were
        fitted: unshrunk, its small eigenvalues are too small on any other row.
        """
        spread = np.diag(np.maximum(np.diag(self.covariance), FLAT))
        shrunk = (1 - shrinkage) * self.covariance + shrinkage * spread
        return np.asarray(np.linalg.inv(np.linalg.cholesky(shrunk)).T, np.float64)


def solve(moments: Moments, ridge: float = RIDGE) -> Var:
    """The ridge VAR of moments; the intercept is not penalised.

    Raises:
        TrainingFailedError: there are too few rows, or they give no finite solution.
    """
    sensors, rows = len(moments.sensors), moments.n
    if rows <= sensors:
        raise TrainingFailedError(
            f"{rows} complete rows of {sensors} sensors cannot fit a VAR: collect more history"
        )
    mean = moments.zy[0] / rows
    variance = np.diag(moments.yy) / rows - mean**2
    # A sensor that never moves would divide by rounding noise: leave it in its unit.
    scale = np.where(variance > FLAT * (1 + mean**2), np.sqrt(np.maximum(variance, FLAT)), 1.0)
    zz, zy, yy = _standardised(moments, mean, scale)
    penalty = np.diag(np.concatenate([[0.0], np.full(len(zz) - 1, ridge)]))
    solution = _solution(zz + penalty, zy)
    cross = solution.T @ zy
    covariance = (yy - cross - cross.T + solution.T @ zz @ solution) / rows
    return Var(
        mean=mean,
        scale=scale,
        intercept=solution[0],
        coefficients=solution[1:],
        covariance=(covariance + covariance.T) / 2,
        lags=moments.lags,
    )


def _solution(normal: Floats, right: Floats) -> Floats:
    try:
        solution = np.linalg.solve(normal, right)
    except np.linalg.LinAlgError as error:
        raise TrainingFailedError("the moments are singular: check for copied sensors") from error
    if not np.isfinite(solution).all():
        raise TrainingFailedError("the moments give no finite VAR: check the history for outliers")
    return np.asarray(solution, np.float64)


def _standardised(moments: Moments, mean: Floats, scale: Floats) -> tuple[Floats, Floats, Floats]:
    """The moments that the rows would have had in standardised units."""
    means, scales = np.tile(mean, moments.lags), np.tile(scale, moments.lags)
    past = np.diag(np.concatenate([[1.0], 1 / scales]))
    past[0, 1:] = -means / scales
    # y = mean + scale * y', and the first entry of z is 1: its row of zy is the sum of y.
    zz = past.T @ moments.zz @ past
    zy = past.T @ (moments.zy - np.outer(moments.zz[:, 0], mean)) / scale
    total = moments.zy[0]
    centred = (
        moments.yy
        - np.outer(total, mean)
        - np.outer(mean, total)
        + moments.n * np.outer(mean, mean)
    )
    return zz, zy, centred / np.outer(scale, scale)
