"""TensorRT engines of slices, built without a GPU; devices build theirs with their own TensorRT."""

from pathlib import Path

import onnx
import pytest

from aimass_cloud.slicing.engines import all_tried, is_installed


def engine_bytes(model: Path) -> int:
    """The size of the engine of an ONNX file, for any batch up to 64; fails where there is none.

    The same file for batches of one alone must have an engine, too.
    """
    if not is_installed():
        pytest.skip("tensorrt_rtx is not installed")
    single = model.with_name(f"single-{model.name}")
    onnx.save_model(_of_one(onnx.load_model(model)), single)
    trials = all_tried([model, single])
    single.unlink()
    assert all(trial.builds for trial in trials), [trial.verdict for trial in trials]
    return trials[0].engine_bytes


def _of_one(model: onnx.ModelProto) -> onnx.ModelProto:
    """With one sample in the place of any number of them."""
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1
    return model
