"""SKAB: real experiments at one water loop, each a site: federated shrinkage against its parts.

The folder holds folders of experiments (`valve1/0.csv.gz` ...), or experiments itself. Of each, the
first 400 rows are normal: 320 train and 80 calibrate every limit and choice; the rest is the test.
The experiments of a folder are a fleet. Nothing is drawn at random but the random baseline.
"""

import csv
import gzip
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.models.pca import Pca
from aimass_cloud.models.rates import Rates, Run, auroc, rates, references
from aimass_cloud.models.shrinkage import SiteRows, fleet_of, moments_of, site_monitors
from aimass_shared.monitoring import RootSums, SiteMonitor, averaged_t2, limit
from aimass_shared.var import Var, shrunk, solve
from benchmarks.models.table import Row, at_least, at_most

JUDGED: Final = "valve1"
TRAIN, NORMAL, AVERAGED = 320, 400, 10
NOT_SENSORS: Final = {"datetime", "anomaly", "changepoint"}
LAGS, RIDGE = 3, 20.0
OURS: Final = "ours: site VAR shrunk to the fleet"

Floats = NDArray[np.float64]
Score = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class Experiment:
    """Rows `[T, S]` and whether each is faulty `[T]`."""

    rows: Floats
    faulty: NDArray[np.bool_]

    @property
    def site(self) -> SiteRows:
        return SiteRows(self.rows[:TRAIN], self.rows[TRAIN:NORMAL])

    @property
    def truth(self) -> NDArray[np.bool_]:
        return self.faulty[NORMAL:]


def measure(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    """Figures of every set of experiments under a folder."""
    sets = {path.name: found for path in _folders(folder) if (found := read(path))}
    return [row for name, found in sets.items() for row in _figures(name, found, seeds)]


def read(folder: Path) -> dict[str, Experiment]:
    """The labelled experiments that lie in a folder, by file name."""
    files = sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")])
    found = {path.name.split(".")[0]: _experiment(path) for path in files}
    return {name: one for name, one in found.items() if one is not None}


def _folders(folder: Path) -> list[Path]:
    return [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]


def _experiment(path: Path) -> Experiment | None:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    table = list(csv.DictReader(text.splitlines(), delimiter=";"))
    if not table or "anomaly" not in table[0] or len(table) <= NORMAL:
        return None
    names = [name for name in table[0] if name not in NOT_SENSORS]
    rows = np.array([[float(row[name]) for name in names] for row in table])
    return Experiment(rows, np.array([float(row["anomaly"]) > 0 for row in table]))


def _figures(name: str, found: Mapping[str, Experiment], seeds: Sequence[int]) -> list[Row]:
    where = f"SKAB {name}"
    monitors = site_monitors({key: one.site for key, one in found.items()}, lags=LAGS, ridge=RIDGE)
    fused = [
        Run(one.truth, monitors[key].score(one.rows[NORMAL - monitors[key].lead :]))
        for key, one in found.items()
    ]
    averaged = _averaged(found, {key: own.var for key, own in monitors.items()})
    rows = [
        *_judged(where, f"{OURS}, three charts", fused, is_judged=name == JUDGED),
        *_judged(where, f"{OURS}, window 10", averaged, is_judged=name == JUDGED),
    ]
    for candidate, runs in _baselines(found).items():
        rows += _plain(where, candidate, runs)
    return rows + _references(where, fused, seeds)


def _baselines(found: Mapping[str, Experiment]) -> dict[str, list[Run]]:
    own = {key: moments_of(one.rows[:TRAIN], LAGS) for key, one in found.items()}
    fleet = fleet_of(list(own.values()))
    alone = {key: solve(site, RIDGE) for key, site in own.items()}
    common = {key: shrunk(site, fleet, math.inf, ridge=RIDGE) for key, site in own.items()}
    return {
        "federated VAR, window 10": _averaged(found, common),
        "VAR per site, window 10": _averaged(found, alone),
        "PCA T2|Q, window 10": [_pca(one) for one in found.values()],
    }


def _averaged(found: Mapping[str, Experiment], fitted: Mapping[str, Var]) -> list[Run]:
    """T2 averaged over ten rows, in units of limits with the spread of the fleet."""
    scores = {key: _window_10(SiteMonitor.uncalibrated(var)) for key, var in fitted.items()}
    lead = LAGS + AVERAGED - 1
    held_back = {
        key: RootSums.of(scores[key](one.rows[TRAIN - lead : NORMAL]), AVERAGED)
        for key, one in found.items()
    }
    fleet = list(held_back.values())
    return [
        Run(one.truth, scores[key](one.rows[NORMAL - lead :]) / limit(held_back[key], fleet))
        for key, one in found.items()
    ]


def _window_10(monitor: SiteMonitor) -> Score:
    return lambda rows: averaged_t2(monitor.var.residuals(rows) @ monitor.whitening, AVERAGED)


def _pca(one: Experiment) -> Run:
    pca = Pca.fit(one.rows[:TRAIN])
    each = np.convolve(pca.score(one.rows), np.full(AVERAGED, 1 / AVERAGED), mode="full")
    level = limit(RootSums.of(each[TRAIN:NORMAL], AVERAGED))
    return Run(one.truth, each[NORMAL : len(one.rows)] / level)


def _judged(where: str, candidate: str, runs: Sequence[Run], *, is_judged: bool) -> list[Row]:
    rows = _plain(where, candidate, runs)
    bars = {"AUROC": (at_least, 0.86), "F1": (at_least, 0.80), "FAR %": (at_most, 12.0)}
    if not is_judged:
        return rows
    return [
        bars[row.measure][0](row, bars[row.measure][1]) if row.measure in bars else row
        for row in rows
    ]


def _plain(where: str, candidate: str, runs: Sequence[Run]) -> list[Row]:
    """AUROC is the mean over experiments, "pooled" over all rows, scores in units of the limits."""
    each = [area for run in runs if (area := auroc(run.faulty, run.score)) is not None]
    found = rates(runs)
    return [
        Row(where, candidate, "AUROC", float(np.mean(each))),
        *_rows(where, candidate, found),
    ]


def _references(where: str, runs: Sequence[Run], seeds: Sequence[int]) -> list[Row]:
    drawn = [references(runs, seed) for seed in seeds]
    return [
        Row(row.set, row.candidate, row.measure, float(np.mean([row.value for row in same])))
        for name in drawn[0]
        for same in zip(*(_rows(where, name, found[name]) for found in drawn), strict=True)
        for row in same[:1]
    ]


def _rows(where: str, candidate: str, found: Rates) -> list[Row]:
    figures = {
        "AUROC pooled": found.auroc,
        "AUPRC": found.auprc,
        "F1": found.f1,
        "FAR %": found.far and 100 * found.far,
        "MAR %": found.mar and 100 * found.mar,
        "ADD rows": found.add,
        "CDR %": found.cdr and 100 * found.cdr,
    }
    return [
        Row(where, candidate, name, value) for name, value in figures.items() if value is not None
    ]
