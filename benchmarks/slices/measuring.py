"""`python -m benchmarks.slices.measuring`: measure the profiles that the planner's benches replay.

Each recipe is trained for a short while and sliced, cut and measured as `aimass slice --cuts` does
it: slices on the edge, the whole model in the cloud behind each codec of its input, heads here and
tails there. Pictures are sent as JPEG too. Losses are of the model's own test samples.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import onnx

from aimass_cloud import recipes
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.slicing import make_slices
from aimass_cloud.slicing.completing import FULL, source_of
from aimass_cloud.slicing.cuts.running import Runner
from aimass_cloud.slicing.cutting import Source, cut_slices
from aimass_cloud.slicing.making import quiet
from aimass_cloud.slicing.plans import WholeSlice, planned
from aimass_cloud.slicing.profiling import Run, Way, handed_off
from aimass_cloud.training import train
from aimass_shared.manifest import SliceArtifact
from aimass_shared.planning.profiles import Candidate, Profile, ProfileSet, encode
from aimass_shared.slices import Precision, SliceSpec
from benchmarks.slices.codecs import jpeg
from benchmarks.slices.widths import noisy_plant

SPLITS: Final = 3
SECONDS: Final = 6.0
FORMATS: Final[tuple[Precision, ...]] = ("fp32", "int8")


NOISY_PLANT: Final = "a noisy plant"
"""Made here (see `widths`): without noise, every width tells its conditions equally well."""


@dataclass(frozen=True)
class Workload:
    """What is measured: a recipe's size, trained for `steps`; a request carries `samples`.

    Attributes:
        data: a file of the folder with the sets that are not shipped, what is made here, or "" for
            what ships.
        options: of the recipe.
    """

    recipe: str
    size: str
    steps: int
    samples: int = 1
    data: str = ""
    batch: int = 32
    options: Mapping[str, Any] = field(default_factory=dict)


WORKLOADS: Final[Mapping[str, Workload]] = {
    "image": Workload(
        "image", "large", 200, samples=4, data="cifar10_jpg/cifar10_subset.npz", batch=16
    ),
    "diagnosis": Workload(
        "diagnosis", "tiny", steps=400, samples=512, data=NOISY_PLANT, options={"window": 16}
    ),
    "sensor-graph": Workload("sensor-graph", "large", steps=60, samples=4),
}


def measured(name: str, workload: Workload, data: Path | None) -> ProfileSet:
    """Train, slice, cut and measure one workload."""
    model = _trained(workload, data)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        specs = [SliceSpec(width, one) for width in model.info.widths for one in FORMATS]
        found = make_slices(model, folder, specs=specs)
        wholes = sorted(map(_opened, found), key=lambda one: one.artifact.spec != FULL)
        source = _source(model, wholes[0], workload.samples)
        cut = cut_slices(source, folder, SPLITS, progress=quiet)
        plans = planned(name, source.subject, (wholes, cut), progress=quiet)
        profiles = (*plans.profiles, *_as_jpeg(source, wholes[0].run))
    return ProfileSet(model=name, profiles=profiles, about=_about(workload, wholes[0].artifact))


def _trained(workload: Workload, data: Path | None) -> TrainedModel:
    plan = recipes.find(workload.recipe)
    own = recipes.own_run(workload.recipe) if workload.data else None
    run = msgspec.structs.replace(
        own or plan.run,
        size=workload.size,
        steps=workload.steps,
        check=max(10, workload.steps // 3),
        batch=workload.batch,
        options=dict(workload.options),
    )
    if workload.data == NOISY_PLANT:
        with tempfile.TemporaryDirectory() as folder:
            plant = Path(folder) / "plant.parquet"
            noisy_plant(plant)
            return train(workload.recipe, msgspec.structs.replace(run, data=str(plant)))
    path = str(data / workload.data) if data and workload.data else ""
    return train(workload.recipe, msgspec.structs.replace(run, data=path))


def _opened(artifact: SliceArtifact) -> WholeSlice:
    return WholeSlice(artifact, Runner(onnx.load_model(dict(artifact.files)["model"])).run)


def _source(model: TrainedModel, whole: WholeSlice, samples: int) -> Source:
    """The product's, with requests of several samples, measured for longer."""
    files = dict(whole.artifact.files)
    source = source_of(model, onnx.load_model(files["model"]), files)
    first = {name: array[:samples] for name, array in model.samples.test.inputs.items()}
    return replace(source, subject=replace(source.subject, one=first, seconds=SECONDS))


def _as_jpeg(source: Source, whole: Run) -> list[Profile]:
    packing = jpeg(source.subject.one)
    if packing is None:
        return []
    one = Candidate(1.0, "fp32", "cloud", codec="jpeg")
    return [handed_off(source.subject, one, Way(dict, packing, whole))]


def _about(workload: Workload, full: SliceArtifact) -> str:
    return (
        f"recipe {workload.recipe}, size {workload.size}, {workload.steps} steps"
        f"{f' on {workload.data}' if workload.data else ''},"
        f" {workload.samples} samples a request, test error {full.cost.val_error:.4f};"
        " one x86-64 core, ONNX Runtime; measured by python -m benchmarks.slices.measuring"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for and write one file for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slices.measuring")
    parser.add_argument("name", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--data", type=Path, help="folder with the sets that are not shipped")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "profiles")
    arguments = parser.parse_args(argv)
    for name in arguments.name or WORKLOADS:
        profiles = measured(name, WORKLOADS[name], arguments.data)
        (arguments.out / f"{name}.json").write_bytes(encode(profiles))
        print(f"{name}: {len(profiles.profiles)} candidates")
    return 0


if __name__ == "__main__":
    sys.exit(main())
