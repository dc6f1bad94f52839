"""Cut slices of a model: where it pays to cut, both parts as files, how what crosses is packed.

Works on a float graph and samples, of a recipe or a user's own. Each cut is proven before it is
written: head and tail on the same inputs are the whole. No torch in here.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from aimass_cloud.models.files import write_whole
from aimass_cloud.slicing import cuts, selftest
from aimass_cloud.slicing.costs import ALIVE, COPIES, FLOAT_BYTES, MIB, SESSION_MIB, largest_value
from aimass_cloud.slicing.cuts.running import Runner
from aimass_cloud.slicing.imported_contract import apart
from aimass_cloud.slicing.profiling import Arrays, Run, Subject, Way, packing
from aimass_shared.activations import ActivationCodec, Choice, chosen
from aimass_shared.errors import ModelLoadFailedError, SelfTestFailedError, UncuttableModelError
from aimass_shared.inference import datatype_of
from aimass_shared.manifest import Contract, Halves, Role, SliceArtifact, TensorSpec
from aimass_shared.slices import SliceCost, SliceSpec

Progress = Callable[[float, str], None]

MOST_TENSORS: Final = 2
MOST_LISTED: Final = 500
SMALLER: Final = 0.9
"""A later cut is worth it only if this share of the bytes of all earlier ones crosses, or less."""
LATEST: Final = 0.9
"""Share of the nodes in a head above which the tail is not worth the way."""
BUDGETS: Final = {"classify": 0.05, "rank": 0.05, "match": 0.05}
BUDGET: Final = 0.01
"""Error of the outputs that a codec may cause, as a share of each output's largest value: labels
and orders stand more than quantities."""
MARGIN, HALF_MARGIN, SAFETY = 1e-4, 4e-3, 4.0
TOGETHER: Final = 8
"""Samples in one request that a slice's memory is reckoned for."""
RUNS, RUN_SECONDS = 200, 1.0
NAMES: Final[Mapping[Role, str]] = {"selftest": "selftest.npz", "vocabulary": "vocabulary.json"}


@dataclass(frozen=True, eq=False)
class Source:
    """A model to cut, in float.

    Attributes:
        whole: its graph.
        contract: what a release says of it.
        subject: what it is judged and measured on.
        vectors: inputs of the self-test.
        choosing: inputs that codecs are chosen on; what the subject judges with are others.
        batches: inputs of one sample, of two others and of all three, by number; empty where
            samples cannot share a run.
        sizes: of symbolic axes that no input tells.
        files: what a slice has beside its parts, such as a vocabulary.
    """

    whole: cuts.Whole
    contract: Contract
    subject: Subject
    vectors: Arrays
    choosing: Arrays
    batches: Mapping[int, Arrays] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[Role, bytes] = field(default_factory=dict)

    @property
    def budget(self) -> float:
        """What a codec may change at the outputs."""
        return BUDGETS.get(self.contract.task, BUDGET)

    @property
    def margin(self) -> float:
        """What a device's arithmetic may differ from ours at least."""
        return MARGIN if cuts.tolerance_of(self.whole) == cuts.TOLERANCE else HALF_MARGIN


@dataclass(frozen=True, eq=False)
class CutSlice:
    """A cut slice, with what runs its parts."""

    artifact: SliceArtifact
    head: Run
    tail: Run
    tried: Choice

    def way(self, codec: ActivationCodec) -> Way:
        """Both parts with a codec between them."""
        halves = self.artifact.halves
        names = tuple(one.name for one in halves.crossing) if halves else ()
        return Way(self.head, packing(codec), self.tail, names)


def worth_cutting(found: cuts.Cuts, count: int, inputs: Collection[str]) -> list[cuts.Cut]:
    """At most so many cuts that are no later and no wider than others, early ones first.

    None where all inputs cross. Where there are some, those that send less than the inputs, that
    part nothing which a runtime joins, and that leave the tail some work.

    Args:
        found: all cuts of a model.
        count: at most.
        inputs: names of the model's.
    """
    sized = [
        cut for cut in found.cuts if cut.bytes_per_sample and not set(inputs) <= set(cut.names)
    ]
    for wanted in (_leaves_work, _parts_nothing, _sends_less):
        kept = [cut for cut in sized if wanted(cut, found)]
        sized = kept or sized
    front: list[cuts.Cut] = []
    least = math.inf
    for cut in sorted(sized, key=lambda one: (one.head_nodes, one.bytes_per_sample, one.id)):
        size = cut.bytes_per_sample or 0
        if size <= SMALLER * least:
            front.append(cut)
            least = size
    places = np.linspace(0, len(front) - 1, min(count, len(front))).round().astype(int)
    return [front[place] for place in dict.fromkeys(places.tolist())]


def _leaves_work(cut: cuts.Cut, found: cuts.Cuts) -> bool:
    return cut.head_nodes <= LATEST * found.nodes


def _parts_nothing(cut: cuts.Cut, _found: cuts.Cuts) -> bool:
    return not cut.splits


def _sends_less(cut: cuts.Cut, found: cuts.Cuts) -> bool:
    return found.input_bytes is None or (cut.bytes_per_sample or 0) < found.input_bytes


def cut_slices(source: Source, folder: Path, count: int, *, progress: Progress) -> list[CutSlice]:
    """Cut slices of a model, each in a folder of its own; none where it cannot be cut.

    Args:
        source: the model.
        folder: where files go.
        count: of cuts, at most.
        progress: told the fraction done and what is going on.

    Raises:
        SelfTestFailedError: head and tail of a cut are not the whole.
        ModelLoadFailedError: a part cannot be run, or is too large for one file.
    """
    if not count:
        return []
    given: dict[str, Any] = {"sizes": source.sizes, "inputs": dict(source.vectors)}
    try:
        found = cuts.cuts_of(
            source.whole, most_tensors=MOST_TENSORS, most_cuts=MOST_LISTED, **given
        )
    except UncuttableModelError:
        return []
    wanted = worth_cutting(found, count, [spec.name for spec in source.contract.inputs])
    reference = cuts.Reference(source.whole, source.vectors)
    made = []
    for number, cut in enumerate(wanted):
        progress(number / len(wanted), f"cutting at {cut.id}")
        parts = cuts.split(source.whole, cut, **given)
        agreement = reference.agreement(*parts)
        cuts.demand(agreement, cut.id, cuts.tolerance_of(source.whole))
        made.append(_Making(source, cut, parts).made(folder, agreement.max_abs_error))
    return made


class _Making:
    """The making of one cut slice."""

    def __init__(self, source: Source, cut: cuts.Cut, parts: tuple[cuts.Part, cuts.Part]) -> None:
        self._source, self._cut, self._parts = source, cut, parts
        self._first, self._last = (Runner(part.model, part.folder) for part in parts)

    def made(self, folder: Path, max_abs_error: float) -> CutSlice:
        """The files of the slice, and what they cost."""
        source, spec = self._source, SliceSpec(1.0, "fp32", self._cut.id)
        head, tail = self._parts
        choice = self._choice()
        place = folder / spec.name
        files = [
            ("model", str(one_file(head.save(place / "model.onnx")))),
            ("tail", str(one_file(tail.save(place / "tail.onnx")))),
            *written(place, {"selftest": self._selftest(), **source.files}),
        ]
        answer = Way(self.head, packing(choice.codec), self.tail, self._cut.names).answer
        cost = cost_of(
            (head.model, Path(files[0][1])),
            source,
            self._first.run,
            error=source.subject.error_of(answer),
        )
        artifact = SliceArtifact(
            spec,
            cost,
            tuple(files),  # type: ignore[arg-type]  # roles are literals
            source.margin,
            choice.codec,
            self._halves(max_abs_error),
            latency_ms=selftest.latency_ms(cost.reference_ms),
        )
        return CutSlice(artifact, self.head, self.tail, choice)

    def head(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """What crosses, and outputs that are ready by then."""
        between = {**inputs, **self._first.run(inputs)}
        return {name: between[name] for name in dict.fromkeys((*self._cut.names, *self._cut.early))}

    def _crossing(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        between = self.head(inputs)
        return {name: between[name] for name in self._cut.names}

    def tail(self, crossing: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs of the tail."""
        return self._last.run(crossing)

    def _choice(self) -> Choice:
        crossing = self._crossing(self._source.choosing)
        return chosen(crossing, self.tail, budget=self._source.budget)

    def _selftest(self) -> bytes:
        source, head = self._source, self._parts[0]
        inputs = {name: source.vectors[name] for name in head.inputs}
        return proven(inputs, self._first.run(inputs))

    def _halves(self, max_abs_error: float) -> Halves:
        source, cut = self._source, self._cut
        seen = self._crossing(source.subject.one)
        shapes = {one.name: one.shape for one in cut.crossing}
        return Halves(
            takes=tuple(self._parts[0].inputs),
            crossing=tuple(_spec(name, seen[name], shapes[name]) for name in cut.names),
            early=cut.early,
            batched=bool(source.batches)
            and apart(lambda size: self._crossing(source.batches[size])),
            max_abs_error=max_abs_error,
        )


def _spec(name: str, array: NDArray[Any], shape: Sequence[int | str]) -> TensorSpec:
    sizes = tuple(axis if isinstance(axis, int) else -1 for axis in shape)
    return TensorSpec(name, datatype_of(array), sizes)


def finite(outputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Those outputs that are arrays of finite numbers."""
    return {
        name: array
        for name, array in outputs.items()
        if array.dtype.kind in "biu" or (array.dtype.kind == "f" and np.isfinite(array).all())
    }


def proven(inputs: Arrays, outputs: Mapping[str, Any]) -> bytes:
    """The file of a self-test, of the outputs that are finite.

    Raises:
        SelfTestFailedError: none is.
    """
    kept = finite(outputs)
    if not kept:
        raise SelfTestFailedError(
            f"of {', '.join(outputs)} nothing is finite on these inputs, so nothing could prove the"
            " slice on a device: give samples that the model is for"
        )
    return selftest.packed(dict(inputs), kept)


def cost_of(
    part: tuple[onnx.ModelProto, Path], source: Source, run: Run, *, error: float
) -> SliceCost:
    """What a graph and its file cost; memory is reckoned for requests of some samples."""
    graph, size = part[0], part[1].stat().st_size
    together = TOGETHER if source.batches else 1
    alive = ALIVE * together * largest_value(graph) * FLOAT_BYTES
    return SliceCost(
        model_bytes=size,
        memory_mib=round(SESSION_MIB + (COPIES * size + alive) / MIB, 1),
        reference_ms=round(fastest_ms(lambda: run(source.subject.one)), 4),
        val_error=error,
    )


def fastest_ms(run: Callable[[], object]) -> float:
    """Fastest of many runs, for a second at most: what is left when nobody disturbs."""
    best, ends = math.inf, time.perf_counter() + RUN_SECONDS
    for _ in range(RUNS):
        started = time.perf_counter_ns()
        run()
        best = min(best, time.perf_counter_ns() - started)
        if time.perf_counter() > ends:
            break
    return best / 1e6


def one_file(files: Sequence[Path]) -> Path:
    """The file of a model that is in one.

    Raises:
        ModelLoadFailedError: its weights did not fit into it.
    """
    if len(files) > 1:
        size = sum(file.stat().st_size for file in files) >> 20
        for file in files:
            file.unlink()
        raise ModelLoadFailedError(
            f"the model has {size} MiB: what is released is one file of at most 1 GiB"
        )
    return files[0]


def written(folder: Path, contents: Mapping[Role, bytes]) -> list[tuple[Role, str]]:
    """Write files of a slice; a half-written one never has its final name."""
    files: list[tuple[Role, str]] = []
    for role, content in contents.items():
        path = folder / NAMES[role]
        write_whole(path, content)
        files.append((role, str(path)))
    return files
