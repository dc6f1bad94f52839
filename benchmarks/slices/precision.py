"""Number formats: how much smaller and faster a slice is in each, and what it loses."""

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import onnx

from aimass_cloud import recipes
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.slicing import engines
from aimass_cloud.slicing.costs import Runner
from aimass_cloud.slicing.making import sliced
from aimass_cloud.training import train
from aimass_shared.manifest import SliceArtifact
from aimass_shared.slices import BUILDS, Precision, SliceSpec
from benchmarks.models.table import Row, at_least, at_most

SMALLER_BAR, FASTER_BAR, LOST_BAR = 3.5, 1.3, 0.5
FORMATS: Final[tuple[Precision, ...]] = ("fp32", "int8", "int8-dyn", "int8-trt", "fp16")
ON_TENSORRT: Final = {"int8-trt", "fp16"}
SEED: Final = 0
"""One alone: a training takes a minute or more."""
ROUNDS, RUNS = 15, 20
MODELS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "transformer, plant": (
        "diagnosis",
        {"steps": 150, "check": 50, "options": {"hidden": 256, "blocks": 4}},
    ),
    "CNN, digits": (
        "image",
        {"steps": 100, "check": 50, "options": {"stages": [64, 128, 256, 512]}},
    ),
}
"""By what the table calls it: a recipe on data that ship, and a run at full width."""


def measure(quick: bool) -> list[Row]:  # noqa: FBT001  the only question that benchmarks are asked
    """Figures of each model; with `quick`, of the first alone."""
    rows: list[Row] = []
    for name, (recipe, settings) in list(MODELS.items())[: 1 if quick else None]:
        found = _figures(_trained(recipe, settings))
        rows += [_judged(Row(name, *key, value)) for key, value in found.items()]
    return rows


def _judged(row: Row) -> Row:
    if row.candidate != "int8":
        return row
    if row.measure == "times smaller":
        return at_least(row, SMALLER_BAR)
    if row.measure == "times faster" and _has_vnni():
        return at_least(row, FASTER_BAR)
    return at_most(row, LOST_BAR) if row.measure == "points lost" else row


def _trained(recipe: str, settings: Mapping[str, Any]) -> TrainedModel:
    started = time.perf_counter()
    run = recipes.find(recipe).run
    model = train(recipe, msgspec.structs.replace(run, widths=(1.0,), seed=SEED, **settings))
    seconds = time.perf_counter() - started
    print(
        f"  {recipe}: {model.parameters:,} parameters, {seconds:.0f} s",
        file=sys.stderr,
    )
    return model


def _figures(model: TrainedModel) -> dict[tuple[str, str], float]:
    """By number format and measure."""
    with tempfile.TemporaryDirectory() as folder:
        specs = [SliceSpec(1.0, one) for one in FORMATS]
        made = sliced(model, Path(folder), specs=specs)
        by = {one.spec.precision: one for one in made.artifacts}
        graphs = {name: onnx.load_model(dict(one.files)["model"]) for name, one in by.items()}
    times = _medians({name: Runner(graph) for name, graph in graphs.items()}, model)
    full = by["fp32"]
    found = {("fp32", "error, %"): 100 * full.cost.val_error, ("fp32", "ms"): times["fp32"]}
    for name in by.keys() - {"fp32"}:
        found |= _beside(by[name], full)
        if name in ON_TENSORRT:
            verdict = engines.verdict_of(graphs[name].SerializeToString())
            found[name, "TensorRT builds it"] = float(verdict == BUILDS)
        else:
            found[name, "times faster"] = times["fp32"] / times[name]
    for left in sorted(made.left_out.items()):
        print(f"  left out: {left}", file=sys.stderr)
    return dict(sorted(found.items()))


def _beside(one: SliceArtifact, full: SliceArtifact) -> dict[tuple[str, str], float]:
    name = one.spec.precision
    return {
        (name, "times smaller"): full.cost.model_bytes / one.cost.model_bytes,
        (name, "points lost"): 100 * (one.cost.val_error - full.cost.val_error),
    }


def _medians(runners: Mapping[Precision, Runner], model: TrainedModel) -> dict[Precision, float]:
    """Milliseconds of one sample on one core: medians of rounds that take turns."""
    sample = {name: array[:1] for name, array in model.samples.test.inputs.items()}
    rounds: dict[Precision, list[float]] = {name: [] for name in runners}
    for _ in range(ROUNDS):
        for name, runner in runners.items():
            rounds[name].append(runner.fastest_ms(sample, RUNS))
    return {name: statistics.median(times) for name, times in rounds.items()}


def _has_vnni() -> bool:
    """Whether the processor multiplies int8 in one instruction."""
    flags: Sequence[str] = Path("/proc/cpuinfo").read_text().split()
    return bool({"avx512_vnni", "avx_vnni"} & set(flags))
