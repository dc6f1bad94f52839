"""Monitors of many sites: each site's VAR shrunk towards the fleet's, with limits of its own.

Every step is a sum over sites: of moments for the VAR, of surprise on held-back rows for the
weight of the fleet, of cube roots of scores for the spread of the limits. So sites may keep their
rows; this runs it where the rows of all are at hand. Numpy only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aimass_shared.manifest import Normal
from aimass_shared.moments import Moments, moments
from aimass_shared.monitoring import NOMINAL, SiteMonitor
from aimass_shared.var import Var, centred, shrunk

LAGS: Final = 3
RIDGE: Final = 20.0
WEIGHTS: Final = (0.0, 100.0, 300.0, 1000.0, 3000.0, math.inf)
WEIGHT: Final = 300.0
"""Where nobody has held-back rows of several sites; what those of 16 water loops (SKAB) choose."""

Rows = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class SiteRows:
    """Normal operation of one site, in the sensors' units.

    Attributes:
        train: `[T, S]`. calibration: `[C, S]`, held back.
        is_one_run: whether the calibration rows follow those of `train` without a gap.
    """

    train: Rows
    calibration: Rows
    is_one_run: bool = True

    def since(self, lead: int) -> Rows:
        """The calibration rows, with `lead` rows before them as history where there are such."""
        if not self.is_one_run:
            return self.calibration
        return np.concatenate([self.train[len(self.train) - lead :], self.calibration])


def moments_of(rows: Rows, lags: int = LAGS) -> Moments:
    """Moments of one run `[T, S]` without gaps, the sensors numbered."""
    names = tuple(str(number) for number in range(rows.shape[1]))
    return moments(
        [(rows.astype(np.float32), np.ones(rows.shape, np.float32))], sensors=names, lags=lags
    )


def fleet_of(sites: Sequence[Moments]) -> Moments:
    """What sites shrink towards: the sum of their moments, each about its own mean."""
    total = Moments.empty(sites[0].sensors, sites[0].lags)
    for site in sites:
        total = total.add(centred(site))
    return total


def chosen_weight(
    sites: Mapping[str, Moments], rows: Mapping[str, SiteRows], *, ridge: float = RIDGE
) -> float:
    """The weight of the fleet under which held-back normal rows are least surprising, of `WEIGHTS`.

    The mean of all sites chooses, because one site has too few rows to. A single site has no fleet.
    """
    if len(sites) == 1:
        return 0.0
    fleet = fleet_of(list(sites.values()))

    def surprise(weight: float) -> float:
        each = [
            shrunk(own, fleet, weight, ridge=ridge).surprise(rows[name].since(own.lags))
            for name, own in sites.items()
        ]
        return float(np.mean(each))

    return min(WEIGHTS, key=surprise)


def site_monitors(
    rows: Mapping[str, SiteRows],
    *,
    lags: int = LAGS,
    ridge: float = RIDGE,
    weight: float | None = None,
    nominal: float = NOMINAL,
) -> dict[str, SiteMonitor]:
    """A calibrated monitor for each site.

    Args:
        rows: of the sites; all have the same sensors.
        lags: rows of history of the VAR.
        ridge: its penalty.
        weight: rows of the fleet that count as a site's own; None chooses on the held-back rows,
            and is 0 for a single site, which has no fleet.
        nominal: share of false alarms.

    Raises:
        TrainingFailedError: there are too few rows.
    """
    sites = {name: moments_of(own.train, lags) for name, own in rows.items()}
    chosen = chosen_weight(sites, rows, ridge=ridge) if weight is None else weight
    fleet = fleet_of(list(sites.values()))
    plain = {
        name: SiteMonitor.uncalibrated(shrunk(own, fleet, chosen, ridge=ridge))
        for name, own in sites.items()
    }
    sums = {name: own.calibration(rows[name].since(own.lead)) for name, own in plain.items()}
    fleet_sums = list(sums.values())
    return {
        name: own.calibrated(sums[name], fleet_sums, nominal=nominal) for name, own in plain.items()
    }


def normal_of(var: Var, calibration: Rows) -> Normal:
    """What devices measure drift against, for the contract of a model with this VAR as its base.

    Args:
        var: the linear base of the forecast.
        calibration: a run `[T, S]` of normal operation that the VAR was not fitted on.
    """
    missed = np.sqrt((var.residuals(calibration) ** 2).mean(axis=0)) * var.scale
    parts = (var.mean, var.scale, missed)
    return Normal(*(tuple(float(f"{value:.6g}") for value in part) for part in parts))
