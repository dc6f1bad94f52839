"""ONNX graphs of the kinds that people bring: made here, small, with weights from a fixed seed."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper, parser

Shape = Sequence[int | str | None]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


class Builder:
    """Nodes in the order in which they are asked for."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._stored: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Shape, kind: int = FLOAT) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def weight(self, *shape: int) -> str:
        """Random numbers that keep the size of what goes through."""
        inputs = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        scale = 1 / np.sqrt(max(1, inputs))
        return self.constant(self._random.standard_normal(shape).astype(np.float32) * scale)

    def constant(self, value: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        name = f"w{len(self._stored)}"
        self._stored.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def whole(self, *value: int) -> str:
        """A constant of whole numbers."""
        return self.constant(value, np.int64)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401  of any operator
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:  # noqa: ANN401  of any operator
        number = len(self._nodes)
        names = [f"{kind.lower()}_{number}" + (f".{i}" if i else "") for i in range(count)]
        self._nodes.append(
            helper.make_node(kind, inputs, names, name=f"{kind}_{number}", **attributes)
        )
        return names

    def model(
        self, *outputs: tuple[str, Shape], kind: int = FLOAT, opset: int = 20
    ) -> onnx.ModelProto:
        given = [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs]
        graph = helper.make_graph(self._nodes, "graph", self._inputs, given, self._stored)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )

    # What networks are built of.

    def conv(self, x: str, sizes: tuple[int, int], *, kernel: int = 3, **attributes: Any) -> str:  # noqa: ANN401  of Conv
        group = attributes.get("group", 1)
        weights = self.weight(sizes[1], sizes[0] // group, kernel, kernel)
        pads = [kernel // 2] * 4
        return self.op("Conv", x, weights, self.weight(sizes[1]), pads=pads, **attributes)

    def norm(self, x: str, channels: int) -> str:
        ones, zeros = np.ones(channels), np.zeros(channels)
        scale = self._random.uniform(0.5, 1.5, channels)
        mean = 0.1 * self._random.standard_normal(channels)
        stored = [self.constant(value) for value in (scale, zeros, mean, ones)]
        return self.op("BatchNormalization", x, *stored)

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        return self.op(
            "Add", self.op("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs)
        )


def mobilenet() -> onnx.ModelProto:
    """Depthwise and pointwise filters, clipped, with a residual; any batch."""
    b = Builder(1)
    x = b.input("image", ["batch", 3, 16, 16])
    low, high = b.constant(0.0), b.constant(6.0)

    def block(x: str, sizes: tuple[int, int], **attributes: Any) -> str:  # noqa: ANN401  of Conv
        return b.op("Clip", b.norm(b.conv(x, sizes, **attributes), sizes[1]), low, high)

    x = block(x, (3, 8), strides=[2, 2])
    for _ in range(2):
        y = block(x, (8, 24), kernel=1)
        y = block(y, (24, 24), group=24)
        x = b.op("Add", x, b.norm(b.conv(y, (24, 8), kernel=1), 8))
    x = b.op("Flatten", b.op("GlobalAveragePool", x))
    return b.model((b.op("Gemm", x, b.weight(5, 8), b.weight(5), transB=1), ["batch", 5]))


def resnet() -> onnx.ModelProto:
    """Residual blocks, one with a projection; a fixed batch of one."""
    b = Builder(2)
    x = b.input("image", [1, 3, 16, 16])
    x = b.op("Relu", b.norm(b.conv(x, (3, 8)), 8))
    x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    for wide in (8, 16):
        step = wide // 8
        y = b.op("Relu", b.norm(b.conv(x, (8, wide), strides=[step, step]), wide))
        y = b.norm(b.conv(y, (wide, wide)), wide)
        short = x if step == 1 else b.conv(x, (8, wide), kernel=1, strides=[2, 2])
        x = b.op("Relu", b.op("Add", y, short))
    x = b.op("Flatten", b.op("GlobalAveragePool", x))
    return b.model((b.op("Softmax", b.linear(x, 16, 4)), [1, 4]))


def transformer(*, in_steps: bool = False, layers: int = 2) -> onnx.ModelProto:
    """Attention over any number of tokens, shapes worked out on the way, as old exporters do.

    Args:
        in_steps: whether normalisation and Gelu are single steps or one operator.
        layers: how many blocks.
    """
    b = Builder(3)
    x = b.input("tokens", ["batch", "sequence", 16])
    x = b.op("Add", b.linear(x, 16, 16), b.weight(1, 1, 16))
    for _ in range(layers):
        x = b.op("Add", x, _attention(b, _layer_norm(b, x, in_steps=in_steps)))
        y = b.linear(_layer_norm(b, x, in_steps=in_steps), 16, 32)
        x = b.op("Add", x, b.linear(_gelu(b, y, in_steps=in_steps), 32, 16))
    x = b.op("ReduceMean", x, b.whole(1), keepdims=0)
    return b.model((b.linear(x, 16, 3), ["batch", 3]))


def _attention(b: Builder, x: str) -> str:
    shape = b.op("Shape", x)
    batch, length = (b.op("Gather", shape, b.whole(index)) for index in (0, 1))
    split = b.op("Concat", batch, length, b.whole(2), b.whole(8), axis=0)

    def heads(perm: list[int]) -> str:
        return b.op("Transpose", b.op("Reshape", b.linear(x, 16, 16), split), perm=perm)

    query, key, value = heads([0, 2, 1, 3]), heads([0, 2, 3, 1]), heads([0, 2, 1, 3])
    scores = b.op("Div", b.op("MatMul", query, key), b.constant(8**0.5))
    mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1), value)
    joined = b.op("Concat", batch, length, b.whole(16), axis=0)
    return b.linear(b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), joined), 16, 16)


def _layer_norm(b: Builder, x: str, *, in_steps: bool) -> str:
    scale, bias = b.constant(np.ones(16)), b.constant(np.zeros(16))
    if not in_steps:
        return b.op("LayerNormalization", x, scale, bias)
    centred = b.op("Sub", x, b.op("ReduceMean", x, b.whole(-1)))
    variance = b.op("ReduceMean", b.op("Pow", centred, b.constant(2.0)), b.whole(-1))
    deviation = b.op("Sqrt", b.op("Add", variance, b.constant(1e-5)))
    return b.op("Add", b.op("Mul", b.op("Div", centred, deviation), scale), bias)


def _gelu(b: Builder, x: str, *, in_steps: bool) -> str:
    if not in_steps:
        return b.op("Gelu", x)
    error = b.op("Add", b.op("Erf", b.op("Div", x, b.constant(2**0.5))), b.constant(1.0))
    return b.op("Mul", b.op("Mul", x, error), b.constant(0.5))


def yolo() -> onnx.ModelProto:
    """Swish, a split block, a pyramid over two scales, boxes and scores; any batch."""
    b = Builder(4)

    def block(x: str, sizes: tuple[int, int], **attributes: Any) -> str:  # noqa: ANN401  of Conv
        y = b.conv(x, sizes, **attributes)
        return b.op("Mul", y, b.op("Sigmoid", y))

    x = block(b.input("image", ["batch", 3, 32, 32]), (3, 8), strides=[2, 2])
    one, two = b.ops("Split", 2, x, axis=1, num_outputs=2)
    fine = block(b.op("Concat", one, two, block(two, (4, 4)), axis=1), (12, 8), strides=[2, 2])
    coarse = block(fine, (8, 16), strides=[2, 2])
    scales = b.constant([1, 1, 2, 2])
    above = b.op("Resize", coarse, "", scales, mode="nearest")
    fine = block(b.op("Concat", above, fine, axis=1), (24, 8))
    ends = []
    for x, channels in ((fine, 8), (coarse, 16)):
        x = b.conv(x, (channels, 6), kernel=1)  # noqa: PLW2901  the same features, further on
        ends.append(b.op("Reshape", x, b.whole(0, 6, -1)))
    found = b.op("Concat", *ends, axis=2)
    boxes, scores = b.ops("Split", 2, found, b.whole(4, 2), axis=1)
    boxes = b.op("Mul", boxes, b.constant(32.0))
    return b.model((boxes, ["batch", 4, 80]), (b.op("Sigmoid", scores), ["batch", 2, 80]))


def gru() -> onnx.ModelProto:
    """A recurrence that gives all steps and the last one."""
    return _recurrent("GRU", 3)


def lstm() -> onnx.ModelProto:
    """A recurrence with two states."""
    return _recurrent("LSTM", 4)


def _recurrent(kind: str, gates: int) -> onnx.ModelProto:
    b, hidden = Builder(5), 6
    x = b.op("Transpose", b.input("window", ["batch", 10, 4]), perm=[1, 0, 2])
    weights = (b.weight(1, gates * hidden, 4), b.weight(1, gates * hidden, hidden))
    biases = b.weight(1, 2 * gates * hidden)
    steps, *states = b.ops(kind, gates - 1, x, *weights, biases, hidden_size=hidden)
    steps = b.op("ReduceMean", b.op("Squeeze", steps, b.whole(1)), b.whole(0), keepdims=0)
    last = [b.op("Squeeze", state, b.whole(0)) for state in states]
    joined = b.op("Concat", steps, *last, axis=1)
    return b.model((b.linear(joined, hidden * (gates - 1), 2), ["batch", 2]))


def late_input() -> onnx.ModelProto:
    """An input that only the end needs, and an output that is ready before it."""
    b = Builder(6)
    x, mask = b.input("values", ["batch", 8]), b.input("mask", ["batch", 8])
    hidden = b.op("Tanh", b.linear(x, 8, 8))
    early = b.op("ReduceMean", hidden, b.whole(1), keepdims=0)
    late = b.op("Mul", b.linear(b.op("Relu", hidden), 8, 8), mask)
    return b.model((early, ["batch"]), (b.op("Softmax", late), ["batch", 8]))


def picked() -> onnx.ModelProto:
    """Whole numbers and truth values on the way, and a number of rows that depends on the data."""
    b = Builder(7)
    x = b.linear(b.input("rows", ["batch", 6]), 6, 4)
    best, place = b.ops("TopK", 2, x, b.whole(2), axis=1)
    kept = b.op("NonZero", b.op("Greater", x, b.constant(0.0)))
    count = b.op("Cast", b.op("Shape", kept, start=1), to=FLOAT)
    total = b.op("Add", best, b.op("Cast", place, to=FLOAT))
    return b.model((b.op("Add", total, count), ["batch", 2]))


def quantized() -> onnx.ModelProto:
    """Activations and weights as int8 between QuantizeLinear and DequantizeLinear."""
    b = Builder(8)
    x = b.input("image", ["batch", 3, 8, 8])
    scale, zero = b.constant(0.05), b.constant(0, np.int8)
    weights = b.constant(np.random.default_rng(0).integers(-127, 127, (4, 3, 3, 3)), np.int8)
    x = b.op("DequantizeLinear", b.op("QuantizeLinear", x, scale, zero), scale, zero)
    x = b.op("Conv", x, b.op("DequantizeLinear", weights, b.constant(0.01), zero))
    x = b.op("QuantizeLinear", b.op("Relu", x), scale, zero)
    x = b.op("GlobalAveragePool", b.op("DequantizeLinear", x, scale, zero))
    return b.model((b.op("Flatten", x), ["batch", 4]))


def half() -> onnx.ModelProto:
    """Half precision throughout."""
    b = Builder(10)
    kind = TensorProto.FLOAT16
    x = b.input("rows", ["batch", 4], kind)
    scale = b.constant([0.5, 1.5, 2.0, 3.0], np.float16)
    x = b.op("Softmax", b.op("Mul", b.op("Tanh", x), scale))
    return b.model((x, ["batch", 4]), kind=kind)


# Graphs with graphs in them are written as text.

BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
branches (float[batch, 4] x) => (float[batch, 4] y)
<float[4] bias = {1, 2, 3, 4}, float zero = {0}>
{
  h = Mul (x, bias)
  g = Tanh (h)
  total = ReduceSum <keepdims = 0> (h)
  high = Greater (total, zero)
  z = If (high) <
    then_branch = yes () => (float[batch, 4] a) { a = Add (h, bias) },
    else_branch = no () => (float[batch, 4] c) { d = Sub (g, bias) c = Relu (d) }
  >
  y = Sigmoid (z)
}
"""
"""If, whose branches take values from around them."""
LOOP = """
<ir_version: 8, opset_import: ["" : 17]>
steps (float[batch, 4] x) => (float[batch, 4] y)
<int64 times = {3}, bool go = {1}, float[4] rate = {0.5, 0.25, 0.125, 1.0}>
{
  start = Relu (x)
  drift = Mul (x, rate)
  end = Loop (times, go, start) <
    body = one (int64 i, bool on, float[batch, 4] s) => (bool still, float[batch, 4] next) {
      still = Identity (on)
      moved = Add (s, drift)
      next = Tanh (moved)
    }
  >
  y = Sub (end, rate)
}
"""
"""Loop, whose body takes a value from around it."""
SCAN = """
<ir_version: 8, opset_import: ["" : 17]>
sums (float[5, batch] x) => (float[5, batch] y, float[batch] last)
{
  h = Abs (x)
  zero = ReduceMin <axes = [0], keepdims = 0> (h)
  last, sums = Scan <num_scan_inputs = 1,
    body = one (float[batch] s, float[batch] r) => (float[batch] t, float[batch] u) {
      t = Add (s, r)
      u = Mul (t, zero)
    }
  > (zero, h)
  y = Sqrt (sums)
}
"""
"""Scan with a state, rows, and a captured value."""
FUNCTIONS = """
<ir_version: 8, opset_import: ["" : 17, "plant" : 1]>
called (float[batch, 4] x) => (float[batch, 4] y)
<float[4] bias = {1, 2, 3, 4}>
{
  h = plant.Swish (x)
  g = Add (h, bias)
  y = plant.Swish (g)
}
<domain: "plant", opset_import: ["" : 17]>
Swish (a) => (b)
{
  s = Sigmoid (a)
  b = Mul (a, s)
}
"""
"""A function of the model's own, called twice."""
SEQUENCE = """
<ir_version: 8, opset_import: ["" : 17]>
listed (float[batch, 4] x) => (float[batch, 8] y)
{
  h = Relu (x)
  g = Tanh (h)
  both = SequenceConstruct (h, g)
  joined = ConcatFromSequence <axis = 1> (both)
  y = Sqrt (joined)
}
"""
"""A list of tensors on the way."""


def old() -> onnx.ModelProto:
    """IR 3, where stored tensors are inputs too, at opset 7."""
    b = Builder(9)
    x = b.conv(b.input("image", [1, 3, 8, 8]), (3, 4))
    x = b.op("Flatten", b.op("Relu", b.norm(x, 4)))
    model = b.model((b.op("Gemm", x, b.weight(256, 2), b.weight(2)), [1, 2]), opset=7)
    model.ir_version = 3
    stored = model.graph.initializer
    model.graph.input.extend(
        helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in stored
    )
    return model


def with_files(model: onnx.ModelProto, path: Path) -> Path:
    """The model with every weight in a file beside it."""
    onnx.save_model(
        model, path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return path


GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mobilenet": mobilenet,
    "resnet": resnet,
    "transformer": transformer,
    "transformer in steps": lambda: transformer(in_steps=True, layers=1),
    "yolo": yolo,
    "gru": gru,
    "lstm": lstm,
    "late input": late_input,
    "picked rows": picked,
    "quantized": quantized,
    "half precision": half,
    "if": partial(parser.parse_model, BRANCHES),
    "loop": partial(parser.parse_model, LOOP),
    "scan": partial(parser.parse_model, SCAN),
    "functions": partial(parser.parse_model, FUNCTIONS),
    "sequence": partial(parser.parse_model, SEQUENCE),
    "opset 7, IR 3": old,
}
