"""A tiny gradient step as ONNX, whose gradient can be written down by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aimass_edge.config import BoardSettings
from aimass_edge.federated import ActiveSlice
from aimass_shared.manifest import AlarmRule, Contract, Sensor

SENSORS = ("a", "b")
BATCH, WINDOW, HORIZON, STEP_MS = 32, 3, 1, 1000
ROWS = WINDOW + HORIZON

# loss = sum_b weight_b sum_rs mask (scale * values - level)^2 / sum_b weight_b
NODES = [
    ("Mul", ["values", "scale"], "scaled"),
    ("Sub", ["scaled", "level.weight"], "error"),
    ("Mul", ["error", "mask"], "known"),
    ("Mul", ["known", "known"], "square"),
    ("ReduceSum", ["square", "rows_sensors"], "each"),
    ("Mul", ["each", "weight"], "weighted"),
    ("ReduceSum", ["weighted"], "sum"),
    ("ReduceSum", ["weight"], "count"),
    ("Div", ["sum", "count"], "loss"),
    ("ReduceSum", ["known", "rows"], "by_sensor"),
    ("Unsqueeze", ["weight", "last"], "column"),
    ("Mul", ["by_sensor", "column"], "by_weight"),
    ("ReduceSum", ["by_weight", "first"], "total"),
    ("Div", ["total", "count"], "mean"),
    ("Mul", ["mean", "minus_two"], "grad.level.weight"),
]
CONSTANTS = {
    "rows_sensors": np.array([1, 2]),
    "rows": np.array([1]),
    "first": np.array([0]),
    "last": np.array([1]),
    "minus_two": np.array(-2.0, np.float32),
}


def build(path: Path) -> Path:
    nodes = [
        helper.make_node(kind, inputs, [output], keepdims=0)
        if kind == "ReduceSum"
        else helper.make_node(kind, inputs, [output])
        for kind, inputs, output in NODES
    ]
    data = [BATCH, ROWS, len(SENSORS)]
    shapes = {"values": data, "mask": data, "weight": [BATCH], "level.weight": [2], "scale": [2]}
    graph = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()],
        [
            helper.make_tensor_value_info("loss", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("grad.level.weight", TensorProto.FLOAT, [2]),
        ],
        [numpy_helper.from_array(value, name) for name, value in CONSTANTS.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def contract() -> Contract:
    return Contract(
        model="toy",
        sensors=tuple(Sensor(name, "K", "continuous") for name in SENSORS),
        step_ms=STEP_MS,
        window=WINDOW,
        horizon=HORIZON,
        inputs=(),
        outputs=(),
        alarm=AlarmRule("score", 1.0, "contribution"),
    )


@pytest.fixture
def active(tmp_path: Path) -> ActiveSlice:
    return ActiveSlice("w1.00-fp32", build(tmp_path / "train.onnx"), contract())


@pytest.fixture
def board() -> Callable[[], BoardSettings]:
    return BoardSettings
