"""Scatter: layers of PyTorch Geometric over a fixed graph, as they are exported and as slices.

Both are folded and run in ONNX Runtime on one core; TensorRT is asked about both.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aimass_cloud.slicing import engines
from aimass_cloud.slicing.costs import Runner
from aimass_cloud.slicing.export import worked_out
from aimass_cloud.slicing.scatter import without_scatter
from aimass_cloud.slicing.templates import OPSET
from benchmarks.models.table import Row, at_least, at_most

NODES, EDGES, WIDE, BATCH, RUNS = 64, 512, 64, 48, 300
ERROR_BAR: Final = 1e-5


def measure(quick: bool) -> list[Row]:  # noqa: FBT001  the only question that benchmarks are asked
    """Error against torch, times before and after, and how many TensorRT builds."""
    names = list(LAYERS)[: 2 if quick else None]
    found = [_measured(name) for name in names]
    built = sum(row.value for rows in found for row in rows if row.measure == "TensorRT builds")
    total = at_least(Row("scatter", "all layers", "TensorRT builds", built), len(names))
    return [*(row for rows in found for row in rows), total]


class _Layer(nn.Module):
    """A layer over a graph that is a constant."""

    def __init__(self, layer: nn.Module, edges: Tensor) -> None:
        super().__init__()
        self.layer, self.edges = layer, nn.Buffer(edges)

    def forward(self, nodes: Tensor) -> Tensor:
        answer: Tensor = self.layer(nodes, self.edges)
        return answer


class _Added(nn.Module):
    """`index_add` of torch, for windows of nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(WIDE, WIDE)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        return torch.zeros_like(nodes).index_add(1, edges[1], self.map(nodes)[:, edges[0]])


def _conv(name: str, **options: Any) -> Callable[[], nn.Module]:  # noqa: ANN401  of the layer
    def made() -> nn.Module:
        from torch_geometric import nn as layers  # noqa: PLC0415  it is slow to import

        layer: nn.Module = getattr(layers, name)(WIDE, **options)
        return layer

    return made


LAYERS: Final = {
    "GatedGraphConv": _conv("GatedGraphConv", num_layers=2),
    "GCNConv": _conv("GCNConv", out_channels=WIDE),
    "SAGEConv mean": _conv("SAGEConv", out_channels=WIDE),
    "SAGEConv max": _conv("SAGEConv", out_channels=WIDE, aggr="max"),
    "GATv2Conv": _conv("GATv2Conv", out_channels=WIDE),
    f"index_add, {BATCH} windows": _Added,
}


def _measured(name: str) -> list[Row]:
    torch.manual_seed(0)
    shape = (BATCH, NODES, WIDE) if "windows" in name else (NODES, WIDE)
    nodes, edges = torch.randn(shape), torch.randint(0, NODES, (2, EDGES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of both packages, about their own next versions
        layer = _Layer(LAYERS[name](), edges).eval()
        with torch.no_grad():
            expected = layer(nodes).numpy()
        before, after = _graphs(layer, nodes)
    given = {"nodes": nodes.numpy()}
    errors, times = zip(*(_run(graph, given, expected) for graph in (before, after)), strict=True)
    told = engines.verdicts_of([graph.SerializeToString() for graph in (before, after)])
    return [
        at_most(Row("scatter", name, "error against torch", errors[1]), ERROR_BAR),
        Row("scatter", name, "us as exported", times[0]),
        Row("scatter", name, "us as a slice", times[1]),
        Row("scatter", name, "times faster", times[0] / times[1]),
        Row("scatter", name, "TensorRT builds as exported", float(told[0] == "builds")),
        Row("scatter", name, "TensorRT builds", float(told[1] == "builds")),
    ]


def _graphs(layer: nn.Module, nodes: Tensor) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Folded as exported, and without Scatter."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        layer, (nodes,), input_names=["nodes"], opset_version=OPSET, dynamo=True, verbose=False
    )
    if program is None:
        raise TypeError("torch exported to a file instead of a program")
    before = worked_out(program.model_proto)
    return before, without_scatter(before)


def _run(
    graph: onnx.ModelProto, given: dict[str, NDArray[Any]], expected: NDArray[Any]
) -> tuple[float, float]:
    """Largest error, and the fastest run in microseconds."""
    runner = Runner(graph)
    (found,) = runner.run(given).values()
    return float(np.abs(found - expected).max()), 1e3 * runner.fastest_ms(given, RUNS)
