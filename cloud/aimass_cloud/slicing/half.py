"""Half precision of a float graph whose inputs and outputs stay float32. No torch in here.

What the network wants kept, values near or over the largest half, and operators that have no half
form stay float. Three ways, from most in half precision to least:

    all        every node but those
    inside     of them, those that depend on products with weights and on no other activation: raw
               readings in the units of a plant, whose last digits count, stay float
    products   products with weights alone

ONNX Runtime's own converter (`onnxruntime.transformers.float16`) casts between any two kept nodes
to half precision and back, which ruins raw readings, and stumbles over inputs that are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

from aimass_cloud.models.samples import Arrays
from aimass_cloud.slicing.export import plain
from aimass_cloud.slicing.quantize import products
from aimass_cloud.slicing.ranges import largest

Way = Literal["all", "inside", "products"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)
MOST: Final = 16_384.0
"""Largest value that is halved: a quarter of what half precision can say."""
FLOAT_ONLY: Final = frozenset(
    [*DEFAULT_OP_BLOCK_LIST, "Cast", "CastLike", "Resize", "QuantizeLinear", "DequantizeLinear"]
)


class Halves:
    """The half precision forms of one float graph."""

    def __init__(self, graph: onnx.ModelProto, inputs: Arrays, kept: Sequence[str]) -> None:
        """Look at the values that the graph takes on samples."""
        self._graph = graph
        made = [name for node in graph.graph.node for name in node.output if name]
        sizes = largest(graph, inputs, [*inputs, *made])
        stored = (one for one in graph.graph.initializer if one.data_type == TensorProto.FLOAT)
        sizes |= {one.name: _largest(one) for one in stored}
        self._floats = set(sizes)
        self._possible = {
            at for at, node in enumerate(graph.graph.node) if _fits(node, sizes, kept)
        }
        wanted = set(products(graph, kept))
        self._products = {at for at in self._possible if graph.graph.node[at].name in wanted}

    def form(self, way: Way) -> onnx.ModelProto:
        """One form; the graph itself where nothing may be halved."""
        halved = self.chosen(way)
        if not halved:
            return self._graph
        return plain(_Halving(self._graph, self._floats, halved).done(), self._graph)

    def chosen(self, way: Way) -> set[int]:
        """Places of the nodes in half precision."""
        if way == "all":
            return self._possible
        return self._products if way == "products" else set(self._inside())

    def _inside(self) -> Iterator[int]:
        """Nodes whose activations all come from a product, however far back, or are such."""
        stored = {tensor.name for tensor in self._graph.graph.initializer}
        inner: set[str] = set()
        for at, node in enumerate(self._graph.graph.node):
            given = {name for name in node.input if name and name not in stored}
            if at in self._products or (given and given <= inner):
                inner.update(node.output)
                if at in self._possible:
                    yield at


class _Halving:
    """A copy of a graph, made node by node, with casts where types meet."""

    def __init__(self, graph: onnx.ModelProto, floats: set[str], halved: set[int]) -> None:
        self._result, self._floats = onnx.ModelProto(), floats
        self._result.CopyFrom(graph)
        nodes = graph.graph.node
        self._halved = halved
        self._halves = {name for at in halved for name in nodes[at].output if name in floats}
        self._stored = {one.name: one for one in graph.graph.initializer}
        self._outputs = {value.name for value in graph.graph.output}
        self._nodes: list[onnx.NodeProto] = []
        self._cast: set[str] = set()
        self._constants: dict[str, onnx.TensorProto] = {}

    def done(self) -> onnx.ModelProto:
        """The graph in half precision."""
        graph = self._result.graph
        for at, node in enumerate(graph.node):
            self._add(node, half=at in self._halved)
        nodes = self._nodes
        used = {name for node in nodes for name in node.input} | self._outputs
        stored = [one for one in self._stored.values() if one.name in used]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend([*stored, *self._constants.values()])
        return self._result

    def _add(self, source: onnx.NodeProto, *, half: bool) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        for at, name in enumerate(node.input):
            if name in self._floats:
                node.input[at] = self._as_half(name) if half else self._as_float(name)
        self._nodes.append(node)
        for at, name in enumerate(node.output):
            if half and name in self._outputs and name in self._floats:
                node.output[at] = _half(name)
                self._to(TensorProto.FLOAT, _half(name), name)

    def _as_half(self, name: str) -> str:
        if name in self._stored:
            array = numpy_helper.to_array(self._stored[name]).astype(np.float16)
            self._constants[name] = numpy_helper.from_array(array, _half(name))
        elif name in self._halves:
            return _half(name) if name in self._outputs else name
        else:
            self._to(TensorProto.FLOAT16, name, _half(name))
        return _half(name)

    def _as_float(self, name: str) -> str:
        if name not in self._halves or name in self._outputs:
            return name
        self._to(TensorProto.FLOAT, name, f"{name}.float")
        return f"{name}.float"

    def _to(self, kind: int, name: str, result: str) -> None:
        """A cast, once."""
        if result not in self._cast:
            self._cast.add(result)
            self._nodes.append(
                helper.make_node("Cast", [name], [result], name=f"cast {result}", to=kind)
            )


def _half(name: str) -> str:
    return f"{name}.half"


def _fits(node: onnx.NodeProto, sizes: Mapping[str, float], kept: Sequence[str]) -> bool:
    """Whether half precision can say all that a node takes and gives, and nobody minds."""
    floats = [sizes[name] for name in (*node.input, *node.output) if name in sizes]
    own = any(one.HasField("g") or one.HasField("t") or one.graphs for one in node.attribute)
    wanted = any(name.startswith(tuple(kept)) for name in node.input)
    plain_one = node.op_type not in FLOAT_ONLY and not own and not wanted
    return plain_one and bool(floats) and max(floats) <= MOST


def _largest(tensor: onnx.TensorProto) -> float:
    array = numpy_helper.to_array(tensor)
    return float(np.abs(array).max()) if array.size else 0.0
