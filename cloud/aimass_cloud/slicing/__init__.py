"""Slices of a trained model: ONNX files for devices, checked, measured and self-testing."""

from collections.abc import Callable, Sequence
from pathlib import Path

from aimass_cloud.models.trained import TrainedModel
from aimass_shared.manifest import Contract, SliceArtifact
from aimass_shared.slices import SliceSpec

__all__ = ["SliceArtifact", "contract_of", "make_slices"]

Progress = Callable[[float, str], None]


def contract_of(model: TrainedModel) -> Contract:
    """What the slices of a model need from telemetry and give back."""
    return model.info.contract


def make_slices(
    model: TrainedModel,
    out_dir: Path,
    *,
    progress: Progress,
    specs: Sequence[SliceSpec] = (),
    reuse: Path | None = None,
) -> list[SliceArtifact]:
    """Make the slices of a model; `reuse` is the directory of an ancestor's slices."""
    raise NotImplementedError
