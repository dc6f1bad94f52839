"""PCA monitoring with Hotelling's T2 and the squared prediction error Q: the field's baseline.

Jackson and Mudholkar, Technometrics 21 (1979). Its textbook limits do not hold on autocorrelated
rows, so a threshold is calibrated on held-back rows, as for every other score. Numpy only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEPT_VARIANCE = 0.9

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pca:
    """Principal axes of normal operation.

    Attributes:
        mean, scale: `[S]`. axes: `[S, kept]`. variances: `[kept]`.
        t2_level, q_level: the statistics' 99 % quantiles over the rows that were fitted.
    """

    mean: Floats
    scale: Floats
    axes: Floats
    variances: Floats
    t2_level: float = 1.0
    q_level: float = 1.0

    @classmethod
    def fit(cls, rows: NDArray[np.floating]) -> "Pca":
        """Fit rows `[T, S]` of normal operation."""
        wide = np.asarray(rows, np.float64)
        mean, scale = wide.mean(axis=0), np.maximum(wide.std(axis=0), 1e-9)
        variances, axes = np.linalg.eigh(np.cov((wide - mean) / scale, rowvar=False))
        variances, axes = variances[::-1], axes[:, ::-1]
        share = np.cumsum(variances) / variances.sum()
        kept = int(np.searchsorted(share, KEPT_VARIANCE)) + 1
        plain = cls(mean, scale, axes[:, :kept], variances[:kept])
        t2, q = (float(np.quantile(statistic, 0.99)) for statistic in plain.statistics(wide))
        return cls(mean, scale, plain.axes, plain.variances, t2, q)

    def statistics(self, rows: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """T2 `[T]` and Q `[T]` of rows `[T, S]`."""
        centred = (np.asarray(rows, np.float64) - self.mean) / self.scale
        scores = centred @ self.axes
        remainder = centred - scores @ self.axes.T
        return (scores**2 / self.variances).sum(axis=1), (remainder**2).sum(axis=1)

    def score(self, rows: NDArray[np.floating]) -> Floats:
        """The larger of both statistics in units of its level, `[T]`: "T2 or Q" as one score."""
        t2, q = self.statistics(rows)
        return np.maximum(t2 / self.t2_level, q / self.q_level)
