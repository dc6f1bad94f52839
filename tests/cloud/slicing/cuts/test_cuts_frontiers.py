"""Which cuts there are: all of them, no other, and fewer where a limit says so."""

import itertools

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests import graphs

from aimass_cloud.slicing.cuts.dag import Dag, indices
from aimass_cloud.slicing.cuts.frontiers import frontiers
from aimass_cloud.slicing.cuts.fusions import regions, split_by


@st.composite
def small_graphs(draw: st.DrawFn) -> onnx.GraphProto:
    """Up to eight nodes with up to two inputs each, of whatever came before, and two inputs."""
    names = ["x", "y"]
    nodes = []
    for number in range(draw(st.integers(2, 8))):
        taken = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2))
        nodes.append(helper.make_node("Sum", taken, [f"t{number}"]))
        names.append(f"t{number}")
    ends = draw(st.lists(st.sampled_from(names[2:]), min_size=1, max_size=2, unique=True))

    def values(names: list[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in names]

    return helper.make_graph(nodes, "graph", values(["x", "y"]), values(ends))


def by_trial(dag: Dag, most: int) -> dict[int, int]:
    """Every set of nodes, tried: what crosses, and the smallest head where just that does."""
    found: dict[int, int] = {}
    for size in range(len(dag.nodes)):
        for members in itertools.combinations(range(len(dag.nodes)), size):
            head = sum(1 << member for member in members)
            if not any(dag.ancestors[member] & ~head for member in members):
                found.setdefault(dag.crossing(head), head)
    return {one: head for one, head in found.items() if head and one.bit_count() <= most}


@given(small_graphs(), st.integers(1, 3))
def test_all_cuts_are_found_and_nothing_else(graph: onnx.GraphProto, most: int) -> None:
    dag = Dag(graph)
    found = frontiers(dag, most, 10_000)
    assert found.incomplete is None
    assert len(found.crossings) == len(set(found.crossings))
    assert {one: dag.head(one) for one in found.crossings} == by_trial(dag, most)


def test_those_of_few_tensors_come_first_and_a_limit_says_what_is_missing() -> None:
    dag = Dag(graphs.transformer().graph)
    everything = frontiers(dag, 3, 10_000)
    counts = [one.bit_count() for one in everything.crossings]
    assert counts == sorted(counts)
    assert set(counts) == {1, 2, 3}
    some = frontiers(dag, 3, counts.count(1) + 2)
    assert some.crossings == everything.crossings[: counts.count(1) + 2]
    assert some.incomplete == 2
    assert frontiers(dag, 3, 10_000, steps=10).incomplete == 1


def test_a_graph_of_many_branches_ends_in_time() -> None:
    b = graphs.Builder()
    x = b.input("x", [1])
    ends = []
    for _ in range(60):
        y = x
        for _ in range(6):
            y = b.op("Relu", y)
        ends.append(y)
    model = b.model((b.op("Relu", b.op("Sum", *ends)), [1]))
    found = frontiers(Dag(model.graph), 3, 100, steps=50_000)
    assert len(found.crossings) > 0
    assert found.incomplete in (None, 2, 3)


def test_what_no_input_changes_and_no_output_needs_is_not_cut() -> None:
    b = graphs.Builder()
    x = b.input("x", [1])
    table = b.op("Exp", b.constant([1.0]))
    y = b.op("Add", b.op("Relu", x), table)
    b.op("Sin", y)
    dag = Dag(b.model((y, [1])).graph)
    assert [node.op_type for node in dag.nodes] == ["Relu", "Add"]
    assert [node.op_type for node in dag.constant] == ["Exp"]


def test_a_value_that_a_branch_takes_from_around_it_is_an_input_of_the_node() -> None:
    dag = Dag(graphs.GRAPHS["if"]().graph)
    (branch,) = [index for index, node in enumerate(dag.nodes) if node.op_type == "If"]
    assert dag.named(dag.uses[branch]) == ["h", "g", "high"]


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        (
            "mobilenet",
            {"Conv+BatchNormalization", "BatchNormalization+Clip", "BatchNormalization+Add"},
        ),
        ("transformer", {"MatMul+Add", "Add+Gelu"}),
        ("transformer in steps", {"MatMul+Add", "Gelu in steps", "LayerNormalization in steps"}),
        ("yolo", {"Sigmoid+Mul"}),
        ("quantized", {"Conv+Relu", "DequantizeLinear+Conv"}),
    ],
)
def test_cuts_through_what_a_runtime_joins_are_marked(name: str, marks: set[str]) -> None:
    dag = Dag(graphs.GRAPHS[name]().graph)
    joined = regions(dag)
    heads = [dag.head(one) for one in frontiers(dag, 3, 1000).crossings]
    found = [split_by(head, joined) for head in heads]
    assert set(itertools.chain(*found)) == marks
    assert () in found


def test_attention_is_one_thing() -> None:
    dag = Dag(graphs.transformer(layers=1).graph)
    (nodes,) = [nodes for name, nodes in regions(dag) if name == "attention"]
    assert [dag.nodes[index].op_type for index in indices(nodes)] == [
        *("MatMul", "Div", "Softmax", "MatMul")
    ]
