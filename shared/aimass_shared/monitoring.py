"""Monitoring a site with its VAR: charts of T2, exact shares of sensors, and calibrated limits.

Whitened one-step residuals of a VAR keep their limits on autocorrelated telemetry, where PCA's do
not. Three charts read them: their squares over few rows, which sees a lot at once; over more rows,
which sees a little more noise; and the square of their mean, which sees small shifts that last (as
a multivariate EWMA does: Lowry, Woodall, Champ and Rigdon, Technometrics 34 (1992) 46-53, here with
equal weights). The score is the largest of the charts in units of its limit. Limits come from sums
of cube roots, which add up over sites. The same as a torch module is `aimass_cloud.models.monitor`.
Numpy only; cloud and devices run it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import TrainingFailedError
from aimass_shared.var import Floats, Var

NOMINAL: Final = 0.005
MIN_FREEDOM = 3.0


class Chart(msgspec.Struct, frozen=True):
    """What is averaged over how many of the newest rows: squared residuals or the residuals.

    `margin` widens the limit: an operating point moves slowly in normal operation too, more than a
    short calibration segment shows.
    """

    kind: Literal["spread", "shift"]
    rows: int
    margin: float = 1.0


CHARTS: Final = (Chart("spread", 3), Chart("spread", 12), Chart("shift", 6, margin=1.5))
LONGEST: Final = max(chart.rows for chart in CHARTS)


class RootSums(msgspec.Struct, frozen=True):
    """Sums over the cube roots of a statistic in normal operation.

    The cube root of a chi-square is near normal, however few its degrees of freedom (Wilson and
    Hilferty, PNAS 17 (1931) 684-688); its logarithm is not, and gives limits that are too wide.

    Attributes:
        count: values. rows: how many rows each is averaged over, so how far apart two are that tell
            different things.
        total: sum of the roots. squares: of their squared deviations from the site's mean.
    """

    count: int
    rows: int
    total: float
    squares: float

    @classmethod
    def of(cls, values: NDArray[np.floating], rows: int) -> "RootSums":
        """The sums of one site's values, none negative.

        Raises:
            TrainingFailedError: there are fewer values than two independent ones.
        """
        if len(values) < 2 * rows:
            raise TrainingFailedError(
                f"{len(values)} windows are too few to calibrate a limit: {2 * rows} are needed"
            )
        roots = np.cbrt(np.asarray(values, np.float64))
        squares = float(((roots - roots.mean()) ** 2).sum())
        return cls(len(roots), rows, float(roots.sum()), squares)

    @property
    def independent(self) -> float:
        """How many independent values these are worth."""
        return self.count / self.rows


def limit(site: RootSums, fleet: Sequence[RootSums] = (), *, nominal: float = NOMINAL) -> float:
    """The value that a site exceeds in a share `nominal` of normal operation.

    The mean of the roots is the site's own, their spread is pooled over the fleet, as few
    independent values lie in a calibration segment; and the limit is that of the next value, given
    so few (Student's t), which is why a short segment gives a wider limit.

    Args:
        site: of the site whose limit it is.
        fleet: of all sites, the site among them; none where there is no fleet.
        nominal: share of false alarms.
    """
    sites = list(fleet) or [site]
    # Overlapping windows: the spread uses them all, but there is only so much evidence for it.
    freedom = max(sum(each.independent - 1 for each in sites), MIN_FREEDOM)
    spread = math.sqrt(
        sum(each.squares for each in sites) / sum(each.count - 1 for each in sites)
    ) * math.sqrt(1 + 1 / site.independent)
    return float((site.total / site.count + spread * _student(1 - nominal, freedom)) ** 3)


class SiteLimits(msgspec.Struct, frozen=True):
    """Limits of the charts at one site, as data for a release or a device.

    Attributes:
        levels: in the order of `CHARTS`; 1 is about the mean of every chart's statistic.
        nominal: share of false alarms that all charts together were calibrated for.
    """

    levels: tuple[float, ...] = (1.0,) * len(CHARTS)
    nominal: float = NOMINAL


UNCALIBRATED: Final = SiteLimits()


@dataclass(frozen=True, eq=False)
class SiteMonitor:
    """A site's VAR with its whitening and, once calibrated, its limits."""

    var: Var
    whitening: Floats
    limits: SiteLimits = UNCALIBRATED

    @classmethod
    def uncalibrated(cls, var: Var) -> "SiteMonitor":
        """The monitor of a VAR, with limits that mean nothing yet."""
        return cls(var, var.whitening())

    @property
    def lead(self) -> int:
        """Rows before the first score."""
        return self.var.lags + LONGEST - 1

    def calibration(self, *runs: NDArray[np.floating]) -> tuple[RootSums, ...]:
        """Sums of each chart over normal runs `[T, S]` that the VAR was not fitted on.

        Raises:
            TrainingFailedError: there are too few rows.
        """
        each = np.concatenate([statistics(self.shares(rows)) for rows in runs]).T
        return tuple(RootSums.of(one, c.rows) for one, c in zip(each, CHARTS, strict=True))

    def calibrated(
        self,
        site: Sequence[RootSums],
        fleet: Sequence[Sequence[RootSums]] = (),
        *,
        nominal: float = NOMINAL,
    ) -> "SiteMonitor":
        """The monitor with the limits of a site; `fleet` are the `calibration` of all sites.

        Any chart may raise the alarm, so each has its part of the false alarms (Bonferroni).
        """
        part = nominal / len(CHARTS)
        levels = tuple(
            limit(own, [sums[place] for sums in fleet], nominal=part) * CHARTS[place].margin
            for place, own in enumerate(site)
        )
        return SiteMonitor(self.var, self.whitening, SiteLimits(levels, nominal))

    def shares(self, rows: NDArray[np.floating]) -> Floats:
        """Shares `[T - lead, K, S]` of each sensor in each chart, over a run `[T, S]` in units."""
        return shares(self.var.residuals(rows) @ self.whitening)

    def score(self, rows: NDArray[np.floating]) -> Floats:
        """Scores `[T - lead]` of a run `[T, S]`; over 1 is over the limit."""
        return np.asarray(self.explained(rows).sum(axis=1), np.float64)

    def explained(self, rows: NDArray[np.floating]) -> Floats:
        """Shares `[T - lead, S]` of sensors in the score; they add up to it exactly."""
        each = self.shares(rows) / np.array(self.limits.levels)[:, None]
        largest = each.sum(axis=2).argmax(axis=1)
        return np.asarray(each[np.arange(len(each)), largest], np.float64)


def shares(white: NDArray[np.floating]) -> Floats:
    """Shares `[n - LONGEST + 1, K, S]` of sensors in the charts over whitened residuals `[n, S]`.

    A chart's statistic is the sum of its shares, and about 1 in normal operation.
    """
    sensors = white.shape[1]
    parts = []
    for chart in CHARTS:
        if chart.kind == "spread":
            part = _means(white**2, chart.rows)
        else:
            part = _means(white, chart.rows) ** 2 * chart.rows
        parts.append(part[LONGEST - chart.rows :] / sensors)
    return np.stack(parts, axis=1)


def statistics(parts: NDArray[np.floating]) -> Floats:
    """The charts' statistics `[n, K]` from the sensors' shares `[n, K, S]`."""
    return np.asarray(parts.sum(axis=2), np.float64)


def averaged_t2(white: NDArray[np.floating], rows: int) -> Floats:
    """T2 per sensor, averaged over `rows` rows: `[n - rows + 1]` of whitened residuals `[n, S]`."""
    return np.asarray(_means(white**2, rows).mean(axis=1), np.float64)


def _means(values: NDArray[np.floating], rows: int) -> Floats:
    """Moving means over the time axis, `[n - rows + 1, S]`."""
    if len(values) < rows:
        return np.empty((0, values.shape[1]))
    view = np.lib.stride_tricks.sliding_window_view(values, rows, axis=0)
    return np.asarray(view.mean(axis=-1), np.float64)


def _student(share: float, freedom: float) -> float:
    """Quantile of Student's t by its expansion about the normal's (Abramowitz, Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(share)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
