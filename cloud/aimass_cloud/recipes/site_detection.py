"""How well monitors find labelled faults at many sites: shrinkage beside its parts and baselines.

The sites are one fleet. Every candidate gets its limits on the same held-back rows of each site.
Nothing is point-adjusted. Numpy only.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.models.pca import Pca
from aimass_cloud.models.rates import Flags, Rates, Run, rates, references
from aimass_cloud.models.shrinkage import (
    LAGS,
    RIDGE,
    Rows,
    SiteRows,
    fleet_of,
    moments_of,
    site_monitors,
)
from aimass_shared.monitoring import RootSums, averaged_t2, limit
from aimass_shared.var import Var, shrunk, solve

AVERAGED: Final = 10

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelledSite:
    """A site whose test rows are labelled one by one.

    Attributes:
        normal: what is learnt from. test: the rows `[N, S]` that follow the calibration rows.
        faulty: `[N]`, whether a test row is.
    """

    normal: SiteRows
    test: Rows
    faulty: Flags

    def since(self, lead: int) -> Floats:
        """The test rows with `lead` rows before them, as history."""
        own = self.normal
        parts = [own.train, own.calibration] if own.is_one_run else [own.calibration]
        history = np.concatenate(parts)
        return np.concatenate([history[len(history) - lead :], self.test])


Sites = Mapping[str, LabelledSite]
Runs = list[Run]


def site_report(sites: Sites, seed: int = 0) -> dict[str, Rates]:
    """Rates of every candidate and of what needs no data, over all rows of all sites."""
    runs = site_runs(sites)
    found = {name: rates(each) for name, each in runs.items()}
    return {**found, **references(next(iter(runs.values())), seed)}


def site_runs(sites: Sites, *, lags: int = LAGS, ridge: float = RIDGE) -> dict[str, Runs]:
    """The scored test rows of each candidate, a run for each site in the order of `sites`.

    "site VAR to fleet" is the product's; the others have T2 averaged over ten rows.
    """
    normal = {name: site.normal for name, site in sites.items()}
    monitors = site_monitors(normal, lags=lags, ridge=ridge)
    own = {name: moments_of(site.train, lags) for name, site in normal.items()}
    fleet = fleet_of(list(own.values()))
    return {
        "site VAR to fleet": [
            Run(site.faulty, monitors[name].score(site.since(monitors[name].lead)))
            for name, site in sites.items()
        ],
        "site VAR to fleet, averaged": _averaged(
            sites, {name: monitor.var for name, monitor in monitors.items()}
        ),
        "fleet VAR, averaged": _averaged(
            sites, {name: shrunk(each, fleet, math.inf, ridge=ridge) for name, each in own.items()}
        ),
        "site VAR, averaged": _averaged(
            sites, {name: solve(each, ridge) for name, each in own.items()}
        ),
        "PCA, averaged": _pca(sites),
    }


def _averaged(sites: Sites, fitted: Mapping[str, Var]) -> Runs:
    def scorer(var: Var) -> Callable[[Rows], Floats]:
        whitening = var.whitening()
        return lambda rows: averaged_t2(var.residuals(rows) @ whitening, AVERAGED)

    lead = next(iter(fitted.values())).lags + AVERAGED - 1
    return _limited(sites, {name: scorer(var) for name, var in fitted.items()}, lead)


def _pca(sites: Sites) -> Runs:
    def scorer(pca: Pca) -> Callable[[Rows], Floats]:
        share = np.full(AVERAGED, 1 / AVERAGED)
        return lambda rows: np.convolve(pca.score(rows), share, mode="valid")

    fitted = {name: scorer(Pca.fit(site.normal.train)) for name, site in sites.items()}
    return _limited(sites, fitted, AVERAGED - 1)


def _limited(sites: Sites, scorers: Mapping[str, Callable[[Rows], Floats]], lead: int) -> Runs:
    """Scores in units of each site's limit, whose spread is that of all sites."""
    sums = {
        name: RootSums.of(scorers[name](site.normal.since(lead)), AVERAGED)
        for name, site in sites.items()
    }
    fleet = list(sums.values())
    return [
        Run(site.faulty, scorers[name](site.since(lead)) / limit(sums[name], fleet))
        for name, site in sites.items()
    ]
