"""Widths: what a quarter saves, and what one joint training costs each width.

`python -m benchmarks.slices.widths --data PICTURES` does the same on pictures of one's own. Nothing
is chosen on test rows: training takes the best look at held-back rows, as for everybody.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from aimass_cloud import recipes
from aimass_cloud.models.nesting import WIDTHS, leading_count
from aimass_cloud.models.samples import Arrays
from aimass_cloud.recipes import tep
from aimass_cloud.recipes.assembly import drafted
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.slicing.costs import Runner
from aimass_cloud.slicing.export import filled, folded
from aimass_cloud.slicing.templates import Templates
from aimass_cloud.training import train
from benchmarks.models.running import reported
from benchmarks.models.table import Row, at_least, at_most

FASTER, SMALLER = "times faster", "times smaller"
SAVED_BARS: Final = {FASTER: 6.0, SMALLER: 10.0}
"""Of a quarter."""
MORE_BARS: Final[Mapping[float, float]] = {1.0: 1.0, 0.5: 2.0, 0.25: 5.0}
"""Percent of error that a width may have over a model of its size that was trained by itself."""
FULL, *_, QUARTER = WIDTHS
SEEDS: Final = (0, 1, 2)
ROUNDS, TURNS = 30, 5
DIGITS, DIGITS_NOISE, DIGITS_TOLD = (4, 5), 80.0, 1200
"""Copies of training and test digits, each with noise of its own, in shades of 256."""
PLANT_COPIES, PLANT_NOISE, PLANT_ROWS = 4, 4.0, 24
"""Copies of each stretch of rows of the plant, with noise in deviations of normal operation."""
MEASURES: Final[Mapping[str, Callable[[Mapping[str, float]], float]]] = {
    "log loss": lambda figures: figures["log_loss"],
    "wrong %": lambda figures: 100 * (1 - figures["accuracy"]),
}
"""Of all test samples. Log loss uses each sample's probability, so it is the finer of the two."""
LARGE_SIDE: Final = 32
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Case:
    """A recipe on data where errors are not rare and narrow widths do worse.

    Attributes:
        name: for people. recipe: its name. steps: of each training.
        sizes: options that shrink with the width. others: that do not.
    """

    name: str
    recipe: str
    steps: int
    sizes: Mapping[str, Any]
    others: Mapping[str, Any]

    def run(self, data: str, seed: int) -> RunSettings:
        """The joint training of all widths."""
        own = recipes.find(self.recipe).run
        check = max(1, self.steps // 5)
        options = {**self.sizes, **self.others}
        return msgspec.structs.replace(
            own, data=data, seed=seed, steps=self.steps, check=check, options=options
        )

    def alone(self, run: RunSettings, width: float) -> RunSettings:
        """The training of a model that is as large as a width, with the same settings."""
        options = {
            **run.options,
            **{name: _shrunk(size, width) for name, size in self.sizes.items()},
        }
        return msgspec.structs.replace(run, widths=(FULL,), options=options)


CNN: Final = Case("CNN, noisy digits", "image", 500, {"stages": [32, 32, 64, 128]}, {})
TRANSFORMER: Final = Case(
    "transformer, noisy plant", "diagnosis", 400, {"hidden": 64}, {"window": 16}
)


def measure(quick: bool) -> list[Row]:  # noqa: FBT001  the only question that benchmarks are asked
    """Speed and size of a quarter, then errors of joint and separate trainings."""
    seeds = SEEDS[:1] if quick else SEEDS
    with tempfile.TemporaryDirectory() as folder:
        pictures, plant = Path(folder) / "digits.npz", Path(folder) / "plant.parquet"
        large = Path(folder) / "large.npz"
        noisy_digits(pictures)
        noisy_plant(plant)
        large_digits(large)
        return [
            *_saved("CNN, large, 32 x 32", "image", str(large)),
            *_saved("transformer, large, 32 rows", "diagnosis", ""),
            *_errors(CNN, str(pictures), seeds),
            *_errors(TRANSFORMER, str(plant), seeds),
        ]


def _saved(name: str, recipe: str, data: str) -> list[Row]:
    """How much faster and smaller narrow slices are; training would change neither."""
    plan = recipes.find(recipe)
    run = msgspec.structs.replace(plan.run, data=data, size="large")
    model = drafted(plan, plan.open(run), run)
    sample = {key: array[:1] for key, array in model.samples.test.inputs.items()}
    with tempfile.TemporaryDirectory() as folder:
        templates = Templates(model, Path(folder))
        graphs = [folded(filled(templates.forward(width), model.at(width))) for width in WIDTHS]
    sizes = [graph.ByteSize() for graph in graphs]
    times = _interleaved([Runner(graph) for graph in graphs], sample)
    rows = [
        Row(name, f"width {width:g}", what, costs[0] / cost)
        for what, costs in ((FASTER, times), (SMALLER, sizes))
        for width, cost in zip(WIDTHS[1:], costs[1:], strict=True)
    ]
    return [
        Row(name, f"width {FULL:g}", "ms, one core", times[0]),
        Row(name, f"width {FULL:g}", "MiB", sizes[0] / MIB),
        *(_judged(row) for row in rows),
    ]


def _judged(row: Row) -> Row:
    """The row with its bar, if it is of the quarter."""
    return at_least(row, SAVED_BARS[row.measure]) if row.candidate == f"width {QUARTER:g}" else row


def _interleaved(runners: Sequence[Runner], sample: Arrays) -> list[float]:
    """Median ms of each, in turns, so that what else the machine does meets all."""
    spent: list[list[float]] = [[] for _ in runners]
    for _ in range(ROUNDS):
        for runner, own in zip(runners, spent, strict=True):
            # The first turn finds the caches of another.
            own.extend([_ms(runner, sample) for _ in range(TURNS)][1:])
    return [float(np.median(own)) for own in spent]


def _ms(runner: Runner, sample: Arrays) -> float:
    """CPU time of the thread for one sample."""
    before = time.thread_time_ns()
    runner.run(sample)
    return (time.thread_time_ns() - before) / 1e6


def _errors(case: Case, data: str, seeds: Sequence[int]) -> list[Row]:
    """Errors of each width, jointly trained and alone, and by how much they differ."""
    joint: dict[float, list[dict[str, float]]] = {width: [] for width in WIDTHS}
    alone: dict[float, list[dict[str, float]]] = {width: [] for width in WIDTHS}
    for seed in seeds:
        run = case.run(data, seed)
        found = train(case.recipe, run).metrics["all_test"]
        for width in WIDTHS:
            joint[width].append(found[f"{width:.2f}"])
            model = train(case.recipe, case.alone(run, width))
            alone[width].append(model.metrics["all_test"][f"{FULL:.2f}"])
        print(f"  {case.name}: seed {seed} done", file=sys.stderr)
    rows = []
    for width in WIDTHS:
        for label, measure in MEASURES.items():
            both = [[measure(one) for one in found[width]] for found in (joint, alone)]
            rows += _compared(case.name, f"width {width:g}", both, (label, MORE_BARS[width]))
    return rows


def _compared(
    name: str, width: str, both: Sequence[Sequence[float]], judged: tuple[str, float]
) -> list[Row]:
    joint, alone = (float(np.mean(one)) for one in both)
    label, bar = judged
    ratios = np.divide(both[0], both[1])
    return [
        Row(name, f"{width}, alone", label, alone),
        Row(name, f"{width}, joint", label, joint),
        at_most(Row(name, width, f"{label}: % more", 100 * (joint / alone - 1)), bar),
        Row(name, width, f"{label}: % more, deviation of seeds", 100 * float(np.std(ratios))),
    ]


def _shrunk(size: Any, width: float) -> Any:  # noqa: ANN401  a number, or several
    if isinstance(size, Sequence):
        return [leading_count(one, width) for one in size]
    return leading_count(size, width)


def noisy_digits(path: Path) -> None:
    """The digits that scikit-learn ships, some for the test, in noise that changes some of them."""
    found, random = load_digits(), np.random.default_rng(0)
    order = random.permutation(len(found.images))
    arrays: dict[str, NDArray[Any]] = {}
    parts = (order[:DIGITS_TOLD], order[DIGITS_TOLD:])
    for part, rows, copies in zip(("train", "test"), parts, DIGITS, strict=True):
        repeated = np.tile(rows, copies)
        clean = found.images[repeated] * (255 / 16)
        noise = DIGITS_NOISE * random.standard_normal(clean.shape)
        arrays[f"x_{part}"] = np.clip(clean + noise, 0, 255).round().astype(np.uint8)
        arrays[f"y_{part}"] = found.target[repeated]
    np.savez(path, allow_pickle=False, **arrays)


def large_digits(path: Path) -> None:
    """The same digits at 32 by 32 pixels, as they are."""
    found = load_digits()
    scale = LARGE_SIDE // found.images.shape[1]
    pixels = np.minimum(found.images * 16, 255).astype(np.uint8)
    large = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    np.savez(path, allow_pickle=False, x=large, y=found.target)


def noisy_plant(path: Path) -> None:
    """Stretches of the plant that ships, several times, in noise that hides some faults.

    A stretch with its copies is a run, so all copies are in one part; a row without a condition
    keeps windows from reaching from one copy into the next.
    """
    plant, normal = tep.PLANT.load(), "normal"
    told = [(normal, rows) for rows in (plant.train, plant.calibration, plant.test)]
    for fault, rows in plant.faults.items():
        told += [(normal, rows[: plant.fault_start]), (str(fault), rows[plant.fault_start :])]
    stretches = [
        (condition, rows[at : at + PLANT_ROWS])
        for condition, rows in told
        for at in range(0, len(rows) - PLANT_ROWS + 1, PLANT_ROWS)
    ]
    size = (PLANT_ROWS + 1) * PLANT_COPIES
    rows = np.concatenate(
        [np.tile(np.concatenate([part, part[:1]]), (PLANT_COPIES, 1)) for _, part in stretches]
    )
    noise = np.random.default_rng(0).standard_normal(rows.shape) * plant.train.std(axis=0)
    values = (rows + PLANT_NOISE * noise).astype(np.float32)
    conditions = [([name] * PLANT_ROWS + [""]) * PLANT_COPIES for name, _ in stretches]
    table: dict[str, Any] = {name: values[:, at] for at, name in enumerate(plant.names)}
    table["condition"] = [name for names in conditions for name in names]
    table["run"] = np.repeat(np.arange(len(stretches)), size)
    pq.write_table(pa.table(table), path)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure joint and separate trainings on pictures of one's own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slices.widths", description=__doc__)
    parser.add_argument("--data", required=True, metavar="PATH", help="pictures (docs/data.md)")
    parser.add_argument("--steps", type=int, default=1800, help="of each training (1800)")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many (3)")
    arguments = parser.parse_args(argv)
    case = Case("CNN", "image", arguments.steps, CNN.sizes, {})
    seeds = range(arguments.seeds)
    return reported({"widths": lambda: _errors(case, arguments.data, seeds)}, None)


if __name__ == "__main__":
    sys.exit(main())
