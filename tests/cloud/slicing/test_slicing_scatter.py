"""Graphs without Scatter: they give what they gave, and TensorRT builds them."""

import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from aimass_cloud.slicing import engines, export, importing, scatter
from aimass_cloud.slicing.isolating import ORDER, SOURCE, Order
from aimass_cloud.slicing.scatter import left, without_scatter
from aimass_shared.slices import SliceSpec

NODES, EDGES, OTHERS, WIDE = 9, 30, 5, 4
Arrays = dict[str, NDArray[Any]]
Exported = tuple[onnx.ModelProto, onnx.ModelProto, Arrays, list[NDArray[Any]]]


class Convolutions(torch.nn.Module):
    """What PyTorch Geometric makes of a fixed graph: sums, means, maxima, softmax, two kinds."""

    edges: Tensor
    across: Tensor
    weight: Tensor

    def __init__(self) -> None:
        from torch_geometric import nn  # noqa: PLC0415  it is slow to import

        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.register_buffer("edges", torch.randint(0, NODES, (2, EDGES), generator=random))
        self.register_buffer("across", torch.randint(0, OTHERS, (2, EDGES), generator=random))
        self.layers = torch.nn.ModuleList(
            [
                nn.GatedGraphConv(WIDE, 2),
                nn.GCNConv(WIDE, WIDE),
                nn.SAGEConv(WIDE, WIDE),
                nn.SAGEConv(WIDE, WIDE, aggr="max"),
                nn.GATv2Conv(WIDE, WIDE, heads=2),
            ]
        )
        mean, across = nn.SAGEConv(WIDE, WIDE), nn.GraphConv(WIDE, WIDE)
        kinds = {("a", "to", "b"): mean, ("b", "of", "a"): across, ("b", "in", "b"): self.layers[1]}
        self.kinds = nn.HeteroConv(kinds)
        self.register_buffer("weight", torch.rand(EDGES, 1, generator=random))

    def forward(self, nodes: Any, others: Any, windows: Any) -> tuple[Any, ...]:  # noqa: ANN401  tensors
        back = self.across.flip(0)
        edges = {
            ("a", "to", "b"): self.across,
            ("b", "of", "a"): back,
            ("b", "in", "b"): self.edges,
        }
        added = windows[:, self.edges[0]] * self.weight
        return (
            *(layer(nodes, self.edges) for layer in self.layers),
            *self.kinds({"a": others, "b": nodes}, edges).values(),
            torch.zeros_like(windows).index_add(1, self.edges[1], added),
        )


@pytest.fixture(scope="module")
def exported() -> Exported:
    """The layers as torch exports them, folded, inputs, and what torch gives."""
    torch.manual_seed(0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of both packages, about their own next versions
        network = Convolutions().eval()
        shapes = ((NODES, WIDE), (OTHERS, WIDE), (3, NODES, WIDE))
        inputs, names = [torch.randn(*shape) for shape in shapes], ["nodes", "others", "windows"]
        expected = [tensor.numpy() for tensor in network(*inputs)]
        program = torch.onnx.export(
            network,
            tuple(inputs),
            input_names=names,
            opset_version=20,
            dynamic_shapes=(None, None, {0: torch.export.Dim("batch")}),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    before = export.worked_out(program.model_proto)
    return before, export.folded(program.model_proto), arrays, expected


def run(model: onnx.ModelProto, inputs: Arrays) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [np.asarray(array) for array in session.run(None, inputs)]


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def test_layers_of_pytorch_geometric_are_sums_without_scatter(
    exported: Exported,
) -> None:
    graph, plain, inputs, expected = exported
    onnx.checker.check_model(plain, full_check=True)
    assert operators(graph) & scatter.SCATTERS
    assert not operators(plain) & scatter.SCATTERS
    assert left(plain) == []
    for one in (graph, plain):
        for found, wanted in zip(run(one, inputs), expected, strict=True):
            assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())
    more = {**inputs, "windows": np.concatenate([inputs["windows"]] * 2)}
    assert np.array_equal(run(plain, more)[-1][3:], run(plain, inputs)[-1])


def test_tensorrt_builds_what_it_refused(
    exported: Exported,
) -> None:
    pytest.importorskip("tensorrt_rtx")
    before, after = engines.verdicts_of([graph.SerializeToString() for graph in exported[:2]])
    assert before.startswith("refused (Scatter")
    assert after == "builds"


def test_a_mean_over_neighbours_is_one_product_with_one_matrix() -> None:
    model = edge_sum(
        shape=(2, NODES, WIDE), axis=1, turn=(1, 0, 2), scale="both", reduction="add", zeros=True
    )
    plain = without_scatter(model)
    assert [node.op_type for node in plain.graph.node] == ["MatMul"]
    (matrix,) = plain.graph.initializer
    assert tuple(matrix.dims) == (NODES, NODES)


def edge_sum(  # noqa: PLR0913  what it is made of
    *,
    shape: tuple[int, ...],
    axis: int,
    turn: tuple[int, ...],
    scale: str,
    reduction: str,
    zeros: bool,
    opset: int = 20,
) -> onnx.ModelProto:
    """Gather, scale, transpose, scatter, transpose back, scale: what exporters make."""
    random = np.random.default_rng(len(shape) + axis)
    rank, edges = len(shape), EDGES
    source, target = random.integers(0, shape[axis], (2, edges))
    place, back = turn.index(axis), [turn.index(one) for one in range(rank)]
    turned = [edges if at == axis else size for at, size in enumerate(shape)]
    turned = [turned[one] for one in turn]
    spread = target.reshape([-1 if at == place else 1 for at in range(rank)])
    sums = [shape[one] for one in turn]
    data = np.zeros(sums) if zeros else random.normal(size=sums)

    def on(size: int) -> NDArray[np.float32]:
        values = random.uniform(0.5, 2, size).astype(np.float32)
        return values.reshape([-1 if at == axis else 1 for at in range(rank)])

    arrays = {
        "source": source,
        "target": np.broadcast_to(spread, turned).copy() - shape[axis],
        "data": data.astype(np.float32),
        "edge": on(edges) if scale in ("edges", "both") else np.ones(1, np.float32),
        "node": on(shape[axis]) if scale in ("nodes", "both") else np.ones(1, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["x", "source"], ["sent"], axis=axis),
        helper.make_node("Mul", ["edge", "sent"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["turned"], perm=turn),
        helper.make_node(
            "ScatterElements",
            ["data", "target", "turned"],
            ["reduced"],
            axis=place,
            reduction=reduction,
        ),
        helper.make_node("Transpose", ["reduced"], ["back"], perm=back),
        helper.make_node("Div", ["back", "node"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "edges",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_sum_or_extreme_over_a_constant_index_stays_what_it_is(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 4))
    shape = tuple(data.draw(st.integers(1, 6)) for _ in range(rank))
    model = edge_sum(
        shape=shape,
        axis=data.draw(st.integers(0, rank - 1)),
        turn=tuple(data.draw(st.permutations(range(rank)))),
        scale=data.draw(st.sampled_from(["none", "edges", "nodes", "both"])),
        reduction=data.draw(st.sampled_from(["add", "max", "min"])),
        zeros=data.draw(st.booleans()),
        opset=data.draw(st.sampled_from([17, 18, 20])),
    )
    plain = without_scatter(model)
    onnx.checker.check_model(plain, full_check=True)
    assert not operators(plain) & scatter.SCATTERS
    inputs = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    (expected,), (found,) = run(model, inputs), run(plain, inputs)
    assert np.abs(found - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


CASES = {
    "mul": "a reduction by mul has no other form",
    "input": "its index is no constant",
    "int64": "its numbers are int64",
    "differs": "its index of shape [3, 2] is more than one number an edge",
    "rows": "its index of shape [3, 2] is more than one number an edge",
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_replaced_stays_and_is_named(case: str) -> None:
    integer = TensorProto.INT64 if case == "int64" else TensorProto.FLOAT
    index = np.array([[0, 1], [1, 0], [2, 2]] if case in ("differs", "rows") else [[0, 0]] * 3)
    operator = "ScatterND" if case == "rows" else "ScatterElements"
    x = [3] if case == "rows" else [3, 2]
    inputs = [helper.make_tensor_value_info(name, integer, x) for name in ("x",)]
    inputs.append(helper.make_tensor_value_info("data", integer, [4, 3 if case == "rows" else 2]))
    stored = [numpy_helper.from_array(index, "index")]
    if case == "input":
        inputs.append(helper.make_tensor_value_info("index", TensorProto.INT64, [3, 2]))
        stored = []
    node = helper.make_node(
        operator, ["data", "index", "x"], ["y"], reduction="mul" if case == "mul" else "add"
    )
    outputs = [helper.make_tensor_value_info("y", integer, None)]
    graph = helper.make_graph([node], "one", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    assert left(model) == [f"{operator} y: {CASES[case]}"]
    assert without_scatter(model).graph.node[0] == node


def test_a_graph_too_large_for_a_matrix_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scatter, "MOST_NUMBERS", 100)
    model = edge_sum(
        shape=(NODES, WIDE), axis=0, turn=(0, 1), scale="none", reduction="add", zeros=True
    )
    assert left(model) == [
        "ScatterElements reduced: 30 edges to 9 nodes would be a table of 270 numbers"
    ]


def test_a_graph_that_contradicts_itself_is_left_alone() -> None:
    model = edge_sum(
        shape=(NODES, WIDE), axis=0, turn=(0, 1), scale="none", reduction="add", zeros=True
    )
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = NODES + 1
    model.graph.node[0].attribute[0].i = 7  # an axis that it has not
    assert without_scatter(model).graph.node


def test_a_model_without_scatter_is_given_back() -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", [], [])
    model = helper.make_model(graph)
    assert without_scatter(model) is model
    assert left(model) == []


def test_a_model_that_is_imported_has_none_either_and_says_which_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "SECONDS", 0.001)
    model = edge_sum(
        shape=(NODES, WIDE), axis=0, turn=(0, 1), scale="edges", reduction="add", zeros=True
    )
    last = model.graph.node[-1]
    last.output[0] = "means"
    product = helper.make_node(
        "ScatterElements", ["means", "target", "sent"], ["y"], name="products", reduction="mul"
    )
    model.graph.node.append(product)
    (tmp_path / SOURCE).mkdir()
    onnx.save_model(model, tmp_path / SOURCE / "model.onnx")
    (tmp_path / ORDER).write_bytes(msgspec.json.encode(Order(name="own", graph="model.onnx")))
    found = importing.imported(tmp_path, importing.Tell())
    assert found.metrics["scatters"] == [
        "ScatterElements products: a reduction by mul has no other form"
    ]
    (whole,) = (one for one in found.slices if one.spec == SliceSpec(1.0, "fp32"))
    kinds = [node.op_type for node in onnx.load_model(dict(whole.files)["model"]).graph.node]
    assert kinds.count("ScatterElements") == 1
    if engines.is_installed():
        assert whole.cost.tensorrt.startswith("refused (ScatterElements: ")
