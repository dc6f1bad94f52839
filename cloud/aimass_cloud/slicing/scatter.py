"""A pass over ONNX graphs: sums and maxima over the edges of a fixed graph, without Scatter.

TensorRT refuses a Scatter that reduces, which is what message passing of PyTorch Geometric and
`index_add` of torch become. Where its index is a constant,

    ScatterElements(zeros, index, Gather(x, sources) * weight, add)   is   MatMul(A, x)

with A[i, j] the sum of the weights of the edges from j to i. Scales of the edges before and of the
nodes after (means) are put into A as well. A maximum or minimum becomes a Gather of each node's
edges and a reduction of them. The numbers are the same but for the order of sums, where all are
finite: what is not spreads over all nodes, since it meets zeros. Needs onnx alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from aimass_cloud.slicing.wiring import Array, Shape, Wiring, along, attribute

ADD, EXTREMES = "add", {"max": "ReduceMax", "min": "ReduceMin"}
SCATTERS = frozenset({"ScatterElements", "ScatterND"})
FLOATS = (np.float16, np.float32, np.float64)
MOST_NUMBERS = 1 << 22
"""Of a matrix, or of a table of edges: 16 MiB of float32."""
AXES_ARE_INPUTS = 18
"""Opset since which ReduceMax takes its axes as an input."""


def without_scatter(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with no Scatter that reduces over a constant index.

    Its constants must be worked out (`export.folded`), or less is found. What cannot be replaced
    stays: `left` says what and why. A model that has none is given back as it is.
    """
    if not any(_reduces(node) for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    wiring = Wiring(result)
    for node in result.graph.node:
        if _reduces(node) and isinstance(found := _scatter(node, wiring), _Scatter):
            (_summed if found.reduction == ADD else _extreme)(found, wiring)
    wiring.sweep()
    return result


def left(model: onnx.ModelProto) -> list[str]:
    """Each Scatter of a model that reduces and cannot be replaced, with the reason."""
    nodes = [node for node in model.graph.node if _reduces(node)]
    wiring = Wiring(model) if nodes else None  # works all shapes out
    found = [(node, _scatter(node, wiring)) for node in nodes if wiring is not None]
    found += [(node, "it is in a subgraph") for node in _inside(model.graph.node) if _reduces(node)]
    return [
        f"{node.op_type} {node.name or node.output[0]}: {reason}"
        for node, reason in found
        if isinstance(reason, str)
    ]


def _inside(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes of the subgraphs of nodes."""
    for node in nodes:
        for one in node.attribute:
            yield from one.g.node
            yield from _inside(one.g.node)


def _reduces(node: onnx.NodeProto) -> bool:
    return node.op_type in SCATTERS and attribute(node, "reduction", b"none") != b"none"


@dataclass(frozen=True)
class _Scatter:
    """A reduction over a constant index into one axis of what was there before.

    Attributes:
        node: its inputs are what was there, the index, and what the edges bring.
        index: whole numbers `[edges]`, not negative.
        axis: of what was there and of what the edges bring. shape: of what was there.
    """

    node: onnx.NodeProto
    reduction: str
    index: NDArray[np.int64]
    axis: int
    shape: Shape
    size: int

    @property
    def numbers(self) -> int:
        """Of the matrix or table that takes its place, before that is made any smaller."""
        most = np.bincount(self.index).max() if self.reduction in EXTREMES else len(self.index)
        return self.size * int(most)

    @property
    def data(self) -> str:
        """What was there before."""
        return str(self.node.input[0])

    @property
    def updates(self) -> str:
        """What the edges bring."""
        return str(self.node.input[2])


def _scatter(node: onnx.NodeProto, wiring: Wiring) -> _Scatter | str:
    """What a node does, or why it cannot be replaced."""
    reduction = attribute(node, "reduction", b"none").decode()
    index, dtype = wiring.constant(node.input[1]), wiring.dtype(node.input[2])
    shape = wiring.shape(node.input[0]) or wiring.shape(node.output[0])
    if reduction != ADD and reduction not in EXTREMES:
        return f"a reduction by {reduction} has no other form"
    if dtype not in FLOATS:
        return f"its numbers are {dtype or 'of an unknown type'}"
    if index is None or shape is None:
        return "its index is no constant" if index is None else "the shape of its data is unknown"
    axis = int(attribute(node, "axis", 0)) % len(shape)
    edges = _edges(node, index, axis=axis, shape=shape)
    size = shape[axis]
    if edges is None or not isinstance(size, int):
        return f"its index of shape {list(index.shape)} is more than one number an edge"
    found = _Scatter(node, reduction, np.where(edges < 0, edges + size, edges), axis, shape, size)
    if found.numbers > MOST_NUMBERS:
        return f"{len(edges)} edges to {size} nodes would be a table of {found.numbers} numbers"
    return found


def _edges(
    node: onnx.NodeProto, index: Array, *, axis: int, shape: Shape
) -> NDArray[np.int64] | None:
    """The index as one number for each edge; None if it is no such index."""
    if node.op_type == "ScatterND":
        is_one = index.ndim == 2 and index.shape[1] == 1  # noqa: PLR2004  rows of one number
        return index[:, 0] if is_one and len(index) else None
    if any(index.shape[at] != size for at, size in enumerate(shape) if at != axis):
        return None
    return along(index, axis, index.shape)


@dataclass(frozen=True)
class _Map:
    """A matrix along an axis of a value that, transposed by `order`, lies as the updates do."""

    matrix: Array
    value: str
    order: tuple[int, ...]


def _summed(scatter: _Scatter, wiring: Wiring) -> None:
    """Replace a sum over edges by a product with a matrix."""
    edges = len(scatter.index)
    matrix = np.zeros((scatter.size, edges), wiring.dtype(scatter.updates))
    matrix[scatter.index, np.arange(edges)] = 1
    found = _Map(matrix, scatter.updates, tuple(range(len(scatter.shape))))
    best = found
    while (before := _before(found, scatter.axis, wiring)) is not None:
        found = before
        if found.matrix.shape[1] <= best.matrix.shape[1]:
            best = found
    _written(scatter, best, wiring)


def _before(found: _Map, axis: int, wiring: Wiring) -> _Map | None:
    """The same map, of a value one node earlier; None if that node is no map along the axis."""
    node = wiring.maker(found.value)
    shape = wiring.shape(found.value)
    if node is None or shape is None:
        return None
    at = found.order[axis]
    if node.op_type == "Transpose":
        turned = attribute(node, "perm", None) or range(len(shape))[::-1]
        return replace(found, value=node.input[0], order=tuple(turned[one] for one in found.order))
    if node.op_type in ("Gather", "GatherND"):
        return _gathered(found, node, at, wiring=wiring)
    if node.op_type in ("Mul", "Div"):
        return _scaled(found, node, at, wiring=wiring)
    return None


def _gathered(found: _Map, node: onnx.NodeProto, at: int, *, wiring: Wiring) -> _Map | None:
    """The map of what edges were gathered from."""
    index, shape = wiring.constant(node.input[1]), wiring.shape(node.input[0])
    if index is None or shape is None:
        return None
    if node.op_type == "Gather":
        axis, sources = int(attribute(node, "axis", 0)) % len(shape), index
    else:
        axis, sources = int(attribute(node, "batch_dims", 0)), index[..., 0]
        if index.shape[-1] != 1:
            return None
    size = shape[at] if at < len(shape) else None
    if axis != at or sources.ndim != 1 or not isinstance(size, int):
        return None
    if found.matrix.shape[0] * size > MOST_NUMBERS:
        return None
    matrix = np.zeros((found.matrix.shape[0], size), found.matrix.dtype)
    np.add.at(matrix.T, np.where(sources < 0, sources + size, sources), found.matrix.T)
    return replace(found, matrix=matrix, value=node.input[0])


def _scaled(found: _Map, node: onnx.NodeProto, at: int, *, wiring: Wiring) -> _Map | None:
    """The map of what edges were before each was scaled."""
    split = _split(node, at, wiring)
    if split is None:
        return None
    value, scale = split
    if wiring.shape(value) != wiring.shape(found.value):
        return None
    return replace(found, matrix=found.matrix * scale, value=value)


def _split(node: onnx.NodeProto, axis: int, wiring: Wiring) -> tuple[str, Array] | None:
    """The factor of a Mul or Div that is no constant, and the scale along an axis that is one."""
    for at in (1, 0) if node.op_type == "Mul" else (1,):
        constant, value = wiring.constant(node.input[at]), node.input[1 - at]
        shape = wiring.shape(value)
        if constant is None or shape is None:
            continue
        scale = along(constant, axis, shape)
        if scale is None or len(scale) not in (1, shape[axis]):
            continue
        if node.op_type == "Mul":
            return value, scale
        return (value, 1 / scale) if scale.all() else None
    return None


def _written(scatter: _Scatter, found: _Map, wiring: Wiring) -> None:
    """Put the product in the place of the sum, and what follows it into the product."""
    axis, gone, name = scatter.axis, [], scatter.node.output[0]
    bare = wiring.is_zero(scatter.data)
    while bare and (node := wiring.only_taker(name)) is not None:
        # What else it takes may be made later than the sum: only constants are none of that.
        if node.op_type == "Transpose":
            turned = attribute(node, "perm", None) or tuple(range(len(found.order)))[::-1]
            order = tuple(found.order[one] for one in turned)
            found, axis = replace(found, order=order), list(turned).index(axis)
        elif node.op_type in ("Mul", "Div") and (split := _split(node, axis, wiring)):
            found = replace(found, matrix=found.matrix * np.reshape(split[1], (-1, 1)))
        else:
            break
        gone.append(node)
        name = node.output[0]
    product = name if bare else f"{name}.sum"
    nodes = _product(found, found.order[axis], product, wiring=wiring)
    if not bare:
        nodes.append(helper.make_node("Add", [scatter.data, product], [name]))
    wiring.replace(scatter.node, nodes, *gone)


def _product(found: _Map, at: int, name: str, *, wiring: Wiring) -> list[onnx.NodeProto]:
    """Nodes that multiply a value along an axis by a matrix, and lay it as it must lie."""
    rank, node = len(found.order), helper.make_node
    nodes, value, lies = [], found.value, list(range(rank))
    if at < rank - 2:
        lies.insert(rank - 2, lies.pop(at))
        nodes.append(node("Transpose", [value], [f"{name}.turned"], perm=lies))
        value = f"{name}.turned"
    order = [lies.index(one) for one in found.order]
    is_laid = order == list(range(rank))
    product = name if is_laid else f"{name}.product"
    if at == rank - 1:
        matrix = wiring.store(f"{name}.incidence", found.matrix.T)
        nodes.append(node("MatMul", [value, matrix], [product]))
    else:
        matrix = wiring.store(f"{name}.incidence", found.matrix)
        nodes.append(node("MatMul", [matrix, value], [product]))
    if not is_laid:
        nodes.append(node("Transpose", [product], [name], perm=order))
    return nodes


def _extreme(scatter: _Scatter, wiring: Wiring) -> None:
    """Replace a maximum or minimum by one over each node's edges, looked up in a table.

    A node with fewer edges than others has one of them several times, which changes no maximum; one
    without any keeps what was there.
    """
    name, heard = scatter.node.output[0], f"{scatter.node.output[0]}.heard"
    table, has = _table(scatter.index, scatter.size)
    nodes = _over_table(scatter, table, heard, wiring=wiring)
    if not _is_beaten(scatter, has, wiring):
        both = f"{name}.both"
        nodes.append(helper.make_node(scatter.reduction.title(), [heard, scatter.data], [both]))
        heard = both
    if has.all():
        nodes[-1].output[0] = name
    else:
        shape = [scatter.size if at == scatter.axis else 1 for at in range(len(scatter.shape))]
        mask = wiring.store(f"{name}.has", has.reshape(shape))
        nodes.append(helper.make_node("Where", [mask, heard, scatter.data], [name]))
    wiring.replace(scatter.node, nodes)


def _is_beaten(scatter: _Scatter, has: NDArray[np.bool_], wiring: Wiring) -> bool:
    """Whether any edge beats what was there at the nodes that have one."""
    data = wiring.constant(scatter.data)
    if data is None or data.ndim != len(scatter.shape):
        return False
    there = np.compress(has, data, scatter.axis)
    return bool((there == (-np.inf if scatter.reduction == "max" else np.inf)).all())


def _table(index: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The edges of each node `[nodes, most]`, and which nodes have any."""
    counts = np.bincount(index, minlength=size)
    by_node = np.argsort(index, kind="stable")
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    places = starts[:, None] + np.arange(counts.max()) % np.maximum(counts, 1)[:, None]
    return by_node[np.minimum(places, len(index) - 1)], counts > 0


def _over_table(
    scatter: _Scatter, table: NDArray[np.int64], name: str, *, wiring: Wiring
) -> list[onnx.NodeProto]:
    """Nodes that gather the edges of each node and reduce them."""
    value, table = _earlier(scatter, table, wiring)
    gathered, operator, axis = f"{name}.gathered", EXTREMES[scatter.reduction], scatter.axis
    places = wiring.store(f"{name}.edges", table)
    gather = helper.make_node("Gather", [value, places], [gathered], axis=axis)
    if wiring.opset < AXES_ARE_INPUTS:
        over = helper.make_node(operator, [gathered], [name], axes=[axis + 1], keepdims=0)
    else:
        axes = wiring.store(f"{name}.axes", np.array([axis + 1], np.int64))
        over = helper.make_node(operator, [gathered, axes], [name], keepdims=0)
    return [gather, over]


def _earlier(
    scatter: _Scatter, table: NDArray[np.int64], wiring: Wiring
) -> tuple[str, NDArray[np.int64]]:
    """What the edges were gathered from, with a table of places in it."""
    node = wiring.maker(scatter.updates)
    if node is None or node.op_type != "Gather":
        return scatter.updates, table
    sources, shape = wiring.constant(node.input[1]), wiring.shape(node.input[0])
    if sources is None or sources.ndim != 1 or shape is None:
        return scatter.updates, table
    is_along = int(attribute(node, "axis", 0)) % len(shape) == scatter.axis
    return (node.input[0], sources[table]) if is_along else (scatter.updates, table)
