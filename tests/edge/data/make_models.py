"""Makes the tiny models that the agent's tests load: `python tests/edge/data/make_models.py`.

Run by hand in the development environment (it needs `onnx`, which a device never has) and commit
what it writes. 3 sensors, window 4, horizon 2:

    known        = values * mask
    forecast     = the last known row, twice                       [batch, 2, 3]
    contribution = mean over the window of known squared           [batch, 3]
    score        = gain * sum of contribution                      [batch]

`monitor.onnx` has gain 1, `monitor_b.onnx` gain 2; `not_finite.onnx` divides the score by zero,
`other_shape.onnx` has 4 sensors, `text.onnx` has an input of strings, `fails.onnx` loads but only
runs with 7 elements.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = list[str | int | None]

HERE = Path(__file__).parent
OPSET = 17
IR_VERSION = 8
WINDOW, HORIZON = 4, 2


def monitor(gain: float, sensors: int = 3) -> onnx.ModelProto:
    constants: dict[str, NDArray[Any]] = {
        "gain": np.array(gain, np.float32),
        "last": np.array([WINDOW - 1, WINDOW - 1], np.int64),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Mul", ["values", "mask"], ["known"]),
        helper.make_node("Gather", ["known", "last"], ["forecast"], axis=1),
        helper.make_node("Mul", ["known", "known"], ["squared"]),
        helper.make_node("ReduceMean", ["squared"], ["contribution"], axes=[1], keepdims=0),
        helper.make_node("ReduceSum", ["contribution", "axis"], ["total"], keepdims=0),
        helper.make_node("Div" if gain == 0 else "Mul", ["total", "gain"], ["score"]),
    ]
    window: Shape = ["batch", WINDOW, sensors]
    floats: dict[str, Shape] = {
        "forecast": ["batch", HORIZON, sensors],
        "score": ["batch"],
        "contribution": ["batch", sensors],
    }
    return _model(
        nodes,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, window) for n in ("values", "mask")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in floats.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )


def text() -> onnx.ModelProto:
    return _model(
        [helper.make_node("Identity", ["words"], ["same"])],
        [helper.make_tensor_value_info("words", TensorProto.STRING, ["batch"])],
        [helper.make_tensor_value_info("same", TensorProto.STRING, ["batch"])],
        [],
    )


def fails() -> onnx.ModelProto:
    return _model(
        [helper.make_node("Reshape", ["x", "seven"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [7])],
        [numpy_helper.from_array(np.array([7], np.int64), "seven")],
    )


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    onnx.save(monitor(1.0), HERE / "monitor.onnx")
    onnx.save(monitor(2.0), HERE / "monitor_b.onnx")
    onnx.save(monitor(0.0), HERE / "not_finite.onnx")
    onnx.save(monitor(1.0, sensors=4), HERE / "other_shape.onnx")
    onnx.save(text(), HERE / "text.onnx")
    onnx.save(fails(), HERE / "fails.onnx")
