"""ETTh1, 96 and 336 hours ahead, by the field's protocol: all seven channels, z-scored on train.

Of 14,400 rows 8,640 train, 2,880 choose look-back, penalty, kind of map, relations and gate, and
2,880 test; test inputs reach back into the rows before. The seed moves the network alone.
"""

import csv
import gzip
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_cloud import training
from aimass_cloud.models.samples import Part
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.models.windows import cut
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.recipes.sensor_graph import RECIPE
from benchmarks.models.gating import gated
from benchmarks.models.table import Row, at_most

TRAIN, CHOSEN, END = 8640, 11_520, 14_400
LONGEST = 720
BARS: Final[Mapping[int, Mapping[str, float]]] = {
    96: {"MSE": 0.370, "MAE": 0.394},
    336: {"MSE": 0.425, "MAE": 0.432},
}
PARTS: Final = {
    "train": (0, TRAIN),
    "calibration": (TRAIN, CHOSEN),
    "test": (CHOSEN - LONGEST, END),
}

Rows = NDArray[np.float32]


class _Set(NamedTuple):
    header: str
    lines: list[str]
    rows: Rows


def measure(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    """MSE and MAE over all test windows, channels and steps, mean of the seeds."""
    found = _read(folder / "ETTh1.csv.gz")
    rows = []
    with laid_out(found) as data:
        for horizon, bars in BARS.items():
            each = [_figures(data, found.rows, horizon, seed=seed) for seed in seeds]
            rows += _judged(f"ETTh1 {horizon}", each, bars)
    return rows


def _read(file: Path) -> _Set:
    with gzip.open(file, "rt") as text:
        header, *lines = text.read().splitlines()
    rows = [[float(cell) for cell in cells[1:]] for cells in csv.reader(lines[:END])]
    return _Set(header, lines, np.array(rows, np.float32))


@contextmanager
def laid_out(found: _Set) -> Iterator[Path]:
    """The set in the layout of docs/data.md, a file for each part."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for part, (first, stop) in PARTS.items():
            text = "\n".join([found.header, *found.lines[first:stop]])
            (place / f"{part}.csv").write_text(text)
        yield place


def _figures(data: Path, rows: Rows, horizon: int, *, seed: int) -> dict[str, dict[str, float]]:
    run = msgspec.structs.replace(
        RECIPE.run_own, data=str(data), seed=seed, options={"horizon": horizon}
    )
    model = training.train(RECIPE.name, run)
    test = _test(rows, model, horizon)
    last = np.repeat(test.inputs["values"][:, -1:], horizon, axis=1)
    linear = "linear base, " + model.metrics["linear"]
    shut = gated(model, 0.0)
    forecasts = {
        "ours": outputs_of(RECIPE, model, test, width=1.0)["forecast"],
        "ours, width 0.25": outputs_of(RECIPE, model, test, width=0.25)["forecast"],
        linear: outputs_of(RECIPE, shut, test, width=1.0)["forecast"],
        "persistence": last,
    }
    return {name: _errors(forecast, test, rows) for name, forecast in forecasts.items()}


def _test(rows: Rows, model: TrainedModel, horizon: int) -> Part:
    window = model.info.contract.window
    windows = cut(rows[CHOSEN - window : END], window + horizon)
    past, future = windows[:, :window], windows[:, window:]
    return Part({"values": past, "mask": np.ones_like(past)}, {"future": future})


def _errors(forecast: Rows, test: Part, rows: Rows) -> dict[str, float]:
    missed = (forecast - test.truth["future"]) / rows[:TRAIN].std(axis=0)
    return {
        "MSE": float(np.mean(missed**2, dtype=np.float64)),
        "MAE": float(np.abs(missed).mean(dtype=np.float64)),
    }


def _judged(
    where: str, found: Sequence[Mapping[str, Mapping[str, float]]], bars: Mapping[str, float]
) -> list[Row]:
    rows = [
        Row(where, candidate, name, float(np.mean([one[candidate][name] for one in found])))
        for candidate, each in found[0].items()
        for name in each
    ]
    return [at_most(row, bars[row.measure]) if row.candidate == "ours" else row for row in rows]
