"""What a device gains by a monitor of its own, in its own code: SKAB, and a plant that ships.

Each experiment is once the site, and all others of its folder the fleet of its release. The site
has 400 rows of normal operation; `aimass_edge.predict.site_fit` fits on 80 % and calibrates on the
rest, as an agent with `monitor.site_rows = 400` does. The rest of the experiment is the test. Three
monitors are compared: the release's (one VAR of all others, with their limits), the site's without
a fleet, and the site's shrunk towards it. Nothing is drawn at random.

The plant that ships (Tennessee Eastman) is a site like the one that its release was trained on: its
480 held-back rows are the site's, and the release's monitor is calibrated on the same.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.models.fleet import moments_of_runs, packed_fleet, weight_of
from aimass_cloud.models.rates import Run, auroc, rates
from aimass_cloud.models.shrinkage import LAGS, RIDGE, WEIGHT
from aimass_cloud.recipes import tep
from aimass_cloud.recipes.site_detection import LabelledSite
from aimass_edge.predict.site_fit import Fitted, fitted
from aimass_shared.errors import TrainingFailedError
from aimass_shared.fleet import Fleet, unpack
from aimass_shared.moments import Moments
from aimass_shared.monitoring import SiteMonitor
from aimass_shared.var import solve
from benchmarks.models.skab import read
from benchmarks.models.table import Row

TIMED: Final = 300
Sites = Mapping[str, LabelledSite]
Floats = NDArray[np.float64]


def measure(folder: Path, seeds: Sequence[int] = ()) -> list[Row]:
    """Figures of every set of experiments under a folder."""
    del seeds  # nothing is random
    folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    sets = {path.name: found for path in folders if len(found := read(path)) > 1}
    return [*(row for name, found in sets.items() for row in _figures(name, found)), *_plant()]


def _figures(name: str, sites: Sites) -> list[Row]:
    where, took = f"SKAB {name}, a site", []
    runs: dict[str, list[Run]] = {"release": [], "site alone": [], "site to fleet": []}
    for held_out, site in sites.items():
        others = {key: other for key, other in sites.items() if key != held_out}
        fleet, shared = _released(others)
        alone = Fleet(fleet.moments, 0.0, fleet.ridge)
        normal = np.concatenate([site.normal.train, site.normal.calibration]).astype(np.float32)
        own, seconds = _timed(lambda: _fit(normal, fleet))  # noqa: B023  called at once
        took.append(seconds)
        monitors = (shared, _fit(normal, alone).monitor, own.monitor)
        for each, monitor in zip(runs.values(), monitors, strict=True):
            each.append(Run(site.faulty, monitor.score(site.since(monitor.lead))))
    rows = [row for candidate, each in runs.items() for row in _rows(where, candidate, each)]
    weight = Row(where, "site to fleet", "weight", fleet.weight)
    return [*rows, weight, *_costs(where, own.monitor, normal=normal, took=took)]


def _plant() -> list[Row]:
    where, data = "TEP, a site", tep.load()
    total = moments_of_runs([data.train], sensors=data.names, lags=LAGS)
    fleet = unpack(_packed(total.within, WEIGHT), data.names)
    plain = SiteMonitor.uncalibrated(solve(total, RIDGE))
    shared = plain.calibrated(plain.calibration(data.calibration))
    fits = [_timed(lambda: _fit(data.calibration, fleet)) for _ in range(5)]
    own, took = fits[0][0].monitor, [seconds for _, seconds in fits]
    alone = _fit(data.calibration, Fleet(fleet.moments, 0.0, fleet.ridge)).monitor
    rows = []
    for candidate, monitor in (
        ("release", shared),
        ("site alone", alone),
        ("site to fleet", own),
    ):
        first = data.fault_start - monitor.lead
        found = [np.mean(monitor.score(run)[first:] > 1) for run in data.faults.values()]
        rows += [
            Row(where, candidate, "FAR %", 100 * float(np.mean(monitor.score(data.test) > 1))),
            Row(where, candidate, "FDR %", 100 * float(np.mean(found))),
        ]
    return [*rows, *_costs(where, own, normal=data.calibration, took=took)]


def _costs(
    where: str, monitor: SiteMonitor, *, normal: NDArray[np.float32], took: Sequence[float]
) -> list[Row]:
    return [
        Row(where, "site to fleet", "fit ms", 1e3 * float(np.median(took))),
        Row(where, "site to fleet", "window us", _window_us(monitor, normal)),
    ]


def _released(others: Sites) -> tuple[Fleet, SiteMonitor]:
    """The fleet as a release carries it, and the monitor of the release."""
    normal = {name: site.normal for name, site in others.items()}
    sensors = tuple(str(at) for at in range(next(iter(normal.values())).train.shape[1]))
    runs = [rows.train.astype(np.float32) for rows in normal.values()]
    total = moments_of_runs(runs, sensors=sensors, lags=LAGS)
    raw = _packed(total.within, weight_of(normal))
    plain = SiteMonitor.uncalibrated(solve(total, RIDGE))
    longest = max((rows.calibration for rows in normal.values()), key=len)
    return unpack(raw, sensors), plain.calibrated(plain.calibration(longest))


def _packed(within: Moments, weight: float) -> bytes:
    raw = packed_fleet(within, weight)
    if raw is None:
        raise TrainingFailedError("there are too few rows for a fleet")
    return raw


def _fit(normal: NDArray[np.float32], fleet: Fleet) -> Fitted:
    return fitted([(normal, np.ones_like(normal))], fleet)


def _timed(work: Callable[[], Fitted]) -> tuple[Fitted, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def _window_us(monitor: SiteMonitor, rows: NDArray[np.float32]) -> float:
    """Median microseconds of one window."""
    newest = rows[: monitor.lead + 1].astype(np.float64)
    took = []
    for _ in range(TIMED):
        start = time.perf_counter()
        monitor.explained(newest)
        took.append(time.perf_counter() - start)
    return 1e6 * float(np.median(took))


def _rows(where: str, candidate: str, runs: Sequence[Run]) -> list[Row]:
    areas = [area for run in runs if (area := auroc(run.faulty, run.score)) is not None]
    found = rates(runs)
    figures = {
        "AUROC": float(np.mean(areas)),
        "F1": found.f1,
        "FAR %": found.far and 100 * found.far,
        "MAR %": found.mar and 100 * found.mar,
        "ADD rows": found.add,
    }
    return [
        Row(where, candidate, name, value) for name, value in figures.items() if value is not None
    ]
