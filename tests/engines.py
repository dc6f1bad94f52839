"""TensorRT engines of slices, built without a GPU; devices build theirs with their own TensorRT."""

from pathlib import Path

import pytest

from aimass_cloud.slicing.engines import is_installed, tried


def engine_bytes(model: Path) -> int:
    """The size of the engine of an ONNX file, for any batch up to 64; fails where there is none."""
    if not is_installed():
        pytest.skip("tensorrt_rtx is not installed")
    trial = tried(model)
    assert trial.builds, trial.verdict
    return trial.engine_bytes
