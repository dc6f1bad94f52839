"""A small model with the contract's inputs, as a file, and its contract."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aimass_shared.manifest import AlarmRule, Contract, Sensor, TensorSpec

WINDOW = 4
SENSORS = 3


def _contract() -> Contract:
    shape = (-1, WINDOW, SENSORS)
    return Contract(
        model="tiny",
        sensors=tuple(Sensor(f"S{n}", "K", "continuous") for n in range(SENSORS)),
        step_ms=1000,
        window=WINDOW,
        horizon=WINDOW,
        inputs=(TensorSpec("values", "FP32", shape), TensorSpec("mask", "FP32", shape)),
        outputs=(TensorSpec("forecast", "FP32", shape), TensorSpec("score", "FP32", (-1,))),
        alarm=AlarmRule("score", 1.0, "forecast"),
    )


@pytest.fixture
def contract() -> Contract:
    """Inputs values and mask `[-1, 4, 3]`; outputs forecast `[-1, 4, 3]` and score `[-1]`."""
    return _contract()


@pytest.fixture
def model_file(tmp_path: Path) -> Callable[[float], Path]:
    """Writes a model: forecast = values * mask * factor, score = sum of forecast."""

    def write(factor: float) -> Path:
        path = tmp_path / f"model-{factor}.onnx"
        shape: list[str | int | None] = ["batch", WINDOW, SENSORS]
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            [
                helper.make_node("Mul", ["values", "mask"], ["known"]),
                helper.make_node("Mul", ["known", "factor"], ["forecast"]),
                helper.make_node("ReduceSum", ["forecast", "axes"], ["score"], keepdims=0),
            ],
            "tiny",
            [info(name, TensorProto.FLOAT, shape) for name in ("values", "mask")],
            [
                info("forecast", TensorProto.FLOAT, shape),
                info("score", TensorProto.FLOAT, ["batch"]),
            ],
            [
                numpy_helper.from_array(np.array(factor, np.float32), "factor"),
                numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            ],
        )
        opset = helper.make_opsetid("", 17)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
        return path

    return write
