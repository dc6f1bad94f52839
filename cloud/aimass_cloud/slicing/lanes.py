"""Which values of a graph are worked out row by row: each position from a few neighbouring rows.

Such a value has a lane: the axis that rows run along, and how long it is. Rules say for an operator
what its output's lane is. Where none holds, the value depends on the whole window, or the graph
treats positions differently, and it has no lane.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import onnx

from aimass_cloud.slicing.wiring import Wiring, attribute, taken

NAMES = """
Abs Add And Cast Ceil Clip Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid
HardSwish Identity LeakyRelu Less LessOrEqual Log Max Min Mod Mul Neg Not Or PRelu Pow Reciprocal
Relu Round Sigmoid Sign Softplus Softsign Sqrt Sub Tanh Where Xor
"""
ELEMENTWISE = frozenset(NAMES.split())
ROUNDED = frozenset({"QuantizeLinear", "DequantizeLinear"})
PER_IMAGE = frozenset(
    ("AveragePool", "BatchNormalization", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
)
"""Operators that treat every entry of the first axis by itself."""
NORMALIZED = frozenset({"Softmax", "LogSoftmax", "LayerNormalization"})
RESHAPED = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})


class Lane(NamedTuple):
    """So many positions along an axis, each from a few neighbouring rows, the newest last.

    A position is `each` entries of the axis: of `[rows * sensors, features]` it is one row's.
    """

    axis: int
    length: int
    each: int = 1

    @property
    def size(self) -> int:
        """Of the axis."""
        return self.length * self.each


@dataclass(frozen=True)
class Laned:
    """The lane of a node's outputs, and how many more positions it takes than it gives."""

    lane: Lane
    extra: int = 0


@dataclass(frozen=True)
class Lanes:
    """What is known of the values of a graph.

    Attributes:
        of: lanes by the name of a value.
        extras: of each node (its `id`) that gives some, how many more positions it takes.
        fixed: nodes (their `id`) that no input changes, such as those that unpack weights.
    """

    of: Mapping[str, Lane]
    extras: Mapping[int, int]
    fixed: frozenset[int]


def lanes_of(
    wiring: Wiring,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Lane],
    *,
    without: Collection[str] = (),
) -> Lanes:
    """Lanes of all values that have one, from those of the inputs.

    Args:
        wiring: of the graph.
        nodes: of it, in order.
        inputs: lanes of its inputs.
        without: beginnings of the names of operators that give no lane.
    """
    lanes, extras = dict(inputs), dict[int, int]()
    stored, fixed = set[str](), set[int]()
    for node in nodes:
        if all(name in stored or wiring.constant(name) is not None for name in taken(node)):
            fixed.add(id(node))
            stored.update(node.output)
        elif not node.op_type.startswith(tuple(without)):
            found = _laned(node, wiring, lanes, stored=stored)
            if found is not None:
                extras[id(node)] = found.extra
                lanes.update(dict.fromkeys((name for name in node.output if name), found.lane))
    return Lanes(lanes, extras, frozenset(fixed))


def _laned(
    node: onnx.NodeProto, wiring: Wiring, lanes: Mapping[str, Lane], *, stored: Collection[str]
) -> Laned | None:
    laned = [name for name in node.input if name in lanes]
    unknown = [name for name in taken(node) if name not in lanes and name not in stored]
    if not laned or any(wiring.constant(name) is None for name in unknown):
        return None
    shapes = [wiring.shape(name) for name in (*node.input, *node.output) if name]
    if any(shape is None or not all(isinstance(size, int) for size in shape) for shape in shapes):
        return None
    rule = _rule(node.op_type)
    return None if rule is None else rule(_Asked(node, wiring, lanes))


Rule = Callable[["_Asked"], Laned | None]


def _rule(operator: str) -> Rule | None:
    groups: tuple[tuple[frozenset[str], Rule], ...] = (
        (ELEMENTWISE, _spread),
        (PER_IMAGE, _image),
        (ROUNDED, _rounded),
        (NORMALIZED, _normalized),
        (RESHAPED, _reshaped),
    )
    for names, rule in groups:
        if operator in names:
            return rule
    return _reduced if operator.startswith("Reduce") else RULES.get(operator)


class _Asked:
    """A node with what rules want to know of it; all shapes are known numbers."""

    def __init__(self, node: onnx.NodeProto, wiring: Wiring, lanes: Mapping[str, Lane]) -> None:
        self.node, self.wiring, self.lanes = node, wiring, lanes

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(size for size in self.wiring.shape(name) or () if isinstance(size, int))

    @property
    def first(self) -> Lane | None:
        """The lane of the first input."""
        return self.lanes.get(self.node.input[0])

    @property
    def out(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return self.shape(self.node.output[0])

    def numbers(self, at: int, name: str) -> list[int] | None:
        """Whole numbers that are an input, or in older operators an attribute."""
        if len(self.node.input) > at and self.node.input[at]:
            array = self.wiring.constant(self.node.input[at])
            return None if array is None else [int(one) for one in array.reshape(-1)]
        found = attribute(self.node, name, None)
        return None if found is None else [int(one) for one in found]

    def axis(self, default: int, rank: int) -> int:
        return int(attribute(self.node, "axis", default)) % rank


def _spread(asked: _Asked) -> Laned | None:
    """Operators that spread their inputs over each other, aligned at the last axis."""
    rank = len(asked.out)
    lanes = [
        lane._replace(axis=lane.axis + rank - len(asked.shape(name)))
        for name in asked.node.input
        if (lane := asked.lanes.get(name)) is not None
    ]
    lane = lanes[0]
    if set(lanes) != {lane} or asked.out[lane.axis] != lane.size:
        return None
    for name in asked.node.input:
        shape, behind = asked.shape(name), rank - lane.axis
        if name not in asked.lanes and len(shape) >= behind and shape[-behind] != 1:
            return None
    return Laned(lane)


def _rounded(asked: _Asked) -> Laned | None:
    is_one = asked.shape(asked.node.input[1]) in ((), (1,))  # one scale for all channels
    return Laned(asked.first) if is_one and asked.first is not None else None


def _image(asked: _Asked) -> Laned | None:
    lane, node = asked.first, asked.node
    if lane is None or len([name for name in node.input if name in asked.lanes]) > 1:
        return None
    if lane.axis == 0:
        return Laned(lane)
    return _convolved(asked, lane) if node.op_type == "Conv" else None


def _convolved(asked: _Asked, lane: Lane) -> Laned | None:
    """Filters that run along the rows, without padding."""
    node, at = asked.node, lane.axis - 2
    size = asked.shape(node.input[1])[2:]
    padding, strides = (
        attribute(node, "pads", [0] * 2 * len(size)),
        attribute(node, "strides", None),
    )
    if (
        at < 0
        or lane.each > 1
        or attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    ):
        return None
    if padding[at] or padding[at + len(size)] or (strides and strides[at] != 1):
        return None
    dilation = (attribute(node, "dilations", None) or [1] * len(size))[at]
    extra = (size[at] - 1) * dilation
    return Laned(lane._replace(length=lane.length - extra), extra)


def _normalized(asked: _Asked) -> Laned | None:
    lane = asked.first
    if lane is None:
        return None
    axis = asked.axis(-1, len(asked.out))
    is_over = axis <= lane.axis if asked.node.op_type == "LayerNormalization" else axis == lane.axis
    return None if is_over else Laned(lane)


def _reshaped(asked: _Asked) -> Laned | None:
    """The axis stays one of its own, or is joined with those behind it."""
    lane, out = asked.first, asked.out
    if lane is None:
        return None
    before = prod(asked.shape(asked.node.input[0])[: lane.axis])
    for axis, size in enumerate(out):
        if size % lane.length == 0 and prod(out[:axis]) == before:
            return Laned(lane._replace(axis=axis, each=size // lane.length))
    return None


def _product(asked: _Asked) -> Laned | None:
    """MatMul: rows, columns, or matrices of their own; never the axis that is summed over."""
    shapes = [asked.shape(name) for name in asked.node.input]
    if min(map(len, shapes)) < 2:  # noqa: PLR2004  vectors lose an axis
        return None
    rank = len(asked.out)
    aligned = [
        lane._replace(axis=lane.axis + rank - len(shape))
        for name, shape in zip(asked.node.input, shapes, strict=True)
        if (lane := asked.lanes.get(name)) is not None
    ]
    lane = aligned[0]
    if len(aligned) == 2:  # noqa: PLR2004  both factors
        return Laned(lane) if lane.axis < rank - 2 and aligned[1] == lane else None
    at = 0 if asked.node.input[0] in asked.lanes else 1
    if lane.axis == rank - 1 - at:  # the axis that is summed over
        return None
    other = (1,) * (rank - len(shapes[1 - at])) + shapes[1 - at]
    is_own = lane.axis >= rank - 2 or other[lane.axis] == 1
    return Laned(lane) if is_own else None


def _gemm(asked: _Asked) -> Laned | None:
    lane = asked.first
    others = [name for name in asked.node.input[1:] if name in asked.lanes]
    if lane is None or others or lane.axis or attribute(asked.node, "transA", 0):
        return None
    bias = asked.shape(asked.node.input[2]) if len(asked.node.input) > 2 else ()  # noqa: PLR2004
    return Laned(lane) if len(bias) < 2 or bias[0] == 1 else None  # noqa: PLR2004  not of a row


def _transposed(asked: _Asked) -> Laned | None:
    if asked.first is None:
        return None
    order = attribute(asked.node, "perm", None) or range(len(asked.out))[::-1]
    return Laned(asked.first._replace(axis=list(order).index(asked.first.axis)))


def _joined(asked: _Asked) -> Laned | None:
    lanes = [asked.lanes.get(name) for name in asked.node.input]
    first = lanes[0]
    if first is None or asked.axis(0, len(asked.out)) == first.axis:
        return None
    return Laned(first) if set(lanes) == {first} else None


def _split(asked: _Asked) -> Laned | None:
    lane = asked.first
    return None if lane is None or asked.axis(0, len(asked.out)) == lane.axis else Laned(lane)


def _cut(asked: _Asked) -> Laned | None:
    """Slice; along the rows it moves them."""
    lane, starts, ends = asked.first, asked.numbers(1, "starts"), asked.numbers(2, "ends")
    if lane is None or starts is None or ends is None or len(asked.node.input) < 3:  # noqa: PLR2004  old
        return None
    axes = asked.numbers(3, "axes") or list(range(len(starts)))
    steps = asked.numbers(4, "steps") or [1] * len(starts)
    axes = [axis % len(asked.out) for axis in axes]
    if lane.axis not in axes:
        return Laned(lane)
    at = axes.index(lane.axis)
    start, end, _ = slice(starts[at], ends[at]).indices(lane.length)
    if steps[at] != 1 or end <= start or lane.each > 1:
        return None
    # Of those that are newer than the slice's newest, all are taken, though none is needed.
    return Laned(lane._replace(length=end - start), lane.length - end)


def _gathered(asked: _Asked) -> Laned | None:
    lane = asked.first
    if lane is None:
        return None
    axis = asked.axis(0, len(asked.shape(asked.node.input[0])))
    if axis == lane.axis:
        return None
    more = len(asked.shape(asked.node.input[1])) - 1
    return Laned(lane if lane.axis < axis else lane._replace(axis=lane.axis + more))


def _expanded(asked: _Asked) -> Laned | None:
    lane = asked.first
    if lane is None:
        return None
    axis = lane.axis + len(asked.out) - len(asked.shape(asked.node.input[0]))
    return Laned(lane._replace(axis=axis)) if asked.out[axis] == lane.size else None


def _reduced(asked: _Asked) -> Laned | None:
    lane, axes = asked.first, asked.numbers(1, "axes")
    if lane is None or not axes:
        return None
    rank = len(asked.shape(asked.node.input[0]))
    over = {axis % rank for axis in axes}
    if lane.axis in over:
        return None
    if attribute(asked.node, "keepdims", 1):
        return Laned(lane)
    return Laned(lane._replace(axis=lane.axis - len([one for one in over if one < lane.axis])))


RULES: Mapping[str, Rule] = {
    "Concat": _joined,
    "Expand": _expanded,
    "Gather": _gathered,
    "Gemm": _gemm,
    "MatMul": _product,
    "Slice": _cut,
    "Split": _split,
    "Transpose": _transposed,
}
