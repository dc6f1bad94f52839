"""A user's own ONNX model: its contract, its slices and their plans, in a process of its own.

    python -m aimass_cloud.slicing.importing FOLDER --memory-mib N

`FOLDER/order.json` says what is wanted, `FOLDER/source/` has the model; slices go to
`FOLDER/slices/`, what was found to `FOLDER/imported.json`. Nobody trusts the model: ONNX Runtime
may end the process that loads it. So this one is alone, with a limit of its memory and a parent
that waits only so long (`isolating`). Each line of its output is JSON: how far it is, or why not.
"""

import argparse
import os
import resource
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from aimass_cloud.slicing import cuts, engines
from aimass_cloud.slicing.cuts.dag import real_inputs
from aimass_cloud.slicing.cuts.files import save
from aimass_cloud.slicing.cuts.reading import tensors
from aimass_cloud.slicing.cuts.running import Runner, generated
from aimass_cloud.slicing.cutting import (
    Source,
    cost_of,
    cut_slices,
    finite,
    one_file,
    proven,
    written,
)
from aimass_cloud.slicing.imported_contract import branches, declared, is_open, observed
from aimass_cloud.slicing.imported_forms import Wanted, formed
from aimass_cloud.slicing.isolating import (
    IMPORTED,
    ORDER,
    SLICES,
    SOURCE,
    Imported,
    Line,
    Order,
)
from aimass_cloud.slicing.pareto import DeviceClass
from aimass_cloud.slicing.plans import WholeSlice, planned, with_plans
from aimass_cloud.slicing.profiling import Arrays, Subject
from aimass_cloud.slicing.scatter import left, without_scatter
from aimass_cloud.slicing.selftest import TENSORRT_MARGIN, latency_ms
from aimass_shared.activations import largest_share
from aimass_shared.errors import (
    AimassError,
    BadTensorError,
    ModelLoadFailedError,
    SelfTestFailedError,
)
from aimass_shared.inference import check_inputs
from aimass_shared.manifest import Contract, SliceArtifact
from aimass_shared.slices import SliceSpec

FULL: Final = SliceSpec(1.0, "fp32")
DRAWN, SIZE = 8, 16
"""Samples that are drawn where none are given; size of an axis that nobody tells."""
VECTORS: Final = 2
TRIED: Final = 16
"""Samples that are tried together and alone."""
MOST_SAMPLES: Final = 256
SECONDS: Final = 1.0
SOME, OTHERS = 1, 2


@dataclass(frozen=True, eq=False)
class Samples:
    """Requests to a model.

    Attributes:
        requests: each with inputs that the model takes at once.
        drawn: whether they are normal numbers, for want of samples.
    """

    requests: Sequence[dict[str, NDArray[Any]]]
    drawn: bool


def imported(folder: Path, tell: "Tell") -> Imported:
    """Make everything of the model in a folder.

    Raises:
        ModelLoadFailedError: it is no model, or none that can be served.
        UncuttableModelError: it cannot be shown to compute the same twice.
        BadTensorError: the samples are not its inputs.
        SelfTestFailedError: a slice is not the model.
    """
    order = msgspec.json.decode((folder / ORDER).read_bytes(), type=Order)
    tell.progress(0.02, "reading the model")
    whole = cuts.read(folder / SOURCE / order.graph)
    runner = Runner(whole.model, whole.folder)
    # From here on it is the same model as TensorRT may take it; what it gives is what came.
    whole = replace(whole, model=without_scatter(whole.model))
    model = _Model(order, whole, runner, declared(whole, order.name, order.labels))
    samples = _samples(folder, model)
    tell.progress(0.1, "running the model")
    contract = observed(
        model.contract, runner.run, list(_batches(model, samples)), branches=branches(whole)
    )
    _check_labels(contract)
    source = _source(model, contract, samples)
    place = folder / SLICES
    full = _full(source, runner, place, classes=order.classes)
    wanted = Wanted(order.classes, sampled=not samples.drawn)
    others, left_out = formed(source, full, wanted, folder=place, progress=tell.part(0.2, 0.5))
    wholes = [full, *others]
    cut = cut_slices(source, place, order.cuts, progress=tell.part(0.5, 0.7))
    profiles = planned(order.name, source.subject, (wholes, cut), progress=tell.part(0.7, 0.98))
    made = [*(one.artifact for one in wholes), *(one.artifact for one in cut)]
    return Imported(
        contract,
        tuple(with_plans(made, profiles, place)),
        _parameters(whole),
        {**_metrics(model, samples, contract), **({"left_out": left_out} if left_out else {})},
    )


@dataclass(frozen=True, eq=False)
class _Model:
    order: Order
    whole: cuts.Whole
    runner: Runner
    contract: Contract

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of open axes: as told, else a guess; of batches, one."""
        named = {
            dim.dim_param: SIZE
            for value in real_inputs(self.whole.model.graph)
            for dim in value.type.tensor_type.shape.dim
            if dim.dim_param
        }
        return {**named, **dict.fromkeys(self.batches, 1), **self.order.sizes}

    @property
    def batches(self) -> set[str]:
        """Names of the axes that are batches: first ones that are open."""
        firsts = [
            value.type.tensor_type.shape.dim[0]
            for value in real_inputs(self.whole.model.graph)
            if len(value.type.tensor_type.shape.dim)
        ]
        return {dim.dim_param for dim in firsts if dim.dim_param}

    @property
    def together(self) -> bool:
        """Whether the first axis of every input is open."""
        return all(spec.shape[:1] == (-1,) for spec in self.contract.inputs)


def _samples(folder: Path, model: _Model) -> Samples:
    """Those that were given, as requests of one sample; else drawn ones."""
    if not model.order.samples:
        drawn = [
            generated(model.whole.model, seed=seed, sizes=model.sizes) for seed in range(DRAWN)
        ]
        return Samples(drawn, drawn=True)
    arrays = _read(folder / SOURCE / model.order.samples)
    wanted = {spec.name: spec for spec in model.contract.inputs}
    if arrays.keys() != wanted.keys():
        raise BadTensorError(
            f"the samples are {', '.join(sorted(arrays)) or 'none'}; the model takes"
            f" {', '.join(sorted(wanted))}: one array for each"
        )
    requests = list(_requests(model, arrays))
    for request in requests:
        check_inputs(model.contract.inputs, request)
    return Samples(requests[:MOST_SAMPLES], drawn=False)


def _requests(model: _Model, arrays: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
    """Samples one by one; where the batch is fixed, as many at once as it has."""
    firsts = {spec.name: spec.shape[0] for spec in model.contract.inputs if spec.shape}
    if len(firsts) < len(model.contract.inputs):
        return [dict(arrays)]
    sides = {name: max(1, size) for name, size in firsts.items()}
    counts = {len(arrays[name]) // side for name, side in sides.items() if arrays[name].ndim}
    if len(counts) != 1 or not min(counts):
        sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise BadTensorError(f"all inputs must hold the same samples, one at least: {sizes}")
    return [
        {name: arrays[name][at * side : (at + 1) * side] for name, side in sides.items()}
        for at in range(min(counts.pop(), MOST_SAMPLES))
    ]


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise BadTensorError(f"the samples must be an .npz file of arrays: {error}") from error


def _check_labels(contract: Contract) -> None:
    """Each label names a place in the last axis of the first output.

    Raises:
        BadTensorError: there are more or fewer.
    """
    first = contract.outputs[0]
    if contract.labels and first.shape[-1:] not in {(len(contract.labels),), (-1,)}:
        raise BadTensorError(
            f"there are {len(contract.labels)} labels; the first output, {first.name!r}, has the"
            f" shape {list(first.shape)}"
        )


def _batches(model: _Model, samples: Samples) -> Iterator[dict[int, Arrays]]:
    """Inputs of one sample, of two others, and of all three: of all samples, some times."""
    if not model.together:
        yield {1: samples.requests[0]}
        return
    count = len(samples.requests)
    for start in range(0, min(count, TRIED), 2):
        three = [samples.requests[(start + at) % count] for at in range(3)]
        yield {1: three[0], 2: _joined(three[1:]), 3: _joined(three)}


def _joined(requests: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([one[name] for one in requests]) for name in requests[0]}


def _source(model: _Model, contract: Contract, samples: Samples) -> Source:
    """Codecs are chosen on one half of the samples, and judged on the other."""
    requests = samples.requests
    half = (len(requests) + 1) // 2
    chosen, judged = requests[:half], requests[half:] or requests
    shared = is_open(contract)
    return Source(
        model.whole,
        contract,
        _subject(model, contract, judged),
        _joined(requests[:VECTORS]) if shared else requests[0],
        choosing=_joined(chosen) if shared else chosen[0],
        batches=next(_batches(model, samples)) if shared else {},
        sizes=model.order.sizes,
    )


def _subject(model: _Model, contract: Contract, requests: Sequence[Arrays]) -> Subject:
    """Judged against the model itself in float: nobody knows the truth."""
    truth = [finite(model.runner.run(request)) for request in requests]

    def error(outputs: Sequence[Arrays]) -> float:
        pairs = list(zip(outputs, truth, strict=True))
        if contract.task == "classify":
            return 1 - float(np.mean([_same_label(*pair) for pair in pairs]))
        return float(np.mean([min(1.0, largest_share(*pair)) for pair in pairs]))

    return Subject(requests[0], requests, error, share=lambda found: found, seconds=SECONDS)


def _same_label(outputs: Arrays, expected: Arrays) -> float:
    """Share of samples where the first output has its largest value in the same place."""
    name = next(iter(expected))
    found, wanted = (each[name].argmax(axis=-1) for each in (outputs, expected))
    return float(np.mean(found == wanted))


def _full(
    source: Source, runner: Runner, place: Path, *, classes: Sequence[DeviceClass]
) -> WholeSlice:
    """The whole model as a slice of its own, which gives what the file gave.

    Raises:
        SelfTestFailedError: it does not.
    """
    folder = place / FULL.name
    path = one_file(save(source.whole.model, source.whole.folder, folder / "model.onnx"))
    saved = Runner(onnx.load_model(path))
    outputs = saved.run(source.vectors)
    vectors = proven(source.vectors, outputs)
    missed = largest_share(outputs, finite(runner.run(source.vectors)))
    if not missed <= cuts.tolerance_of(source.whole):
        raise SelfTestFailedError(f"the model as one file differs from what came by {missed:.1e}")
    files = (("model", str(path)), *written(folder, {"selftest": vectors}))
    cost = cost_of((source.whole.model, path), source, saved.run, error=0.0)
    if "tensorrt" in classes:
        cost = msgspec.structs.replace(cost, tensorrt=engines.tried(path).verdict)
    artifact = SliceArtifact(
        FULL,
        cost,
        files,
        source.margin,
        tolerances={"cpu": source.margin, "tensorrt": max(source.margin, TENSORRT_MARGIN)},
        latency_ms=latency_ms(cost.reference_ms),
    )
    return WholeSlice(artifact, runner.run)


def _parameters(whole: cuts.Whole) -> int:
    return sum(int(np.prod(tensor.dims, dtype=np.int64)) for tensor in tensors(whole.model))


def _metrics(model: _Model, samples: Samples, contract: Contract) -> dict[str, Any]:
    graph = model.whole.model.graph
    told: dict[str, Any] = {
        "digest": model.whole.digest,
        "nodes": len(graph.node),
        "samples": 0 if samples.drawn else len(samples.requests),
        "batch": "any" if is_open(contract) else "fixed",
    }
    if scatters := left(model.whole.model):
        told["scatters"] = scatters
    guessed = sorted(
        axis
        for axis in model.sizes.keys() - model.batches - model.order.sizes.keys()
        if samples.drawn
    )
    if guessed:
        told["note"] = f"measured with {', '.join(f'{axis}={SIZE}' for axis in guessed)}"
    return told


class Tell:
    """Says on standard output how far the work is."""

    def progress(self, fraction: float, message: str) -> None:
        """One line."""
        say(Line(progress=fraction, message=message))

    def part(self, start: float, stop: float) -> Any:  # noqa: ANN401  a function
        """The same for a part of the work."""
        return lambda done, told: self.progress(start + done * (stop - start), told)


def say(line: Line) -> None:
    """Write one line for the parent."""
    sys.stdout.write(f"{msgspec.json.encode(line).decode()}\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    """End at once when standard input is closed, as it is when a parent dies."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Read the arguments and import."""
    parser = argparse.ArgumentParser(prog="python -m aimass_cloud.slicing.importing")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory-mib", type=int, default=0)
    arguments = parser.parse_args()
    _end_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if arguments.memory_mib:
        size = arguments.memory_mib << 20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    try:
        found = imported(arguments.folder, Tell())
        (arguments.folder / IMPORTED).write_bytes(msgspec.json.encode(found))
    except AimassError as error:
        say(Line(code=error.code, message=error.detail))
        return 1
    except MemoryError:
        why = f"it takes more than {arguments.memory_mib} MiB: raise slicing.memory_mib"
        say(Line(code=ModelLoadFailedError.code, message=why))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
