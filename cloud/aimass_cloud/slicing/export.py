"""The ONNX file of a slice: a template with the numbers of a model, folded to what must be run.

Only operators of the ONNX standard come out, so that every runtime loads it. No torch in here.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from aimass_cloud.slicing.scatter import without_scatter
from aimass_shared.errors import ModelLoadFailedError

BATCH_AXIS = "batch"


def filled(template: onnx.ModelProto, arrays: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """A template whose inputs of these names hold these arrays; arrays it lacks are left out.

    Raises:
        ModelLoadFailedError: an array has not the shape that the template was made for.
    """
    graph = onnx.ModelProto()
    graph.CopyFrom(template)
    used = {name for node in graph.graph.node for name in node.input}
    given = [value for value in graph.graph.input if value.name in arrays]
    for value in given:
        graph.graph.input.remove(value)
        if value.name not in used:
            continue
        wanted = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if arrays[value.name].shape != wanted:
            raise ModelLoadFailedError(
                f"{value.name} has shape {arrays[value.name].shape}, the template has {wanted}"
            )
        tensor = numpy_helper.from_array(np.ascontiguousarray(arrays[value.name]), value.name)
        graph.graph.initializer.append(tensor)
    return graph


def folded(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with everything that no input changes worked out, and no sum by Scatter.

    Raises:
        ModelLoadFailedError: ONNX Runtime refuses the graph or leaves the ONNX standard.
    """
    return without_scatter(worked_out(graph))


def worked_out(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with everything that no input changes worked out.

    Raises:
        ModelLoadFailedError: ONNX Runtime refuses the graph or leaves the ONNX standard.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(
                graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common class of their own
            raise ModelLoadFailedError(f"ONNX Runtime refuses the graph: {error}") from error
        result = onnx.load_model(path)
    foreign = {node.op_type for node in result.graph.node if node.domain not in ("", "ai.onnx")}
    if foreign:
        raise ModelLoadFailedError(f"folding left operators of one runtime: {sorted(foreign)}")
    return plain(result, graph)


def plain(result: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """With the versions of the source, and one name for the axis of windows."""
    result.ir_version = source.ir_version
    del result.opset_import[:]
    result.opset_import.extend(source.opset_import)
    result.producer_name, result.producer_version = "aimass", ""
    # Shapes of values in between are worked out anew by whoever loads the file.
    del result.graph.value_info[:]
    for value in (*result.graph.input, *result.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = BATCH_AXIS
    return result
