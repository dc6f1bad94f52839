"""`python -m benchmarks.slices.measuring`: measure the profiles that the planner's benches replay.

Each recipe is trained for a short while, sliced, and every candidate is run in ONNX Runtime on one
core: slices on the edge, the whole model in the cloud behind each codec of its input, and splits at
a few narrow places of the graph. Losses are of the model's own test samples.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx

from aimass_cloud import recipes
from aimass_cloud.models.samples import Arrays, Part
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.task import Recipe
from aimass_cloud.slicing import make_slices
from aimass_cloud.slicing.costs import Runner
from aimass_cloud.training import train
from aimass_shared.errors import SelfTestFailedError
from aimass_shared.planning.profiles import Candidate, Profile, ProfileSet, encode
from aimass_shared.slices import SliceSpec
from benchmarks.slices.codecs import CODECS, Codec, suits

BLOCK, LEAST_BLOCKS, BLOCKS, MOST_SECONDS = 10, 4, 40, 6.0
NORMAL_75 = 0.6745
"""Upper quartile of a normal distribution, in standard deviations."""
SPLITS = 3
WIDEST_CUT = 2


@dataclass(frozen=True)
class Workload:
    """What is measured: a recipe's size, trained for `steps`; a request carries `samples`."""

    recipe: str
    size: str
    steps: int
    samples: int = 1
    data: str = ""
    batch: int = 32


WORKLOADS: Final[Mapping[str, Workload]] = {
    "image": Workload(
        "image", "large", 200, samples=4, data="cifar10_jpg/cifar10_subset.npz", batch=16
    ),
    "text-match": Workload("text-match", "large", steps=400, samples=64),
    "sensor-graph": Workload("sensor-graph", "large", steps=60, samples=4),
}


def packed(codec: Codec, arrays: Arrays) -> dict[str, bytes]:
    """Arrays as they travel."""
    return {name: codec.pack(array) for name, array in arrays.items()}


def unpacked(codec: Codec, raw: Mapping[str, bytes], like: Arrays) -> Arrays:
    """Arrays as they arrive."""
    return {name: codec.unpack(raw[name], like[name]) for name in like}


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Median in ms, and standard deviation of the logarithm, from the upper quartile.

    CPU time of the thread, in the quietest quarter of some blocks of runs: what is left tells least
    of the machine's other work.
    """
    run()
    blocks: list[list[int]] = []
    started = time.perf_counter()
    while len(blocks) < LEAST_BLOCKS or (
        len(blocks) < BLOCKS and time.perf_counter() - started < MOST_SECONDS
    ):
        blocks.append([_once(run) for _ in range(BLOCK)])
    quiet = sorted(blocks, key=np.median)[: max(2, len(blocks) // 4)]
    median, high = np.percentile(quiet, (50, 75))
    return float(median) / 1e6, float(np.log(high / median)) / NORMAL_75


def _once(run: Callable[[], object]) -> int:
    before = time.thread_time_ns()
    run()
    return time.thread_time_ns() - before


@dataclass(frozen=True, eq=False)
class Bench:
    """One trained model under measurement."""

    model: TrainedModel
    workload: Workload
    error: float

    @property
    def plan(self) -> Recipe:
        return recipes.find(self.workload.recipe)

    @property
    def test(self) -> Part:
        return self.model.samples.test

    def request(self) -> Arrays:
        return {name: a[: self.workload.samples] for name, a in self.test.inputs.items()}

    def chunks(self) -> Iterator[Arrays]:
        """The test samples as requests."""
        size = max(self.workload.samples, 16)
        for at in range(0, len(self.test), size):
            yield {name: array[at : at + size] for name, array in self.test.inputs.items()}

    def loss(self, outputs: Arrays) -> float:
        """Share of the whole model's accuracy that is lost."""
        error = self.plan.error(outputs, self.test.truth)
        forecast = self.model.info.contract.task == "forecast"
        kept = self.error / error if forecast else (1 - error) / (1 - self.error)
        return round(min(1.0, max(0.0, 1.0 - kept)), 5)

    def loss_of(self, answer: Callable[[Arrays], Arrays]) -> float:
        """The loss of what answers requests."""
        parts = [answer(chunk) for chunk in self.chunks()]
        return self.loss({name: np.concatenate([p[name] for p in parts]) for name in parts[0]})


def edge(bench: Bench, spec: SliceSpec, graph: onnx.ModelProto, memory_mib: float) -> Profile:
    """A slice that runs on the device."""
    runner, request = Runner(graph), bench.request()
    ms, spread = timed(lambda: runner.run(request))
    return Profile(
        candidate=Candidate(spec.width, spec.precision, "edge"),
        edge_ms=round(ms, 4),
        edge_spread=round(spread, 4),
        memory_mib=memory_mib,
        loss=bench.loss_of(runner.run),
    )


def split(bench: Bench, head: onnx.ModelProto | None, tail: onnx.ModelProto, **of: Any) -> Profile:  # noqa: ANN401  fields
    """A head here, a codec, a tail there; without a head, the whole model there.

    Args:
        bench: whose samples.
        head, tail: the two parts.
        of: `candidate`, and `memory_mib` of the head.
    """
    codec = CODECS[of["candidate"].codec]
    first = Runner(head).run if head else (lambda arrays: arrays)
    last = Runner(tail)
    request = bench.request()
    middle = first(request)
    raw = packed(codec, middle)
    here = timed(lambda: packed(codec, first(request)))
    there = timed(lambda: last.run(unpacked(codec, raw, middle)))

    def answer(arrays: Arrays) -> Arrays:
        values = first(arrays)
        return last.run(unpacked(codec, packed(codec, values), values))

    return Profile(
        edge_ms=round(here[0], 4),
        edge_spread=round(here[1], 4),
        cloud_ms=round(there[0], 4),
        cloud_spread=round(there[1], 4),
        bytes_up=sum(map(len, raw.values())),
        loss=bench.loss_of(answer),
        **of,
    )


def narrow(graph: onnx.ModelProto, request: Arrays) -> list[tuple[str, ...]]:
    """The narrowest frontiers of a graph in its own order, at most `SPLITS`, early ones first.

    Only those whose values are a quarter smaller than the one before are of interest: a later cut
    of the same size costs the device more and saves nothing.
    """
    inner = onnx.shape_inference.infer_shapes(graph).graph
    constants = {tensor.name for tensor in inner.initializer}
    sizes = _sizes(inner, len(next(iter(request.values()))))
    live = {value.name for value in inner.input} - constants
    smallest, found = math.inf, []
    for index, node in enumerate(inner.node[:-1]):
        live |= set(node.output)
        later = {name for other in inner.node[index + 1 :] for name in other.input}
        live &= later
        size = sum(sizes.get(name, math.inf) for name in live)
        if 0 < len(live) <= WIDEST_CUT and size < 0.75 * smallest:
            smallest = size
            found.append(tuple(sorted(live)))
    kept = [cut for cut in found if not set(cut) & {value.name for value in inner.input}]
    return kept[:: max(1, len(kept) // SPLITS)][:SPLITS]


def _sizes(graph: onnx.GraphProto, samples: int) -> dict[str, float]:
    def size(value: onnx.ValueInfoProto) -> float:
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            return math.inf
        dims = value.type.tensor_type.shape.dim
        return math.prod(dim.dim_value or samples for dim in dims)

    return {value.name: size(value) for value in graph.value_info}


def halves(
    graph: onnx.ModelProto, cut: Sequence[str]
) -> tuple[onnx.ModelProto, onnx.ModelProto] | None:
    """Head and tail at a cut, or nothing where the tail needs more than the cut."""
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(graph))
    inputs = [value.name for value in graph.graph.input]
    outputs = [value.name for value in graph.graph.output]
    try:
        parts = (
            extractor.extract_model(inputs, list(cut)),
            extractor.extract_model(list(cut), outputs),
        )
        for part in parts:
            onnx.checker.check_model(part)
    except Exception:  # noqa: BLE001  the extractor raises whatever it meets
        return None
    return parts


def measured(name: str, workload: Workload, data: Path | None) -> ProfileSet:
    """Train, slice and measure one workload."""
    plan = recipes.find(workload.recipe)
    own = recipes.own_run(workload.recipe) if workload.data else None
    run = msgspec.structs.replace(
        own or plan.run,
        size=workload.size,
        steps=workload.steps,
        check=max(10, workload.steps // 3),
        batch=workload.batch,
        data=str(data / workload.data) if data and workload.data else "",
    )
    model = train(workload.recipe, run)
    graphs, costs = _sliced(model)
    whole = graphs[SliceSpec(1.0, "fp32")]
    error = plan.error(Runner(whole).run(model.samples.test.inputs), model.samples.test.truth)
    bench = Bench(model, workload, error)
    found = [edge(bench, spec, graphs[spec], costs[spec]) for spec in graphs]
    found += list(_away(bench, whole, costs[SliceSpec(1.0, "fp32")]))
    return ProfileSet(model=name, profiles=tuple(found), about=_about(workload, error))


def _about(workload: Workload, error: float) -> str:
    return (
        f"recipe {workload.recipe}, size {workload.size}, {workload.steps} steps,"
        f" {workload.samples} samples a request, test error {error:.4f};"
        " one x86-64 core, ONNX Runtime; measured by python -m benchmarks.slices.measuring"
    )


def _sliced(
    model: TrainedModel,
) -> tuple[dict[SliceSpec, onnx.ModelProto], dict[SliceSpec, float]]:
    graphs, memory = {}, {}
    specs = [SliceSpec(w, p) for w in model.info.widths for p in ("fp32", "int8")]
    with tempfile.TemporaryDirectory() as folder:
        for spec in specs:
            try:
                (made,) = make_slices(model, Path(folder), specs=[spec])
            except SelfTestFailedError as error:
                print(f"  left out: {error}", file=sys.stderr)
                continue
            graphs[spec] = onnx.load_model(dict(made.files)["model"])
            memory[spec] = made.cost.memory_mib
    return graphs, memory


def _away(bench: Bench, whole: onnx.ModelProto, memory_mib: float) -> Iterator[Profile]:
    for codec in CODECS:
        one = Candidate(1.0, "fp32", "cloud", codec=codec)
        if suits(codec, bench.request()):
            yield split(bench, None, whole, candidate=one)
    for number, cut in enumerate(narrow(whole, bench.request()), 1):
        parts = halves(whole, cut)
        if parts is None:
            continue
        for codec in ("none", "int8+zlib"):
            one = Candidate(1.0, "fp32", "split", f"c{number}", codec)
            yield split(bench, *parts, candidate=one, memory_mib=memory_mib)


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
