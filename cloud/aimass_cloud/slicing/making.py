"""Making the slices of a model: fill, fold, quantize, check against torch, measure, write.

A slice that does not compute what the model computes is refused here, before anyone signs it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx

from aimass_cloud import recipes
from aimass_cloud.models.samples import Arrays, Part
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.slicing import selftest
from aimass_cloud.slicing.costs import Runner, measured
from aimass_cloud.slicing.export import filled, folded
from aimass_cloud.slicing.preparing import beside, kinds_of
from aimass_cloud.slicing.quantize import quantized
from aimass_cloud.slicing.templates import Templates
from aimass_shared import fleet
from aimass_shared.errors import SelfTestFailedError
from aimass_shared.manifest import Contract, Role, SliceArtifact
from aimass_shared.slices import SliceCost, SliceSpec

RELEASE_SPECS = (
    SliceSpec(1.0, "fp32"),
    SliceSpec(1.0, "int8"),
    SliceSpec(0.5, "int8"),
    SliceSpec(0.25, "int8"),
)
# Largest error of the float file against torch, of its int8 form's error on test samples (a share,
# and what any measure may lose), and what a device's own arithmetic may differ from ours (of the
# largest value of an output, which for a forecast in units is thousands: hence so little).
FLOAT_TOLERANCE = 1e-4
INT8_LOSS, INT8_LOST = 1.02, 0.005
FLOAT_MARGIN, INT8_MARGIN = 1e-4, 5e-4
SAFETY = 4.0

Progress = Callable[[float, str], None]


def quiet(_fraction: float, _message: str) -> None:
    """Progress that nobody watches."""


def contract_of(model: TrainedModel) -> Contract:
    """What every slice of a model needs from telemetry and gives back."""
    return model.info.contract


def make_slices(
    model: TrainedModel,
    out_dir: Path,
    *,
    specs: Sequence[SliceSpec] = RELEASE_SPECS,
    reuse: Path | None = None,
    progress: Progress = quiet,
) -> list[SliceArtifact]:
    """Make slices, each in a folder of its own in `out_dir`.

    Args:
        model: what to slice.
        out_dir: where files go; it is made if need be.
        specs: which slices; their widths must have been trained.
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
    widths = sorted({spec.width for spec in specs})
    _export(model, templates, out_dir, widths=widths, progress=progress)
    maker = _Maker(model, templates)
    artifacts = []
    for index, spec in enumerate(specs):
        progress((1 + index) / (1 + len(specs)), f"making {spec.name}")
        artifacts.append(maker.make(spec, out_dir / spec.name))
    return artifacts


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


class _Maker:
    """What the slices of one model share: its float graphs, its samples, its reference outputs."""

    def __init__(self, model: TrainedModel, templates: Templates) -> None:
        self._model, self._templates = model, templates
        self._plan = recipes.find(model.info.recipe)
        self._kept = self._plan.module(model.info, model.constants).KEPT_FLOAT
        self._learns = "step" in kinds_of(model)
        self._vectors = model.samples.selftest
        self._floats: dict[float, onnx.ModelProto] = {}
        self._errors: dict[float, float] = {}

    def make(self, spec: SliceSpec, directory: Path) -> SliceArtifact:
        """One slice, checked, measured and written."""
        model = self._model
        whole = self._float(spec.width)
        graph = whole if spec.precision == "fp32" else self._int8(whole)
        runner = Runner(graph)
        cost = measured(graph, runner, plan=self._plan, test=model.samples.test)
        outputs = runner.run(self._vectors)
        tolerance = self._checked(spec, cost, outputs)
        contents: dict[Role, bytes] = {
            "model": graph.SerializeToString(),
            "selftest": selftest.packed(self._vectors, outputs),
            **model.assets,
        }
        if self._learns:
            contents["train"] = self._step(spec.width).SerializeToString()
        return SliceArtifact(spec, cost, _written(directory, contents), tolerance)

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

    def _int8(self, graph: onnx.ModelProto) -> onnx.ModelProto:
        return quantized(graph, self._model.samples.calibration.inputs, self._kept)

    def _step(self, width: float) -> onnx.ModelProto:
        """The gradient step: its weights stay inputs, since a device trains them."""
        arrays, weights = self._model.at(width), self._model.weights
        constants = {name: array for name, array in arrays.items() if name not in weights}
        return filled(self._templates.step(width), constants)

    def _checked(self, spec: SliceSpec, cost: SliceCost, outputs: Arrays) -> float:
        """The self-test's tolerance for a slice that does as well as the float one.

        Raises:
            SelfTestFailedError: it does not.
        """
        difference = selftest.relative_error(outputs, self._reference(spec.width))
        if spec.precision == "fp32":
            return max(FLOAT_MARGIN, SAFETY * difference)
        float_error = self._error(spec.width)
        limit = max(INT8_LOSS * float_error, float_error + INT8_LOST)
        if not cost.val_error <= limit:
            raise SelfTestFailedError(
                f"slice {spec.name} has error {cost.val_error:.4f} in int8, the limit is"
                f" {limit:.4f}"
            )
        return max(INT8_MARGIN, SAFETY * difference)

    def _error(self, width: float) -> float:
        """The error of a width in float."""
        if width not in self._errors:
            test = self._model.samples.test
            outputs = Runner(self._float(width)).run(test.inputs)
            self._errors[width] = self._plan.error(outputs, test.truth)
        return self._errors[width]

    def _reference(self, width: float) -> Arrays:
        """What torch computes for the self-test's inputs."""
        return outputs_of(self._plan, self._model, Part(self._vectors, {}), width=width)


NAMES: Mapping[Role, str] = {
    "model": "model.onnx",
    "train": "train.onnx",
    "selftest": "selftest.npz",
    "vocabulary": "vocabulary.json",
    "fleet": fleet.FILE,
}


def _written(directory: Path, contents: Mapping[Role, bytes]) -> tuple[tuple[Role, str], ...]:
    """Write the files of a slice; a half-written one never has its final name."""
    directory.mkdir(parents=True, exist_ok=True)
    files: list[tuple[Role, str]] = []
    for role, content in contents.items():
        path = directory / NAMES[role]
        half = path.with_suffix(path.suffix + ".tmp")
        half.write_bytes(content)
        half.replace(path)
        files.append((role, str(path)))
    return tuple(files)
