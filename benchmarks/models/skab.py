"""SKAB: real experiments at one water loop, each a site: federated shrinkage against its parts.

The folder holds folders of experiments (`valve1/0.csv.gz` ...), or experiments itself. Of each, the
first 400 rows are normal: 320 train and 80 calibrate every limit and choice; the rest is the test.
The experiments of a folder are a fleet. Nothing is drawn at random but the random baseline.
"""

import csv
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from aimass_cloud.models.rates import Rates, Run, auroc, rates, references
from aimass_cloud.models.shrinkage import SiteRows
from aimass_cloud.recipes.site_detection import LabelledSite, site_runs
from benchmarks.models.table import Row, at_least, at_most

JUDGED: Final = "valve1"
TRAIN, NORMAL = 320, 400
NOT_SENSORS: Final = {"datetime", "anomaly", "changepoint"}
OURS: Final = ("site VAR to fleet", "site VAR to fleet, averaged")


def measure(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    """Figures of every set of experiments under a folder."""
    sets = {path.name: found for path in _folders(folder) if (found := read(path))}
    return [row for name, found in sets.items() for row in _figures(name, found, seeds)]


def read(folder: Path) -> dict[str, LabelledSite]:
    """The labelled experiments that lie in a folder, by file name."""
    files = sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")])
    found = {path.name.split(".")[0]: _experiment(path) for path in files}
    return {name: one for name, one in found.items() if one is not None}


def _folders(folder: Path) -> list[Path]:
    return [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]


def _experiment(path: Path) -> LabelledSite | None:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    table = list(csv.DictReader(text.splitlines(), delimiter=";"))
    if not table or "anomaly" not in table[0] or len(table) <= NORMAL:
        return None
    names = [name for name in table[0] if name not in NOT_SENSORS]
    rows = np.array([[float(row[name]) for name in names] for row in table])
    faulty = np.array([float(row["anomaly"]) > 0 for row in table])
    normal = SiteRows(rows[:TRAIN], rows[TRAIN:NORMAL])
    return LabelledSite(normal, rows[NORMAL:], faulty[NORMAL:])


def _figures(name: str, found: Mapping[str, LabelledSite], seeds: Sequence[int]) -> list[Row]:
    where, runs = f"SKAB {name}", site_runs(found)
    rows = []
    for candidate, each in runs.items():
        is_judged = name == JUDGED and candidate in OURS
        rows += _judged(where, candidate, each) if is_judged else _plain(where, candidate, each)
    return rows + _references(where, next(iter(runs.values())), seeds)


def _judged(where: str, candidate: str, runs: Sequence[Run]) -> list[Row]:
    bars = {"AUROC": (at_least, 0.86), "F1": (at_least, 0.80), "FAR %": (at_most, 12.0)}
    return [
        bars[row.measure][0](row, bars[row.measure][1]) if row.measure in bars else row
        for row in _plain(where, candidate, runs)
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
