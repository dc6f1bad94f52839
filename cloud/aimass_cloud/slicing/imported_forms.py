"""A user's own model in other number formats: those that keep within a budget and are not beaten.

Formats are chosen on one half of the samples (`variants`) and judged on the other. Without samples
there is only half precision: the ranges of int8 would be those of numbers that nobody measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx

from aimass_cloud.models.files import write_whole
from aimass_cloud.slicing import engines, selftest
from aimass_cloud.slicing.cuts.running import Runner
from aimass_cloud.slicing.cutting import MARGIN, Progress, Source, cost_of, proven, written
from aimass_cloud.slicing.export import folded
from aimass_cloud.slicing.pareto import CLASSES, DeviceClass, Figures, unbeaten
from aimass_cloud.slicing.plans import WholeSlice
from aimass_cloud.slicing.profiling import Arrays
from aimass_cloud.slicing.ranges import MOST_SAMPLES
from aimass_cloud.slicing.variants import Budget, Form, Forms
from aimass_shared.activations import largest_share
from aimass_shared.manifest import SliceArtifact
from aimass_shared.slices import Precision, SliceSpec

UNSAMPLED: Final[tuple[Precision, ...]] = ("fp16",)
LONGEST: Final = 200
SLACK: Final = 0.25
"""Share of its budget that a format may lose and still be as good as another."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """Which formats are looked for.

    Attributes:
        classes: of devices. sampled: whether there are samples of the user's own.
    """

    classes: Sequence[DeviceClass]
    sampled: bool

    @property
    def formats(self) -> tuple[Precision, ...]:
        """Other than float."""
        all_of = dict.fromkeys(one for kind in self.classes for one in CLASSES[kind])
        return tuple(one for one in all_of if one != "fp32" and (self.sampled or one in UNSAMPLED))


def formed(
    source: Source, full: WholeSlice, wanted: Wanted, *, folder: Path, progress: Progress
) -> tuple[list[WholeSlice], dict[str, str]]:
    """Slices in other number formats, and why others are left out, by the slice's name.

    Args:
        source: the model.
        full: its slice in float.
        wanted: formats to look for.
        folder: where files go.
        progress: told the fraction done and what is going on.
    """
    if not wanted.formats:
        return [], {}
    left_out: dict[str, str] = {}
    if not source.batches:
        why = "other number formats need an open batch"
        return [], {_spec(one).name: why for one in wanted.formats}
    try:
        found = list(_found(source, full, wanted, left_out=left_out, progress=progress))
    except Exception as error:  # noqa: BLE001  as in `_found`
        why = f"cannot be made of this graph: {_line(error)}"
        return [], {_spec(one).name: why for one in wanted.formats}
    kept = _kept(found, full, wanted, slack=SLACK * source.budget)
    for spec, _ in found:
        if spec not in kept:
            left_out[spec.name] = "another slice is no worse in anything"
    return [_made(source, one, folder, full=full) for one in found if one[0] in kept], left_out


Found = tuple[SliceSpec, Form]


def _found(
    source: Source,
    full: WholeSlice,
    wanted: Wanted,
    *,
    left_out: dict[str, str],
    progress: Progress,
) -> Iterator[Found]:
    graph = named(folded(onnx.load_model(dict(full.artifact.files)["model"])))
    forms = Forms(
        graph,
        {name: array[:MOST_SAMPLES] for name, array in source.choosing.items()},
        kept=(),
        measure=_measure(source, full),
        budget=Budget(source.budget, share=0.0),
    )
    judge = source.subject
    for number, precision in enumerate(wanted.formats):
        progress(number / len(wanted.formats), f"trying {precision}")
        spec = _spec(precision)
        try:
            best = forms.best(precision)
        except Exception as error:  # noqa: BLE001  of quantizers that no graph of ours ever met
            left_out[spec.name] = f"cannot be made of this graph: {_line(error)}"
            continue
        if best.form is None:
            left_out[spec.name] = best.why
            continue
        lost = judge.error_of(Runner(best.form.graph).run)
        if lost <= source.budget:
            yield spec, best.form
        else:
            left_out[spec.name] = f"error {lost:.4g} on samples, the budget is {source.budget:g}"


def _measure(source: Source, full: WholeSlice) -> Any:  # noqa: ANN401  a function
    """The error of outputs for the samples that formats are chosen on, all at once."""
    expected = full.run({n: array[:MOST_SAMPLES] for n, array in source.choosing.items()})

    def error(outputs: Arrays) -> float:
        if source.contract.task == "classify":
            name = source.contract.outputs[0].name
            found, truth = (each[name].argmax(axis=-1) for each in (outputs, expected))
            return 1 - float(np.mean(found == truth))
        return min(1.0, largest_share(outputs, expected))

    return error


def _kept(
    found: Sequence[Found], full: WholeSlice, wanted: Wanted, *, slack: float
) -> set[SliceSpec]:
    """What no other slice beats for one of the classes."""
    cost = full.artifact.cost
    figures = [
        Figures(full.artifact.spec, 0.0, cost.reference_ms, cost.memory_mib, cost.model_bytes),
        *(
            Figures(spec, form.error, form.ms, cost.memory_mib, form.graph.ByteSize(), slack=slack)
            for spec, form in found
        ),
    ]
    return {one.spec for kind in wanted.classes for one in unbeaten(figures, kind)}


def _made(source: Source, found: Found, folder: Path, *, full: WholeSlice) -> WholeSlice:
    spec, form = found
    place = folder / spec.name
    path = place / "model.onnx"
    write_whole(path, form.graph.SerializeToString())
    run = Runner(form.graph).run
    outputs = run(source.vectors)
    own = selftest.relative_error(outputs, full.run(source.vectors))
    tolerances = selftest.tolerances(spec.precision, own, own, classes=("cpu", "tensorrt"))
    cost = cost_of(
        (form.graph, path),
        source,
        run,
        error=source.subject.error_of(run),
    )
    if spec.precision in CLASSES["tensorrt"]:
        cost = msgspec.structs.replace(cost, tensorrt=engines.tried(path).verdict)
    vectors = proven(source.vectors, outputs)
    artifact = SliceArtifact(
        spec,
        cost,
        (("model", str(path)), *written(place, {"selftest": vectors})),
        max(MARGIN, tolerances["cpu"]),
        tolerances=tolerances,
        latency_ms=selftest.latency_ms(cost.reference_ms),
    )
    return WholeSlice(artifact, run)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:LONGEST]


def _spec(precision: Precision) -> SliceSpec:
    return SliceSpec(1.0, precision)


def named(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a name of its own for each node, which exporters do not always give."""
    for number, node in enumerate(graph.graph.node):
        node.name = f"{number} {node.op_type}"
    return graph
