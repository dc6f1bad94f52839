"""int8 form of a slice: the forecaster's products with weights, in the way TensorRT takes too.

Signed symmetric int8 for both factors, one scale for each output channel, no quantised bias:
TensorRT refuses what ONNX Runtime makes by default. Normalisation, linear base and monitor stay
float, since a threshold hangs on them. No torch in here.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from aimass_cloud.slicing.export import plain

KEPT_FLOAT = ("base.", "monitor.", "graph.")
MATRIX = 2
PRODUCTS = ("MatMul", "Gemm")
OPTIONS = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}


class Windows:
    """A calibration data reader: what the ranges of activations are taken from, by batches."""

    def __init__(self, values: NDArray[np.float32], batch: int = 64) -> None:
        """Take complete windows `[n, W, S]` in the sensors' units."""
        self._batches = iter([values[at : at + batch] for at in range(0, len(values), batch)])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch, or None after the last one."""
        values = next(self._batches, None)
        return None if values is None else {"values": values, "mask": np.ones_like(values)}


def quantized(graph: onnx.ModelProto, windows: NDArray[np.float32]) -> onnx.ModelProto:
    """The int8 form of a folded float graph, calibrated on windows `[n, W, S]`."""
    with tempfile.TemporaryDirectory() as directory, _quietly():
        source, target = Path(directory) / "float.onnx", Path(directory) / "int8.onnx"
        onnx.save_model(graph, source)
        quantize_static(
            source,
            target,
            Windows(windows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_quantize=products(graph),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options=OPTIONS,
        )
        return plain(onnx.load_model(target), graph)


def products(graph: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply an activation by a matrix of the forecaster.

    Matrices only: ONNX Runtime 1.23, the last for Python 3.10, loads a product with a stack of
    int8 matrices and then fails to run it.
    """
    stored = {tensor.name for tensor in graph.graph.initializer if len(tensor.dims) == MATRIX}
    return [
        node.name
        for node in graph.graph.node
        if node.op_type in PRODUCTS
        and stored.intersection(node.input)
        and not any(name.startswith(KEPT_FLOAT) for name in node.input)
    ]


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the quantizer from advising on the root logger; it has no logger of its own."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
