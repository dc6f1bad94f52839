"""Los-loop: speeds of 207 road detectors, 15 and 60 minutes ahead, with and without a graph.

The file is cut in time, 72 % to train, 8 % to choose, 20 % to test. All networks have the same
settings; the small one is trained by itself at the size of the quarter slice. Input: 12 rows.
"""

import csv
import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from aimass_cloud import training
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.recipes.sensor_graph import RECIPE
from benchmarks.models.gating import gated
from benchmarks.models.table import Row, at_most

STEP_MS, WINDOW = 300_000, 12
HORIZONS: Final[Mapping[str, int]] = {"15 min": 3, "60 min": 12}
OURS, QUARTER, ALONE = "ours, width 1.00", "ours, width 0.25", "quarter, trained alone"
OPEN: Final = "no graph, gate open"
RIVALS: Final = ("no graph", OPEN, "DLinear")
GAIN, NESTED = 0.95, 1.03
"""What the errors of rivals, and of the small network trained alone, are multiplied with."""
BASELINES: Final = {"persistence": "persistence", "dlinear": "DLinear", "linear": "linear base"}

Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Network:
    """What is trained: widths and options beside those of all, and the rows it gives."""

    widths: tuple[float, ...]
    options: Mapping[str, Any]
    rows: Mapping[float, str]


def measure(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    """RMSE and MAE in miles an hour, mean of the seeds."""
    rows = []
    for name, horizon in HORIZONS.items():
        with laid_out(folder, horizon) as data:
            found = [_figures(data, seed) for seed in seeds]
        rows += _judged(f"Los-loop {name}", found)
    return rows


@contextmanager
def laid_out(folder: Path, horizon: int) -> Iterator[Path]:
    """The set in the layout of docs/data.md."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        shutil.copy(folder / "los_speed.csv.gz", place / "train.csv.gz")
        shutil.copy(folder / "los_adj.csv.gz", place / "graph.csv.gz")
        with gzip.open(folder / "los_speed.csv.gz", "rt") as lines:
            names = next(csv.reader(lines))
        told = ["name,unit", *(f"{name},mph" for name in names)]
        (place / "sensors.csv").write_text("\n".join(told))
        notes = {"step_ms": STEP_MS, "window": WINDOW, "horizon": horizon}
        (place / "meta.json").write_text(json.dumps(notes))
        yield place


def _networks() -> list[_Network]:
    widths = RECIPE.run.widths
    quarter = msgspec.structs.asdict(RECIPE.sizes[RECIPE.run_own.size])["hidden"] // 4
    return [
        _Network(widths, {}, {width: f"ours, width {width:.2f}" for width in widths}),
        _Network(widths, {"graph": "none"}, {widths[0]: "no graph"}),
        _Network((1.0,), {"hidden": quarter}, {1.0: ALONE}),
    ]


def _figures(data: Path, seed: int) -> Figures:
    """Figures of all candidates with one seed."""
    found: Figures = {}
    for network in _networks():
        run = msgspec.structs.replace(
            RECIPE.run_own,
            data=str(data),
            seed=seed,
            widths=network.widths,
            options=dict(network.options),
        )
        model = training.train(RECIPE.name, run)
        found |= {row: _errors(model, width) for width, row in network.rows.items()}
        if "no graph" in network.rows.values():
            found[OPEN] = _errors(gated(model, 1.0), network.widths[0])
        scale = float(model.samples.test.truth["scale"][0])
        for name, label in BASELINES.items():
            error = model.metrics["baselines"].get(name)
            found |= {} if error is None else {label: {"RMSE": scale * error**0.5}}
    return found


def _errors(model: TrainedModel, width: float) -> dict[str, float]:
    """Over all sensors, test windows and steps ahead, in miles an hour."""
    test = model.samples.test
    missed = outputs_of(RECIPE, model, test, width=width)["forecast"] - test.truth["future"]
    return {"RMSE": float(np.sqrt(np.mean(missed**2))), "MAE": float(np.abs(missed).mean())}


def _judged(where: str, found: Sequence[Figures]) -> list[Row]:
    means = {
        candidate: {name: float(np.mean([one[candidate][name] for one in found])) for name in each}
        for candidate, each in found[0].items()
    }
    bars = {
        OURS: GAIN * min(means[rival]["RMSE"] for rival in RIVALS),
        QUARTER: NESTED * means[ALONE]["RMSE"],
    }
    rows = [
        Row(where, candidate, name, value)
        for candidate, each in means.items()
        for name, value in each.items()
    ]
    return [
        at_most(row, bars[row.candidate])
        if row.measure == "RMSE" and row.candidate in bars
        else row
        for row in rows
    ]
