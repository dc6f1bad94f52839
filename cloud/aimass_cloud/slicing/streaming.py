"""The streaming form of a graph: what it works out of each row by itself is worked out once.

    stream = stream_of(graph, window=48)
    stream.step, stream.rest, stream.form

Windows of telemetry overlap in all rows but one. `lanes` finds the values whose positions come from
a few neighbouring rows each; those that the rest of the graph takes are kept in rings. `step` makes
their newest entries, `rest` is the graph from there on. The device runs both for a window that
follows the one before, and the whole graph for any other (`aimass_edge.runtime.streaming`).
No torch in here.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from aimass_cloud.slicing.export import folded
from aimass_cloud.slicing.lanes import Lane, Lanes, lanes_of
from aimass_cloud.slicing.wiring import Array, Wiring, taken
from aimass_shared.streaming import METADATA, Ring, StreamForm

Values: TypeAlias = list[onnx.ValueInfoProto]
TIME_AXIS = 1
HEAVY = frozenset({"MatMul", "Gemm", "Conv"})
"""Operators without which there is nothing that is worth keeping."""


@dataclass(frozen=True, eq=False)
class Stream:
    """A graph in two parts, for windows that follow each other; batches of one."""

    step: onnx.ModelProto
    rest: onnx.ModelProto
    form: StreamForm

    def with_times(self, *, took_ms: float, whole_ms: float) -> "Stream":
        """The same with what it takes where it was made."""
        form = msgspec.structs.replace(self.form, took_ms=took_ms, whole_ms=whole_ms)
        rest = onnx.ModelProto()
        rest.CopyFrom(self.rest)
        helper.set_model_props(rest, {METADATA: msgspec.json.encode(form).decode()})
        return Stream(self.step, rest, form)


def stream_of(
    model: onnx.ModelProto, window: int, *, without: Collection[str] = ()
) -> Stream | None:
    """The streaming form of a graph; None where no product is worked out of single rows.

    Args:
        model: folded. Inputs `[batch, window, ...]` are windows.
        window: rows of one.
        without: beginnings of the names of operators that stay in the rest.

    Raises:
        ModelLoadFailedError: ONNX Runtime refuses it with a batch of one.
    """
    single = folded(_of_one(model))
    wiring = Wiring(single)
    windows = _windows(single.graph, window)
    lanes = lanes_of(wiring, single.graph.node, windows, without=without)
    kept = _kept(single.graph, lanes, windows)
    step = _Step(single, wiring, lanes, kept)
    if not kept or not HEAVY.intersection(node.op_type for node in step.nodes):
        return None
    rings = tuple(
        Ring(name, _numbers(wiring, name), lanes.of[name].axis, lanes.of[name].each)
        for name in kept
    )
    form = StreamForm(window, step.rows(windows), rings)
    rest = _rest(single, wiring, kept)
    return Stream(step.model(windows), rest, form).with_times(took_ms=0.0, whole_ms=0.0)


def _of_one(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph for a batch of one: all its sizes are numbers then."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in (*single.graph.input, *single.graph.output):
        for dim in value.type.tensor_type.shape.dim[:1]:
            if not dim.dim_value:
                dim.dim_value = 1
    return single


def _windows(graph: onnx.GraphProto, window: int) -> dict[str, Lane]:
    """Inputs that are windows."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    return {
        name: Lane(TIME_AXIS, window)
        for name, shape in shapes.items()
        if len(shape) > TIME_AXIS and shape[:2] == [1, window]
    }


def _kept(graph: onnx.GraphProto, lanes: Lanes, windows: Mapping[str, Lane]) -> list[str]:
    """Values with a lane that something without one takes; inputs are there anyway."""
    wanted = [value.name for value in graph.output]
    wanted += [name for node in graph.node if id(node) not in lanes.extras for name in taken(node)]
    return [name for name in dict.fromkeys(wanted) if name in lanes.of and name not in windows]


def _numbers(wiring: Wiring, name: str) -> tuple[int, ...]:
    return tuple(int(size) for size in wiring.shape(name) or () if isinstance(size, int))


@dataclass(eq=False)
class _Step:
    """The part that makes the newest position of each value that is kept."""

    single: onnx.ModelProto
    wiring: Wiring
    lanes: Lanes
    kept: list[str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Find how many of the newest positions are needed of each value."""
        self._needs = dict.fromkeys(self.kept, 1)
        self._stored: dict[str, Array] = {}
        for node in reversed(self.single.graph.node):
            given = max((self._needs.get(name, 0) for name in node.output), default=0)
            if not given or not (id(node) in self.lanes.extras or id(node) in self.lanes.fixed):
                continue
            self.nodes.insert(0, node)
            wanted = given + self.lanes.extras.get(id(node), 0)
            for name in taken(node):
                self._needs[name] = max(self._needs.get(name, 0), wanted)

    def rows(self, windows: Mapping[str, Lane]) -> int:
        """The newest rows that it takes."""
        return max(self._needs.get(name, 1) for name in windows)

    def model(self, windows: Mapping[str, Lane]) -> onnx.ModelProto:
        """It as a model of its own."""
        rows = self.rows(windows)
        needed = [name for name in windows if name in self._needs]
        inputs = [self._value(name, rows) for name in needed]
        # An input that is not needed by so many rows is cut where it is taken.
        self._needs.update(dict.fromkeys(needed, rows))
        nodes = [made for node in self.nodes for made in self._made(node)]
        return self._written(nodes, inputs, [self._value(name, 1) for name in self.kept])

    def _made(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """A node for fewer positions, after those that cut what it takes."""
        if id(node) in self.lanes.fixed:
            yield node
            return
        given = max(self._needs.get(name, 0) for name in node.output)
        wanted = given + self.lanes.extras[id(node)]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for at, name in enumerate(node.input):
            if name in self.lanes.of and self._needs[name] > wanted:
                copy.input[at] = cut = f"{name}.newest{wanted}.{node.output[0]}"
                yield self._cut(name, cut, wanted)
        self._resize(copy, given)
        yield copy

    def _cut(self, name: str, cut: str, count: int) -> onnx.NodeProto:
        """The newest positions of a value."""
        lane, end = self.lanes.of[name], self._needs[name]
        numbers = ([(end - count) * lane.each], [end * lane.each], [lane.axis])
        return helper.make_node("Slice", [name, *map(self._constant, numbers)], [cut])

    def _resize(self, node: onnx.NodeProto, given: int) -> None:
        """Put the count of positions where a node says how long an axis is."""
        lane = self.lanes.of[node.output[0]]
        if node.op_type in ("Reshape", "Expand"):
            shape = list(_numbers(self.wiring, node.output[0]))
            shape[lane.axis] = given * lane.each
            node.input[1] = self._constant(shape)
        elif node.op_type == "Slice":
            self._reslice(node, lane.axis, given)

    def _reslice(self, node: onnx.NodeProto, axis: int, given: int) -> None:
        rank = len(_numbers(self.wiring, node.output[0]))
        starts, ends = (list(self._given(node.input[at])) for at in (1, 2))
        axes = self._given(node.input[3]) if len(node.input) > 3 else range(len(starts))  # noqa: PLR2004  axes
        for at, one in enumerate(axes):
            if one % rank == axis:  # the newest come last, and it takes the first of them
                starts[at], ends[at] = 0, given
        node.input[1], node.input[2] = self._constant(starts), self._constant(ends)

    def _given(self, name: str) -> list[int]:
        array = self.wiring.constant(name)
        return [] if array is None else [int(one) for one in array.reshape(-1)]

    def _constant(self, numbers: list[int]) -> str:
        name = f"numbers.{'_'.join(map(str, numbers))}"
        self._stored[name] = np.array(numbers, np.int64)
        return name

    def _value(self, name: str, positions: int) -> onnx.ValueInfoProto:
        shape = list(_numbers(self.wiring, name))
        lane = self.lanes.of[name]
        shape[lane.axis] = positions * lane.each
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.wiring.dtype(name)))
        return helper.make_tensor_value_info(name, kind, shape)

    def _written(
        self, nodes: list[onnx.NodeProto], inputs: Values, outputs: Values
    ) -> onnx.ModelProto:
        needed = {name for node in nodes for name in node.input}
        stored = [one for one in self.single.graph.initializer if one.name in needed]
        stored += [
            numpy_helper.from_array(array, name)
            for name, array in self._stored.items()
            if name in needed
        ]
        return _model(self.single, helper.make_graph(nodes, "step", inputs, outputs, stored))


def _rest(single: onnx.ModelProto, wiring: Wiring, kept: list[str]) -> onnx.ModelProto:
    """The graph from the values that are kept on."""
    outputs = [value.name for value in single.graph.output]
    needed, nodes = set(outputs), list[onnx.NodeProto]()
    for node in reversed(single.graph.node):
        if needed.intersection(node.output) and not set(kept).intersection(node.output):
            nodes.insert(0, node)
            needed.update(taken(node))
    inputs = [value for value in single.graph.input if value.name in needed]
    for name in kept:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(wiring.dtype(name)))
        inputs.append(helper.make_tensor_value_info(name, kind, _numbers(wiring, name)))
    stored = [one for one in single.graph.initializer if one.name in needed]
    graph = helper.make_graph(nodes, "rest", inputs, list(single.graph.output), stored)
    return _model(single, graph)


def _model(like: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=like.opset_import, producer_name="aimass")
    model.ir_version = like.ir_version
    return model
