"""Who makes and who takes each value of an ONNX graph, and edits that keep track of it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int | str | None, ...]
"""Sizes of axes: numbers, names of those that may be any, None where nobody knows."""

SAME_NUMBERS = frozenset({"Expand", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity"})
"""Operators that give no number that they do not take."""


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:  # noqa: ANN401  of any type
    """An attribute of a node, or what it is without one."""
    found = (one for one in node.attribute if one.name == name)
    return next((helper.get_attribute_value(one) for one in found), default)


def taken(node: onnx.NodeProto) -> Iterator[str]:
    """Names of what a node takes, and what nodes inside it do."""
    yield from (name for name in node.input if name)
    for one in node.attribute:
        for inner in (*one.g.node, *(node for graph in one.graphs for node in graph.node)):
            yield from taken(inner)


class Wiring:
    """A graph that can be asked about its values and edited, node by node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Take a model, which is edited in place; shapes are worked out once."""
        self._model, self._graph = model, model.graph
        opsets = (one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
        self.opset = next(opsets, 0)
        self.outputs = {value.name for value in self._graph.output}
        self._makers = {name: node for node in self._graph.node for name in node.output if name}
        self._uses = Counter(name for node in self._graph.node for name in set(taken(node)))
        self._takers = {name: node for node in self._graph.node for name in taken(node)}
        given = {value.name for value in self._graph.input}
        self._stored = {one.name: one for one in self._graph.initializer if one.name not in given}
        inferred = _inferred(model).graph
        self._types = {
            value.name: value.type.tensor_type
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
        }
        self._placed: dict[int, list[onnx.NodeProto]] = {}

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value; None for inputs and stored ones."""
        return self._makers.get(name)

    def only_taker(self, name: str) -> onnx.NodeProto | None:
        """The one node that takes a value, if nobody else does."""
        if name in self.outputs or self._uses[name] != 1:
            return None
        node = self._takers[name]
        return node if name in node.input else None

    def constant(self, name: str) -> Array | None:
        """The numbers of a value that is stored; None if it is not, or is huge and not here."""
        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            tensor = attribute(maker, "value", None)
        else:
            tensor = self._stored.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(tensor)

    def is_zero(self, name: str) -> bool:
        """Whether a value is known to be all zeros."""
        array, maker = self.constant(name), self._makers.get(name)
        if array is not None:
            return not array.any()
        if maker is None:
            return False
        if maker.op_type == "ConstantOfShape":
            tensor = attribute(maker, "value", None)
            return tensor is None or not numpy_helper.to_array(tensor).any()
        return maker.op_type in SAME_NUMBERS and self.is_zero(maker.input[0])

    def shape(self, name: str) -> Shape | None:
        """The sizes of a value's axes; None if not even their count is known."""
        if name in self._stored:
            return tuple(self._stored[name].dims)
        found = self._types.get(name)
        if found is None or not found.HasField("shape"):
            return None
        return tuple(_size(dim) for dim in found.shape.dim)

    def dtype(self, name: str) -> Any:  # noqa: ANN401  numpy's type of types
        """The type of a value's numbers; None if it is unknown."""
        stored = self._stored.get(name)
        found = stored.data_type if stored else getattr(self._types.get(name), "elem_type", 0)
        return helper.tensor_dtype_to_np_dtype(found) if found else None

    def store(self, name: str, array: Array) -> str:
        """Add a constant; its name, which no other value has."""
        while name in self._stored or name in self._makers:
            name += "_"
        tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self._graph.initializer.append(tensor)
        self._stored[name] = tensor
        return name

    def replace(
        self, node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto], *more: onnx.NodeProto
    ) -> None:
        """Put nodes in the place of one; they give what it gave, or what the last of `more` did."""
        self._placed[id(node)] = list(nodes)
        for gone in more:
            self._placed[id(gone)] = []
        for one in nodes:
            self._makers.update(dict.fromkeys(one.output, one))

    def sweep(self) -> None:
        """Write the edits into the model, without what nobody needs any more."""
        nodes = [one for node in self._graph.node for one in self._placed.get(id(node), [node])]
        needed, kept = set(self.outputs), []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(taken(node))
        fresh = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
        stored = [tensor for tensor in self._graph.initializer if tensor.name in needed]
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(fresh)
        stored = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in stored]
        del self._graph.initializer[:]
        self._graph.initializer.extend(stored)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the shapes that can be worked out; of a graph that contradicts itself, as it is."""
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return model


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None


def along(array: Array, axis: int, shape: Sequence[object]) -> Array | None:
    """What an array is along one axis of a shape that it is spread over; None if not only along it.

    `[5, 1]` along the first axis of `[5, 7]` is its five numbers. None as well if it would make the
    shape larger.
    """
    rank = len(shape)
    if array.ndim > rank:
        return None
    spread = array.reshape((1,) * (rank - array.ndim) + array.shape)
    others = [other for other in range(rank) if other != axis]
    if any(spread.shape[other] not in (1, shape[other]) for other in others):
        return None
    rows = np.moveaxis(spread, axis, 0).reshape(spread.shape[axis], -1)
    return rows[:, 0] if rows.size and (rows == rows[:, :1]).all() else None
