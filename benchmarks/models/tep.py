"""Tennessee Eastman: detection rate, false alarms and delay of each fault that the folder holds.

`d00` trains, the first half of `d00_te` calibrates every limit, its second half and all `dNN_te`
(fault from row 160) are the test. Nothing is drawn at random but the random baseline.
"""

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.models.pca import Pca
from aimass_cloud.models.rates import Run, rates, references
from aimass_cloud.models.shrinkage import SiteRows, moments_of, site_monitors
from aimass_shared.monitoring import RootSums, SiteMonitor, averaged_t2, limit
from aimass_shared.var import solve
from benchmarks.models.table import Row, at_least, at_most

CALIBRATION, FAULT_START = 480, 160
VISIBLE: Final = {1: 99.0, 2: 98.0, 4: 99.0, 6: 99.0, 7: 99.0, 8: 98.0, 12: 99.0, 14: 99.0}
UNDETECTABLE: Final = {3, 9, 15}
FALSE_ALARMS: Final = 1.0
OURS: Final = "ours: VAR(3), three charts"
# Sensors and valves of the literature's known causes, as columns from 0 (XMEAS 0-40, XMV 41-51).
_COOLING, _CONDENSER, _FEED_C = (50, 8, 20), (51, 21, 10), (3, 44)
CAUSES: Final = {
    **dict.fromkeys((4, 11, 14), _COOLING),
    **dict.fromkeys((5, 12), _CONDENSER),
    **dict.fromkeys((7, 21), _FEED_C),
    6: (0, 43),
    10: (17, 18, 49),
}

Floats = NDArray[np.float64]
Score = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class Plant:
    """Rows `[T, S]`: normal operation to train on and to split in two, and faulty runs."""

    train: Floats
    normal: Floats
    faults: Mapping[int, Floats]

    @property
    def calibration(self) -> Floats:
        return self.normal[:CALIBRATION]


@dataclass(frozen=True, eq=False)
class Detector:
    """A score in units of its limit, `[T - lead]` of a run `[T, S]`."""

    score: Score
    lead: int

    def run(self, rows: Floats, start: int, *, faulty: bool) -> Run:
        """The rows from `start` on, all faulty or all normal."""
        scores = self.score(rows[max(start - self.lead, 0) :])
        return Run(np.full(len(scores), faulty), scores)


def measure(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    """Figures of all faults whose test runs lie in the folder."""
    plant = read(folder)
    ours = _figures(OURS, _ours(plant), plant)
    rows = [_judged(row) for row in ours] + _blame(plant)
    for candidate, detector in _baselines(plant).items():
        rows += _figures(candidate, detector, plant)
    return rows + _references(plant, seeds)


def read(folder: Path) -> Plant:
    """The recordings of a folder; any of them may be packed."""
    normal = _table(folder, "d00_te")
    train = _table(folder, "d00")
    # The usual file of the normal training run holds one row for each sensor.
    train = train.T if train.shape[1] != normal.shape[1] else train
    names = {path.name.split(".")[0] for path in folder.glob("d[0-9][0-9]_te.dat*")} - {"d00_te"}
    return Plant(train, normal, {int(name[1:3]): _table(folder, name) for name in sorted(names)})


def _table(folder: Path, name: str) -> Floats:
    (path,) = folder.glob(f"{name}.dat*")
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("ascii")
    return np.loadtxt(text.splitlines(), dtype=np.float64)


def _monitor(plant: Plant) -> SiteMonitor:
    site = SiteRows(plant.train, plant.calibration, is_one_run=False)
    return site_monitors({"plant": site})["plant"]


def _ours(plant: Plant) -> Detector:
    monitor = _monitor(plant)
    return Detector(monitor.score, monitor.lead)


def _blame(plant: Plant) -> list[Row]:
    """How often a known cause is among the most blamed sensors, over all windows in alarm."""
    monitor, hits = _monitor(plant), []
    for fault in sorted(plant.faults.keys() & CAUSES.keys()):
        explained = monitor.explained(plant.faults[fault][FAULT_START - monitor.lead :])
        order = np.argsort(-explained[explained.sum(axis=1) > 1], axis=1)
        causes = CAUSES[fault]
        hits.append([np.isin(order[:, :top], causes).any(axis=1).mean() for top in (1, 3, 5)])
    means = np.mean(hits, axis=0) if hits else np.empty(0)
    return [
        Row("TEP", OURS, f"Hit@{top} % of {len(hits)} known causes", 100 * float(value))
        for top, value in zip((1, 3, 5), means, strict=False)
    ]


def _baselines(plant: Plant) -> dict[str, Detector]:
    return {
        "VAR(2), ridge 50, averaged over 6": _averaged(plant, rows=6),
        "VAR(2), ridge 50": _averaged(plant, rows=1),
        "PCA T2|Q": _pca(plant, rows=1),
        "PCA T2|Q, averaged over 6": _pca(plant, rows=6),
    }


def _averaged(plant: Plant, *, rows: int) -> Detector:
    monitor = SiteMonitor.uncalibrated(solve(moments_of(plant.train, 2), 50.0))

    def score(run: Floats) -> Floats:
        return averaged_t2(monitor.var.residuals(run) @ monitor.whitening, rows)

    return _calibrated(score, 2 + rows - 1, plant, rows=rows)


def _pca(plant: Plant, *, rows: int) -> Detector:
    pca = Pca.fit(plant.train)

    def score(run: Floats) -> Floats:
        return np.convolve(pca.score(run), np.full(rows, 1 / rows), mode="valid")

    return _calibrated(score, rows - 1, plant, rows=rows)


def _calibrated(score: Score, lead: int, plant: Plant, *, rows: int) -> Detector:
    level = limit(RootSums.of(score(plant.calibration), rows))
    return Detector(lambda run: score(run) / level, lead)


def _figures(candidate: str, detector: Detector, plant: Plant) -> list[Row]:
    runs = {
        fault: detector.run(rows, FAULT_START, faulty=True)
        for fault, rows in sorted(plant.faults.items())
    }
    normal = detector.run(plant.normal, CALIBRATION, faulty=False)
    before = [detector.run(rows[:FAULT_START], 0, faulty=False) for rows in plant.faults.values()]
    found = rates([normal, *runs.values()])
    clear = [run for fault, run in runs.items() if fault not in UNDETECTABLE]
    figures = {
        "FAR %": rates([normal]).far,
        "FAR % before the faults": rates(before).far,
        "AUROC": found.auroc,
        "AUPRC": found.auprc,
        "F1": found.f1,
        f"FDR % mean of {len(clear)} faults": float(np.mean([run.over.mean() for run in clear])),
        "ADD rows": rates(clear).add,
        "CDR %": rates(clear).cdr,
        **{f"FDR % fault {fault}": float(run.over.mean()) for fault, run in runs.items()},
        **{f"delay rows fault {fault}": rates([run]).add for fault, run in runs.items()},
    }
    return [
        Row("TEP", candidate, name, value * 100 if "%" in name else value)
        for name, value in figures.items()
        if value is not None
    ]


def _judged(row: Row) -> Row:
    if row.measure == "FAR %":
        return at_most(row, FALSE_ALARMS)
    bars = {f"FDR % fault {fault}": bar for fault, bar in VISIBLE.items()}
    return at_least(row, bars[row.measure]) if row.measure in bars else row


def _references(plant: Plant, seeds: Sequence[int]) -> list[Row]:
    """Random and always alarm; means over the seeds."""
    shape = Detector(lambda run: np.zeros(len(run)), 0)
    runs = [shape.run(plant.normal, CALIBRATION, faulty=False)] + [
        shape.run(rows, FAULT_START, faulty=True) for rows in plant.faults.values()
    ]
    rows = []
    for name in references(runs):
        drawn = [references(runs, seed)[name] for seed in seeds]
        for measure in ("far", "mar", "auroc", "auprc", "f1", "add"):
            mean = float(np.mean([getattr(one, measure) for one in drawn]))
            label = {"far": "FAR %", "mar": "MAR %", "add": "ADD rows"}.get(
                measure, measure.upper()
            )
            rows.append(Row("TEP", name, label, mean * 100 if "%" in label else mean))
    return rows
