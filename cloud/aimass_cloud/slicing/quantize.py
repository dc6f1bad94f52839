"""int8 form of a slice: its products with weights, in the way TensorRT takes too.

Signed symmetric int8 for both factors, one scale for each output channel, no quantised bias:
TensorRT refuses what ONNX Runtime makes by default. An activation is rounded where it meets a
weight and nowhere else: attention between rounded activations loses accuracy for nothing, and
TensorRT-RTX 1.5 fails to build it. What a network wants kept (a linear base that a threshold hangs
on, for one) stays float. No torch in here.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from aimass_cloud.models.samples import Arrays
from aimass_cloud.slicing.export import plain

PRODUCTS = {"MatMul": (2,), "Gemm": (2,), "Conv": (3, 4)}
"""Operators that become int8, with how many axes their weight may have."""
OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    # Of filters it stays: without it ONNX Runtime runs them in float.
    "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
}


class Calibration:
    """A calibration data reader: what the ranges of activations are taken from, by batches."""

    def __init__(self, inputs: Arrays, batch: int = 64) -> None:
        """Take inputs by name, with one leading axis."""
        count = len(next(iter(inputs.values())))
        self._batches = iter(
            [
                {name: array[at : at + batch] for name, array in inputs.items()}
                for at in range(0, count, batch)
            ]
        )

    def get_next(self) -> Arrays | None:
        """The next batch, or None after the last one."""
        return next(self._batches, None)


def quantized(graph: onnx.ModelProto, inputs: Arrays, kept: Sequence[str]) -> onnx.ModelProto:
    """The int8 form of a folded float graph.

    Args:
        graph: float, folded.
        inputs: that the ranges of activations are taken from.
        kept: prefixes of the names of weights and constants whose products stay float.
    """
    chosen = products(graph, kept)
    with tempfile.TemporaryDirectory() as directory, _quietly():
        source, target = Path(directory) / "float.onnx", Path(directory) / "int8.onnx"
        onnx.save_model(graph, source)
        quantize_static(
            source,
            target,
            Calibration(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options=OPTIONS,
        )
        result = onnx.load_model(target)
    _only_in(chosen, result.graph)
    return plain(result, graph)


def products(graph: onnx.ModelProto, kept: Sequence[str]) -> list[str]:
    """Names of the nodes that multiply an activation by a weight.

    Of matrices, and of filters: ONNX Runtime 1.23, the last for Python 3.10, loads a product with a
    stack of int8 matrices and then fails to run it.
    """
    stored = {tensor.name: len(tensor.dims) for tensor in graph.graph.initializer}
    return [
        node.name
        for node in graph.graph.node
        if node.op_type in PRODUCTS
        and any(stored.get(name) in PRODUCTS[node.op_type] for name in node.input)
        and not any(name.startswith(tuple(kept)) for name in node.input)
    ]


def _only_in(chosen: Sequence[str], graph: onnx.GraphProto) -> None:
    """Give the rounded form of an activation to these nodes alone, all others the activation.

    What filters give stays rounded for all: that is how a runtime knows them for int8.
    """
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.name in chosen or node.op_type == "DequantizeLinear":
            continue
        for at, name in enumerate(node.input):
            rounded = _before(name, "DequantizeLinear", makers)
            exact = rounded and _before(rounded, "QuantizeLinear", makers)
            if exact and (exact not in makers or makers[exact].op_type != "Conv"):
                node.input[at] = exact


def _before(name: str, operator: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """What the operator that gives `name` takes; "" if another one gives it."""
    maker = makers.get(name)
    return maker.input[0] if maker is not None and maker.op_type == operator else ""


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
