"""int8 forms of a graph: its products with weights, once for processors, once for TensorRT.

- `int8` is for ONNX Runtime on processors: unsigned activations with a zero point, signed weights
  of 7 bits with a scale for each output channel. ONNX Runtime joins such products into QLinearConv
  and MatMulIntegerToFloat; with signed activations it leaves filters of few channels in float.
  Processors with AVX2 and without VNNI add two products in 16 bits: with 7 bits nothing overflows.
- `int8-trt` is for TensorRT: symmetric signed numbers for both factors, no quantised bias. TensorRT
  refuses what ONNX Runtime makes by default.
- `int8-dyn` finds the ranges of activations while it runs; of matrices only, since ONNX Runtime's
  filters with such ranges are several times slower than float.

An activation is rounded where it meets a weight and nowhere else: attention between rounded
activations loses accuracy for nothing, and TensorRT-RTX 1.5 fails to build it. What a network wants
kept (a linear base that a threshold hangs on, for one) stays float. No torch in here.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType, quantize_dynamic
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

from aimass_cloud.models.samples import Arrays
from aimass_cloud.slicing.export import plain
from aimass_cloud.slicing.ranges import Ends, observed
from aimass_shared.slices import Precision

PRODUCTS: Final = {"MatMul": (2,), "Gemm": (2,), "Conv": (3, 4)}
"""Operators that become int8, with how many axes their weight may have."""
MATRICES: Final = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Form:
    """How the products of a static int8 form are rounded.

    Attributes:
        activation: type of rounded activations. symmetric: whether their zero is 0.
        reduced: whether weights have 7 bits. bias: whether the bias is rounded too.
    """

    activation: Any
    symmetric: bool
    reduced: bool
    bias: bool

    @property
    def options(self) -> dict[str, object]:
        """As ONNX Runtime's quantizer takes them."""
        return {
            "ActivationSymmetric": self.symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": self.bias,
            # Of filters it stays: without it ONNX Runtime runs them in float.
            "OpTypesToExcludeOutputQuantization": list(MATRICES),
        }


FORMS: Final[Mapping[Precision, Form]] = {
    "int8": Form(QuantType.QUInt8, symmetric=False, reduced=True, bias=True),
    "int8-trt": Form(QuantType.QInt8, symmetric=True, reduced=False, bias=False),
}


def quantized(
    graph: onnx.ModelProto,
    inputs: Arrays,
    kept: Sequence[str],
    *,
    precision: Precision = "int8-trt",
) -> onnx.ModelProto:
    """The static int8 form of a folded float graph, with the whole range of each activation.

    Args:
        graph: float, folded.
        inputs: that the ranges of activations are taken from.
        kept: prefixes of the names of weights and constants whose products stay float.
        precision: `int8` or `int8-trt`.
    """
    chosen = products(graph, kept)
    ranges = observed(graph, inputs, activations(graph, chosen))
    return rounded(graph, ranges.by("minmax"), chosen, form=FORMS[precision])


def rounded(
    graph: onnx.ModelProto, ranges: Mapping[str, Ends], chosen: Sequence[str], *, form: Form
) -> onnx.ModelProto:
    """A float graph with these products in a static int8 form."""
    if not chosen:  # the quantizer would take it for all of them
        return graph
    source = onnx.ModelProto()
    source.CopyFrom(graph)
    with _quietly():
        quantizer = QDQQuantizer(
            source,
            per_channel=True,
            reduce_range=form.reduced,
            weight_qType=QuantType.QInt8,
            activation_qType=form.activation,
            tensors_range=_as_tensors(ranges),
            nodes_to_quantize=list(chosen),
            nodes_to_exclude=[],
            op_types_to_quantize=list(PRODUCTS),
            extra_options=form.options,
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    _only_in(chosen, result.graph)
    return _bare(plain(result, graph))


def dynamic(graph: onnx.ModelProto, chosen: Sequence[str]) -> onnx.ModelProto:
    """A float graph with these products of matrices, whose activations are rounded as they come."""
    matrices = [node.name for node in graph.graph.node if node.op_type in MATRICES]
    wanted = [name for name in matrices if name in set(chosen)]
    if not wanted:
        return graph
    with tempfile.TemporaryDirectory() as directory, _quietly():
        source, target = Path(directory) / "float.onnx", Path(directory) / "int8.onnx"
        onnx.save_model(graph, source)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(MATRICES),
            nodes_to_quantize=wanted,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        return _bare(plain(onnx.load_model(target), graph))


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


def activations(graph: onnx.ModelProto, chosen: Sequence[str]) -> list[str]:
    """Names of what these nodes take and give, without weights."""
    stored = {tensor.name for tensor in graph.graph.initializer}
    wanted = set(chosen)
    names = [
        name
        for node in graph.graph.node
        if node.name in wanted
        for name in (*node.input, *node.output)
    ]
    # Filters take over the range of an activation that follows them, which the quantizer removes.
    names += [name for node in graph.graph.node if node.op_type == "Relu" for name in node.output]
    return [name for name in dict.fromkeys(names) if name and name not in stored]


def _as_tensors(ranges: Mapping[str, Ends]) -> TensorsData:
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    return TensorsData(CalibrationMethod.MinMax, data)


def _bare(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Without the quantizer's notes."""
    del graph.metadata_props[:]
    return graph


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
