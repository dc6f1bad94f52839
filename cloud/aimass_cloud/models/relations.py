"""The graph of a model as a product: nodes and edges that people and other programs can read.

Relations are constants of the model: `graph.NAME` `[N, N]`, where a row is the node that hears and
a column whom it hears, or `graph.NAME.index` and `graph.NAME.weight` `[N, k]` where that is too
large. Numpy alone, except for pictures and GraphML, which need the extra `train`.
"""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_cloud.models.trained import TrainedModel
from aimass_shared.errors import NotFoundError

PREFIX = "graph."
INDEX, WEIGHT = ".index", ".weight"
DENSE = 2
LABELLED = 80
SIZE_INCHES = 9.0

Constants = Mapping[str, NDArray[Any]]


class Node(msgspec.Struct, frozen=True):
    """A sensor, or the machine or line that sensors belong to."""

    name: str
    kind: str
    unit: str = ""
    label: str = ""
    entity: str = ""


class Edge(msgspec.Struct, frozen=True):
    """`target` hears `source` along a relation, with a weight of 0 to 1."""

    source: str
    target: str
    relation: str
    weight: float


class Graph(msgspec.Struct, frozen=True):
    """A model's graph."""

    model: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


class Change(msgspec.Struct, frozen=True):
    """How a graph moved between two looks at a training.

    Attributes:
        edges: it has now. kept: share of the edges before that are still there.
        moved: mean of what the weights into a node changed by; 2 is a node that heard others only.
    """

    edges: int
    kept: float
    moved: float


def graph_of(model: TrainedModel) -> Graph:
    """The graph of a model, strongest edges first.

    Raises:
        NotFoundError: its network has none.
    """
    relations = relations_of(model.constants)
    if not relations:
        raise NotFoundError(f"model {model.id} ({model.info.recipe}) has no graph")
    nodes = _nodes(model, len(next(iter(relations.values()))))
    edges = [edge for name, weights in relations.items() for edge in _edges(name, weights, nodes)]
    edges.sort(key=lambda edge: (-edge.weight, edge.relation, edge.target, edge.source))
    return Graph(model.id, nodes, tuple(edges))


def relations_of(constants: Constants) -> dict[str, NDArray[np.float32]]:
    """All relations as dense matrices `[N, N]`, by name."""
    found: dict[str, NDArray[np.float32]] = {}
    for name, array in constants.items():
        if name.startswith(PREFIX) and name.endswith(INDEX):
            relation = name.removeprefix(PREFIX).removesuffix(INDEX)
            found[relation] = _dense(array, constants[f"{PREFIX}{relation}{WEIGHT}"])
        elif name.startswith(PREFIX) and not name.endswith(WEIGHT) and array.ndim == DENSE:
            found[name.removeprefix(PREFIX)] = np.asarray(array, np.float32)
    return found


def change(before: Constants, after: Constants) -> Change | None:
    """How the relations of a network moved; nothing if it has none."""
    old, new = relations_of(before), relations_of(after)
    if not new:
        return None
    was, now = (np.stack([one[name] for name in sorted(new)]) for one in (old, new))
    had = int(np.count_nonzero(was))
    return Change(
        edges=int(np.count_nonzero(now)),
        kept=int(np.count_nonzero((was > 0) & (now > 0))) / max(1, had),
        moved=float(np.abs(now - was).sum(axis=2).mean()),
    )


def as_json(graph: Graph) -> bytes:
    """Nodes and edges as JSON."""
    return msgspec.json.encode(graph)


def as_graphml(graph: Graph) -> bytes:
    """GraphML, as Gephi, yEd and networkx read it: a directed graph, edges along the hearing."""
    import networkx as nx  # noqa: PLC0415  of the extra `train`

    buffer = io.BytesIO()
    nx.write_graphml(_networkx(graph), buffer)
    return buffer.getvalue()


def as_png(graph: Graph) -> bytes:
    """A picture: nodes by kind, edges as wide as their weight."""
    import networkx as nx  # noqa: PLC0415  of the extra `train`
    from matplotlib.figure import Figure  # noqa: PLC0415  of the extra `train`

    drawn = _networkx(graph)
    figure = Figure(figsize=(SIZE_INCHES, SIZE_INCHES), layout="constrained")
    axes = figure.add_subplot()
    places = nx.spring_layout(drawn, seed=1, weight="weight")
    widths = [2.5 * edge["weight"] for _, _, edge in drawn.edges(data=True)]
    nx.draw_networkx_edges(
        drawn, places, ax=axes, width=widths, alpha=0.35, arrowsize=6, node_size=90
    )
    for number, kind in enumerate(sorted({node.kind for node in graph.nodes})):
        own = [node.name for node in graph.nodes if node.kind == kind]
        colour = [f"C{number % 10}"]
        nx.draw_networkx_nodes(
            drawn, places, nodelist=own, node_color=colour, label=kind, node_size=90, ax=axes
        )
    if len(graph.nodes) <= LABELLED:
        nx.draw_networkx_labels(drawn, places, font_size=6, ax=axes)
    axes.set_title(f"{graph.model}: {len(graph.nodes)} nodes, {len(graph.edges)} edges")
    axes.legend(loc="lower left", fontsize=8)
    axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _networkx(graph: Graph) -> Any:  # noqa: ANN401  networkx has no types
    import networkx as nx  # noqa: PLC0415  of the extra `train`

    result = nx.MultiDiGraph(model=graph.model)
    for node in graph.nodes:
        about = {name: text for name, text in msgspec.to_builtins(node).items() if text}
        result.add_node(about.pop("name"), **about)
    for edge in graph.edges:
        result.add_edge(edge.source, edge.target, relation=edge.relation, weight=edge.weight)
    return result


def _nodes(model: TrainedModel, count: int) -> tuple[Node, ...]:
    sensors = [
        Node(one.name, one.kind, one.unit, one.label, one.entity)
        for one in model.info.contract.sensors
    ]
    entities = [Node(str(name), "entity") for name in model.info.config.get("entities", ())]
    nodes = (*sensors, *entities)
    if len(nodes) != count:
        raise NotFoundError(f"model {model.id} names {len(nodes)} nodes, its graph has {count}")
    return nodes


def _edges(relation: str, weights: NDArray[np.float32], nodes: tuple[Node, ...]) -> Iterator[Edge]:
    for target, source in np.argwhere(weights > 0):
        weight = round(float(weights[target, source]), 6)
        yield Edge(nodes[source].name, nodes[target].name, relation, weight)


def _dense(index: NDArray[Any], weight: NDArray[Any]) -> NDArray[np.float32]:
    dense = np.zeros((len(index), len(index)), np.float32)
    np.put_along_axis(dense, np.asarray(index, np.int64), np.asarray(weight, np.float32), axis=1)
    return dense
