"""Cut slices and plans for a recipe's model, from the slices that were made of it. Needs torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from aimass_cloud import recipes
from aimass_cloud.models.samples import Part
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.slicing import cuts
from aimass_cloud.slicing.cuts.running import Runner
from aimass_cloud.slicing.cutting import Progress, Source, cut_slices
from aimass_cloud.slicing.plans import WholeSlice, planned, with_plans
from aimass_cloud.slicing.profiling import Arrays, Subject
from aimass_shared.errors import ConflictError
from aimass_shared.manifest import Role, SliceArtifact
from aimass_shared.slices import SliceSpec

FULL: Final = SliceSpec(1.0, "fp32")
CHUNK, CHOOSING = 16, 16
MOST_SAMPLES: Final = 512
"""Of the test samples that plans are judged on."""
SECONDS: Final = 1.0
"""That one time may take to measure."""


def completed(
    model: TrainedModel,
    artifacts: Sequence[SliceArtifact],
    folder: Path,
    *,
    count: int,
    progress: Progress,
) -> list[SliceArtifact]:
    """The slices, with those of some cuts, and all with their plans.

    Args:
        model: that the slices are of.
        artifacts: its whole slices, the full one in float among them.
        folder: where files go.
        count: of cuts, at most.
        progress: told the fraction done and what is going on.

    Raises:
        ConflictError: the full model in float is not among the slices.
        SelfTestFailedError: head and tail of a cut are not the whole.
    """
    wholes = sorted(map(_opened, artifacts), key=lambda one: one.artifact.spec != FULL)
    if not wholes or wholes[0].artifact.spec != FULL:
        raise ConflictError(f"plans need the slice {FULL.name}: it is what the cloud runs")
    full = dict(wholes[0].artifact.files)
    source = source_of(model, onnx.load_model(full["model"]), full)
    cut = cut_slices(source, folder, count, progress=lambda done, told: progress(done / 2, told))
    profiles = planned(
        model.info.contract.model,
        source.subject,
        (wholes, cut),
        progress=lambda done, told: progress((1 + done) / 2, told),
    )
    return with_plans([*artifacts, *(one.artifact for one in cut)], profiles, folder)


def source_of(model: TrainedModel, graph: onnx.ModelProto, files: Mapping[Role, str]) -> Source:
    """A recipe's model as cutting takes it: judged by the recipe's measure on its test samples."""
    samples = model.samples
    beside: dict[Role, bytes] = (
        {"vocabulary": Path(files["vocabulary"]).read_bytes()} if "vocabulary" in files else {}
    )
    held = samples.calibration.inputs
    return Source(
        cuts.whole(graph),
        model.info.contract,
        subject_of(model, graph),
        samples.selftest,
        choosing=_rows(held, slice(CHOOSING)),
        batches={
            size: _rows(samples.test.inputs, rows)
            for size, rows in ((1, slice(1)), (2, slice(1, 3)), (3, slice(3)))
        },
        files=beside,
    )


def subject_of(model: TrainedModel, graph: onnx.ModelProto) -> Subject:
    """What a recipe's model is measured on."""
    plan = recipes.find(model.info.recipe)
    test = _few(model.samples.test)
    starts = range(0, len(test), CHUNK)
    requests = [_rows(test.inputs, slice(at, at + CHUNK)) for at in starts]

    def error(outputs: Sequence[Arrays]) -> float:
        joined = {name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]}
        return plan.error(joined, test.truth)

    run = Runner(graph).run
    of_whole = error([run(one) for one in requests])
    forecasts = model.info.contract.task == "forecast"

    def share(found: float) -> float:
        return share_lost(found, of_whole, forecasts=forecasts)

    return Subject(_rows(test.inputs, slice(1)), requests, error, share, SECONDS)


def share_lost(error: float, of_whole: float, *, forecasts: bool) -> float:
    """What an error is as a share of the accuracy of the whole model.

    Args:
        error: in the recipe's measure.
        of_whole: that of the whole model.
        forecasts: whether errors are squared deviations; else accuracy is 1 less the error.
    """
    if forecasts:
        return 1 - of_whole / error if error > of_whole else 0.0
    if of_whole >= 1:  # of a model that knows nothing there is no share to lose
        return max(0.0, error - of_whole)
    return (error - of_whole) / (1 - of_whole)


def _opened(artifact: SliceArtifact) -> WholeSlice:
    graph = onnx.load_model(dict(artifact.files)["model"])
    return WholeSlice(artifact, Runner(graph).run)


def _few(part: Part) -> Part:
    if len(part) <= MOST_SAMPLES:
        return part
    rows = slice(MOST_SAMPLES)
    truth = {
        name: array[rows] if array.shape[:1] == (len(part),) else array
        for name, array in part.truth.items()
    }
    return Part(_rows(part.inputs, rows), truth)


def _rows(arrays: Mapping[str, NDArray[Any]], rows: slice) -> dict[str, NDArray[Any]]:
    return {name: array[rows] for name, array in arrays.items()}
