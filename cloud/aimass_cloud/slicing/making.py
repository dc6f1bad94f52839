"""Making the slices of a model: fill, fold, round, check against torch, measure, write.

A file that does not compute what the model computes is refused here, before anyone signs it. A
number format that loses more than its budget is left out, with the reason. Which slices a release
carries is chosen by measurement (`pareto`), unless someone says which.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx

from aimass_cloud import recipes
from aimass_cloud.models.files import write_whole
from aimass_cloud.models.samples import Arrays, Part, Samples
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.slicing import engines, selftest
from aimass_cloud.slicing.costs import Runner, measured, memory_of
from aimass_cloud.slicing.export import filled, folded
from aimass_cloud.slicing.pareto import CLASSES, DeviceClass, Figures, unbeaten
from aimass_cloud.slicing.preparing import beside, kinds_of
from aimass_cloud.slicing.streamed import with_stream
from aimass_cloud.slicing.templates import Templates
from aimass_cloud.slicing.variants import Budget, Form, Forms, Variant, sampled
from aimass_shared import fleet, streaming
from aimass_shared.errors import SelfTestFailedError
from aimass_shared.manifest import Contract, Role, SliceArtifact
from aimass_shared.slices import SliceSpec

# Largest error of the float file against torch, as a share of an output's largest value.
FLOAT_TOLERANCE = 1e-5
# Share of its budget that a number format may lose and still be as good as another of that width.
SLACK = 0.25
VARIANTS = "variants.json"

Progress = Callable[[float, str], None]


def quiet(_fraction: float, _message: str) -> None:
    """Progress that nobody watches."""


def contract_of(model: TrainedModel) -> Contract:
    """What every slice of a model needs from telemetry and gives back."""
    return model.info.contract


@dataclass(frozen=True)
class Sliced:
    """Slices, and how they came about.

    Attributes:
        variants: all forms that were tried, also written to `variants.json` beside the slices.
        left_out: reasons by the name of a slice that was asked for, or could have been released.
    """

    artifacts: list[SliceArtifact]
    variants: list[Variant]
    left_out: dict[str, str]


def make_slices(  # noqa: PLR0913  named
    model: TrainedModel,
    out_dir: Path,
    *,
    specs: Sequence[SliceSpec] = (),
    classes: Sequence[DeviceClass] = ("cpu",),
    budget: float | None = None,
    reuse: Path | None = None,
    progress: Progress = quiet,
) -> list[SliceArtifact]:
    """The artifacts of `sliced`."""
    return sliced(
        model,
        out_dir,
        specs=specs,
        classes=classes,
        budget=budget,
        reuse=reuse,
        progress=progress,
    ).artifacts


def sliced(  # noqa: PLR0913  named
    model: TrainedModel,
    out_dir: Path,
    *,
    specs: Sequence[SliceSpec] = (),
    classes: Sequence[DeviceClass] = ("cpu",),
    budget: float | None = None,
    reuse: Path | None = None,
    progress: Progress = quiet,
) -> Sliced:
    """Make slices, each in a folder of its own in `out_dir`.

    Args:
        model: what to slice.
        out_dir: where files go; it is made if need be.
        specs: which slices; their widths must have been trained. With none, all widths in all
            number formats of the classes are tried, and those that no other one beats are made.
        classes: of devices. For "tensorrt", engines of the slices are tried (seconds each) where
            TensorRT is installed.
        budget: what a slice may lose against the float slice of its width, in the recipe's measure;
            None is 0.005 or 2 % of the error, whichever is larger.
        reuse: a directory that earlier slices were made in, or that `prepare` was told: exported
            graphs are taken from it, and added to it. The first export takes seconds, later models
            of the same sizes need none.
        progress: told the fraction done and what is going on.

    Raises:
        NotFoundError: a width was not trained.
        SelfTestFailedError: a file does not compute what the model computes.
        ModelLoadFailedError: ONNX Runtime refuses a graph.
    """
    places = [out_dir] if reuse is None else [out_dir, reuse]
    templates = Templates(model, *places)
    wanted = list(specs) or _possible(model.info.widths, classes)
    widths = sorted({spec.width for spec in wanted})
    _export(model, templates, out_dir, widths=widths, progress=progress)
    allowed = Budget() if budget is None else Budget(budget, share=0.0)
    maker = _Maker(model, templates, budget=allowed, classes=classes)
    found = list(maker.candidates(wanted, progress))
    chosen = found if specs else _unbeaten(found, classes, maker.left_out)
    artifacts = maker.made(chosen, out_dir, progress)
    if "tensorrt" in classes:
        artifacts = _with_verdicts(artifacts)
    write_whole(out_dir / VARIANTS, msgspec.json.format(msgspec.json.encode(maker.variants)))
    return Sliced(artifacts, maker.variants, maker.left_out)


def _possible(widths: Sequence[float], classes: Sequence[DeviceClass]) -> list[SliceSpec]:
    """All widths in all number formats of the classes, float first."""
    formats = dict.fromkeys(one for device in classes for one in CLASSES[device])
    return [SliceSpec(width, one) for width in widths for one in formats]


def _export(
    model: TrainedModel,
    templates: Templates,
    out_dir: Path,
    *,
    widths: Sequence[float],
    progress: Progress,
) -> None:
    """Have all templates there: both kinds are exported at once, each on a core of its own."""
    for width in widths:
        model.at(width)  # refuses a width that was not trained
    if "step" not in kinds_of(model) or not templates.lacks("step", widths):
        return
    progress(0.0, "exporting graphs, once for all models of this size")
    with beside(model, out_dir, "step") as wait:
        for width in widths:
            templates.forward(width)
        wait()


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A slice that keeps within its budget on held-back samples."""

    spec: SliceSpec
    form: Form
    figures: Figures


def _unbeaten(
    found: Sequence[_Candidate], classes: Sequence[DeviceClass], left_out: dict[str, str]
) -> list[_Candidate]:
    """Those that a release carries; notes why the others are not among them."""
    figures = [one.figures for one in found]
    kept = {one.spec for device in classes for one in unbeaten(figures, device)}
    for one in found:
        if one.spec not in kept:
            left_out[one.spec.name] = "another slice is no worse in error, time, memory and bytes"
    return [one for one in found if one.spec in kept]


class _Maker:
    """What the slices of one model share: its float graphs, its samples, its reference outputs.

    Attributes:
        variants: all forms that were tried. left_out: reasons, by the name of a slice.
    """

    def __init__(
        self,
        model: TrainedModel,
        templates: Templates,
        *,
        budget: Budget,
        classes: Sequence[DeviceClass],
    ) -> None:
        self.variants: list[Variant] = []
        self.left_out: dict[str, str] = {}
        self._model, self._templates = model, templates
        self._budget, self._classes = budget, classes
        self._plan = recipes.find(model.info.recipe)
        self._kept = self._plan.module(model.info, model.constants).KEPT_FLOAT
        self._learns = "step" in kinds_of(model)
        self._vectors = model.samples.selftest
        self._held = _few(model.samples)
        self._floats: dict[float, onnx.ModelProto] = {}
        self._forms: dict[float, Forms] = {}
        self._limits: dict[float, float] = {}

    def candidates(self, wanted: Sequence[SliceSpec], progress: Progress) -> Iterator[_Candidate]:
        """Those slices that keep within the budget; float steps in where a width has none."""
        found: set[float] = set()
        for index, spec in enumerate(wanted):
            progress(0.8 * (1 + index) / (1 + len(wanted)), f"trying {spec.name}")
            one = self._candidate(spec)
            if one is not None:
                found.add(spec.width)
                yield one
        for width in dict.fromkeys(spec.width for spec in wanted):
            if width not in found:
                yield self._float_candidate(width)

    def _candidate(self, spec: SliceSpec) -> _Candidate | None:
        best = self._formats(spec.width).best(spec.precision)
        self.variants += best.told(spec.name)
        if best.form is None:
            self.left_out[spec.name] = best.why
            return None
        forms, form = self._formats(spec.width), best.form
        figures = Figures(
            spec,
            error=form.error,
            ms=form.ms,
            memory_mib=memory_of(form.graph),
            bytes=form.graph.ByteSize(),
            slack=SLACK * (forms.limit - forms.error),
        )
        return _Candidate(spec, form, figures)

    def _float_candidate(self, width: float) -> _Candidate:
        found = self._candidate(SliceSpec(width, "fp32"))
        if found is None:
            raise SelfTestFailedError(f"the float outputs of width {width} have no error")
        return found

    def _formats(self, width: float) -> Forms:
        """The number formats of a width, judged on held-back samples."""
        if width not in self._forms:
            held = self._held
            self._forms[width] = Forms(
                self._float(width),
                held.inputs,
                kept=self._kept,
                measure=lambda outputs: self._plan.error(outputs, held.truth),
                budget=self._budget,
                grain=self._grain(len(held)),
            )
        return self._forms[width]

    def _grain(self, count: int) -> float:
        """One sample's part of a share of wrong labels: less is no loss that can be told."""
        return 1 / count if self._model.info.contract.task == "classify" else 0.0

    def made(
        self, chosen: Sequence[_Candidate], out_dir: Path, progress: Progress
    ) -> list[SliceArtifact]:
        """The slices, checked, measured and written; float steps in for what test samples refuse.

        No other form is tried for those: nothing is chosen on test samples.
        """
        made: dict[SliceSpec, SliceArtifact] = {}
        for index, one in enumerate(chosen):
            progress(0.8 + 0.2 * index / len(chosen), f"making {one.spec.name}")
            artifact = self._made(one, out_dir / one.spec.name)
            if artifact is not None:
                made[one.spec] = artifact
        for width in dict.fromkeys(one.spec.width for one in chosen):
            if not any(spec.width == width for spec in made):
                one = self._float_candidate(width)
                artifact = self._made(one, out_dir / one.spec.name)
                made |= {one.spec: artifact} if artifact else {}
        return list(made.values())

    def _made(self, one: _Candidate, directory: Path) -> SliceArtifact | None:
        """One slice; None where it loses more than its budget on test samples."""
        spec, runner = one.spec, Runner(one.form.graph)
        cost = measured(one.form.graph, runner, plan=self._plan, test=self._model.samples.test)
        if spec.precision != "fp32" and not cost.val_error <= (limit := self._limit(spec.width)):
            self.left_out[spec.name] = (
                f"error {cost.val_error:.4g} on test samples, the budget ends at {limit:.4g}"
            )
            return None
        outputs = runner.run(self._vectors)
        contents: dict[Role, bytes] = {
            "model": one.form.graph.SerializeToString(),
            "selftest": selftest.packed(self._vectors, outputs),
            **self._model.assets,
        }
        if self._learns:
            contents["train"] = self._step(spec.width).SerializeToString()
        if spec.precision in CLASSES["cpu"]:
            cost = with_stream(contents, cost, one.form.graph, contract=self._model.info.contract)
        tolerances = self._tolerances(spec, outputs)
        return SliceArtifact(
            spec,
            cost,
            _written(directory, contents),
            tolerances["cpu"],
            tolerances=tolerances,
            latency_ms=selftest.latency_ms(cost.reference_ms),
        )

    def _limit(self, width: float) -> float:
        """The largest error on test samples."""
        if width not in self._limits:
            test = self._model.samples.test
            outputs = Runner(self._float(width)).run(test.inputs)
            error = self._plan.error(outputs, test.truth)
            self._limits[width] = self._budget.limit(error, self._grain(len(test)))
        return self._limits[width]

    def _tolerances(self, spec: SliceSpec, outputs: Arrays) -> dict[str, float]:
        """What a device's own arithmetic may differ from ours, by what runs it."""
        reference = self._reference(spec.width)
        own = selftest.relative_error(outputs, reference)
        rounding = own
        if spec.precision == "fp32" and "tensorrt" in self._classes:
            products = self._formats(spec.width).halves.form("products")
            rounding = selftest.relative_error(Runner(products).run(self._vectors), reference)
        return selftest.tolerances(spec.precision, own, rounding, classes=self._classes)

    def _float(self, width: float) -> onnx.ModelProto:
        """The float graph of a width, which agrees with torch."""
        if width not in self._floats:
            graph = folded(filled(self._templates.forward(width), self._model.at(width)))
            error = selftest.relative_error(
                Runner(graph).run(self._vectors), self._reference(width)
            )
            if not error <= FLOAT_TOLERANCE:
                raise SelfTestFailedError(
                    f"the file of width {width} differs from the model by {error:.1e}"
                )
            self._floats[width] = graph
        return self._floats[width]

    def _step(self, width: float) -> onnx.ModelProto:
        """The gradient step: its weights stay inputs, since a device trains them."""
        arrays, weights = self._model.at(width), self._model.weights
        constants = {name: array for name, array in arrays.items() if name not in weights}
        return filled(self._templates.step(width), constants)

    def _reference(self, width: float) -> Arrays:
        """What torch computes for the self-test's inputs."""
        return outputs_of(self._plan, self._model, Part(self._vectors, {}), width=width)


def _few(samples: Samples) -> Part:
    """Held-back samples that number formats are judged on; truth may hold more than samples."""
    held, test = samples.calibration, samples.test
    own = {
        name: array
        for name, array in held.truth.items()
        if len(array) == len(held) and len(test.truth[name]) == len(test)
    }
    taken = sampled({**held.inputs, **own})
    return Part(
        {name: taken[name] for name in held.inputs},
        {**held.truth, **{name: taken[name] for name in own}},
    )


NAMES: Mapping[Role, str] = {
    "model": "model.onnx",
    "train": "train.onnx",
    "selftest": "selftest.npz",
    "vocabulary": "vocabulary.json",
    "fleet": fleet.FILE,
    **streaming.FILES,
}


def _written(directory: Path, contents: Mapping[Role, bytes]) -> tuple[tuple[Role, str], ...]:
    """Write the files of a slice; a half-written one never has its final name."""
    directory.mkdir(parents=True, exist_ok=True)
    for role, content in contents.items():
        write_whole(directory / NAMES[role], content)
    return tuple((role, str(directory / NAMES[role])) for role in contents)


def _with_verdicts(artifacts: Sequence[SliceArtifact]) -> list[SliceArtifact]:
    """With what TensorRT says of those slices that it might run."""
    asked = [one for one in artifacts if one.spec.precision in CLASSES["tensorrt"]]
    models = [Path(dict(one.files)["model"]).read_bytes() for one in asked]
    told = dict(zip((one.spec for one in asked), engines.verdicts_of(models), strict=True))
    return [
        msgspec.structs.replace(
            one, cost=msgspec.structs.replace(one.cost, tensorrt=told.get(one.spec, ""))
        )
        for one in artifacts
    ]
