"""Number formats of small graphs: they run, agree with float, build, and are chosen by measure."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser
from tests.engines import engine_bytes

from aimass_cloud.slicing.costs import Runner
from aimass_cloud.slicing.export import folded
from aimass_cloud.slicing.half import WAYS, Halves
from aimass_cloud.slicing.pareto import CLASSES, DeviceClass, Figures, able, beats, unbeaten
from aimass_cloud.slicing.quantize import FORMS, activations, dynamic, products, rounded
from aimass_cloud.slicing.ranges import METHODS, observed
from aimass_cloud.slicing.selftest import tolerances
from aimass_cloud.slicing.variants import Budget, Forms, deviation
from aimass_shared.slices import Precision, SliceSpec

Arrays = dict[str, NDArray[Any]]
SIDE, WIDE, CLASSES_OF_ALL, ROWS = 8, 16, 4, 64

GRAPHS: Final = {
    "filters": """
        filters (float[batch,1,8,8] image) => (float[batch,4] scores) {
            one = Conv<pads = [1,1,1,1]>(image, first, bias)
            active = Relu(one)
            two = Conv<pads = [1,1,1,1]>(active, second)
            three = Add(active, two)
            mean = ReduceMean<keepdims = 0>(three, axes)
            ready = Relu(mean)
            scores = MatMul(ready, last)
        }""",
    "attention": """
        attention (float[batch,8,16] values) => (float[batch,4] scores) {
            low = Add(values, place)
            normal = LayerNormalization<axis = -1>(low, gain)
            query = MatMul(normal, first)
            key = MatMul(normal, second)
            turned = Transpose<perm = [0,2,1]>(key)
            near = MatMul(query, turned)
            share = Softmax<axis = -1>(near)
            mixed = MatMul(share, low)
            wide = MatMul(mixed, third)
            active = Relu(wide)
            mean = ReduceMean<keepdims = 0>(active, axes)
            scores = MatMul(mean, last)
        }""",
    # The unit of a reading is thousands: half precision cannot tell neighbours apart.
    "plant": """
        plant (float[batch,16] values) => (float[batch,16] forecast, float[batch,1] score) {
            moved = Sub(values, offset)
            small = Div(moved, scale)
            one = MatMul(small, first)
            active = Tanh(one)
            two = MatMul(active, second)
            linear = MatMul(small, base)
            both = Add(linear, two)
            large = Mul(both, scale)
            forecast = Add(large, offset)
            far = Mul(linear, linear)
            score = ReduceSum<keepdims = 1>(far, last)
        }""",
}
SHAPES: Final[Mapping[str, Mapping[str, tuple[int, ...]]]] = {
    "filters": {
        "first": (WIDE, 1, 3, 3),
        "bias": (WIDE,),
        "second": (WIDE, WIDE, 3, 3),
        "last": (WIDE, 4),
    },
    "attention": {
        "place": (8, WIDE),
        "gain": (WIDE,),
        "first": (WIDE, WIDE),
        "second": (WIDE, WIDE),
        "third": (WIDE, 2 * WIDE),
        "last": (2 * WIDE, 4),
    },
    "plant": {"first": (16, WIDE), "second": (WIDE, 16), "base": (16, 16)},
}
INPUTS: Final = {"filters": (1, SIDE, SIDE), "attention": (8, WIDE), "plant": (16,)}
AXES: Final = {"filters": {"axes": [2, 3]}, "attention": {"axes": [1]}, "plant": {"last": [1]}}
KEPT = ("base",)


@cache
def graph_of(name: str) -> onnx.ModelProto:
    random = np.random.default_rng(len(name))
    graph = parser.parse_graph(GRAPHS[name])
    arrays: Arrays = {
        key: (random.normal(size=shape) / np.sqrt(float(np.prod(shape[1:])))).astype(np.float32)
        for key, shape in SHAPES[name].items()
    }
    arrays |= {key: np.array(value, np.int64) for key, value in AXES[name].items()}
    if name == "plant":
        arrays["offset"] = np.linspace(2000, 30_000, 16, dtype=np.float32)
        arrays["scale"] = np.full(16, 3.0, np.float32)
    graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())
    for number, node in enumerate(graph.node):
        node.name = f"node_{number}"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return folded(model)


@cache
def inputs_of(name: str, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    values = random.normal(size=(ROWS, *INPUTS[name])).astype(np.float32)
    if name == "plant":
        values = (values * 3 + np.linspace(2000, 30_000, 16)).astype(np.float32)
    return {graph_of(name).graph.input[0].name: values}


@cache
def forms_of(name: str, lost: float = 0.05) -> Forms:
    graph, inputs = graph_of(name), inputs_of(name)
    wanted = Runner(graph).run(inputs)
    return Forms(
        graph,
        inputs,
        kept=KEPT,
        measure=lambda outputs: deviation(outputs, wanted),
        budget=Budget(lost, share=0.0),
    )


def operators(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


@pytest.mark.parametrize("name", list(GRAPHS))
@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-trt", "int8-dyn"])
def test_every_number_format_runs_and_is_near_float(name: str, precision: Precision) -> None:
    best = forms_of(name).best(precision)
    assert best.form is not None, best.why
    onnx.checker.check_model(best.form.graph, full_check=True)
    fresh = inputs_of(name, seed=1)
    found, wanted = (Runner(graph).run(fresh) for graph in (best.form.graph, graph_of(name)))
    assert 0 < deviation(found, wanted) < (1e-4 if precision == "fp16" else 0.03)
    assert best.form.graph.graph.input == graph_of(name).graph.input
    assert best.form.graph.graph.output == graph_of(name).graph.output
    assert {entry.domain for entry in best.form.graph.opset_import} == {""}


@pytest.mark.parametrize("name", list(GRAPHS))
def test_int8_rounds_what_meets_a_weight_and_nothing_else(name: str) -> None:
    chosen = products(graph_of(name), KEPT)
    ends = observed(graph_of(name), inputs_of(name), activations(graph_of(name), chosen))
    for form in FORMS.values():
        graph = rounded(graph_of(name), ends.by("minmax"), chosen, form=form).graph
        kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
        zeros = {kinds[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}
        assert zeros == {TensorProto.INT8 if form.symmetric else TensorProto.UINT8}
        makers = {node.output[0]: node.op_type for node in graph.node}
        rounds = {
            node.name
            for node in graph.node
            if any(makers.get(each) == "DequantizeLinear" for each in node.input)
        } - {node.name for node in graph.node if node.op_type == "QuantizeLinear"}
        assert set(chosen) <= rounds
        others = {node.op_type for node in graph.node if node.name in rounds - set(chosen)}
        assert others <= {"Relu", "Add"}, "only what follows filters takes rounded values"


def test_onnx_runtime_joins_unsigned_products_into_whole_numbers(tmp_path: Path) -> None:
    import onnxruntime  # noqa: PLC0415  the only place that looks into its graphs

    joined = {"filters": "QLinearConv", "attention": "MatMulIntegerToFloat"}
    for name, operator in joined.items():
        form = forms_of(name).best("int8").form
        assert form is not None
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / name)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(
            form.graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = operators(onnx.load_model(tmp_path / name))
        assert operator in found
        assert "Conv" not in found


@pytest.mark.parametrize("name", list(GRAPHS))
@pytest.mark.parametrize("precision", ["fp16", "int8-trt"])
def test_tensorrt_builds_its_number_formats(
    name: str, precision: Precision, tmp_path: Path
) -> None:
    form = forms_of(name).best(precision).form
    assert form is not None
    onnx.save_model(form.graph, tmp_path / "model.onnx")
    assert engine_bytes(tmp_path / "model.onnx") > 0


def test_half_precision_keeps_what_is_large_or_wanted() -> None:
    halves = Halves(graph_of("plant"), inputs_of("plant"), KEPT)
    for way in WAYS:
        graph = halves.form(way).graph
        kept = {tensor.name for tensor in graph.initializer if tensor.data_type == 1}
        assert {"base", "offset"} <= kept, way
        found = Runner(halves.form(way)).run(inputs_of("plant"))
        wanted = Runner(graph_of("plant")).run(inputs_of("plant"))
        assert np.abs(found["forecast"] - wanted["forecast"]).max() < 0.05, way
    counts = [len(halves.chosen(way)) for way in WAYS]
    assert counts == sorted(counts, reverse=True)
    assert len(halves.chosen("products")) == 2


def test_ranges_hold_all_values_or_nearly() -> None:
    name = "attention"
    graph, inputs = graph_of(name), inputs_of(name)
    (first, *_) = activations(graph, products(graph, ()))
    ranges = observed(graph, inputs, [first])
    low, high = ranges.ends[first]
    for method in METHODS:
        for symmetric in (False, True):
            found = ranges.by(method, symmetric=symmetric)[first]
            assert found[0] <= 0 <= found[1]
            assert found[1] - found[0] <= 2 * max(-low, high) + 1e-6
            assert not symmetric or found[0] == -found[1]
    assert ranges.by("minmax")[first] == (low, high)


def test_dynamic_ranges_leave_filters_alone() -> None:
    chosen = products(graph_of("filters"), ())
    found = operators(dynamic(graph_of("filters"), chosen))
    assert found.count("Conv") == 2
    assert "ConvInteger" not in found
    assert found.count("MatMulInteger") == 1


@cache
def outlier(name: str = "attention") -> Forms:
    """One product has a wild row of weights, which takes all steps that the others need."""
    graph = onnx.ModelProto()
    graph.CopyFrom(graph_of(name))
    wild = next(tensor for tensor in graph.graph.initializer if tensor.name == "last")
    array = numpy_helper.to_array(wild).copy()
    array[0] *= 1e3
    wild.CopyFrom(numpy_helper.from_array(array, "last"))
    wanted = Runner(graph).run(inputs_of(name))

    def error(outputs: Arrays) -> float:
        return deviation(outputs, wanted)

    return Forms(graph, inputs_of(name), kept=(), measure=error, budget=Budget(6e-4, share=0.0))


def test_products_that_cost_most_are_left_in_float_until_the_loss_is_small() -> None:
    best = outlier().best("int8")
    assert best.form is not None
    assert best.form.error <= outlier().limit
    assert "in float" in best.form.name
    assert len(best.tried) <= 3 + 4
    counts = [operators(form.graph).count("DequantizeLinear") for form in best.tried]
    assert counts[-1] < counts[0]
    told = best.told("w1.00-int8")
    assert [one.taken for one in told] == [False] * (len(told) - 1) + [True]
    assert told[-1].why.startswith("in float: node_")


def test_a_format_that_loses_too_much_is_not_taken() -> None:
    graph, inputs = graph_of("attention"), inputs_of("attention")
    wanted = Runner(graph).run(inputs)
    strict = Forms(
        graph,
        inputs,
        kept=KEPT,
        measure=lambda outputs: float(deviation(outputs, wanted) > 0),
        budget=Budget(0.0, share=0.0),
    )
    for precision in ("fp16", "int8", "int8-trt", "int8-dyn"):
        best = strict.best(precision)
        assert best.form is None
        assert "the budget ends at" in best.why
        assert not any(one.taken for one in best.told(precision))
    assert strict.best("fp32").form is not None


def test_one_sample_of_a_share_is_no_loss_and_the_larger_allowance_counts() -> None:
    assert Budget().limit(1.0) == pytest.approx(1.02)
    assert Budget().limit(0.01) == pytest.approx(0.015)
    assert Budget().limit(0.01, grain=1 / 100) == pytest.approx(0.02)
    assert Budget(0.001, share=0.0).limit(0.5) == pytest.approx(0.501)


def test_tolerances_are_wider_where_arithmetic_differs_more() -> None:
    found = tolerances("fp32", 1e-6, 1e-3, classes=("cpu", "tensorrt"))
    assert found == {"cpu": 1e-4, "tensorrt": pytest.approx(4e-3)}
    assert tolerances("fp32", 1e-6, 1e-3, classes=("cpu",)) == {"cpu": 1e-4}
    assert tolerances("int8", 0.01, 0.01, classes=("cpu", "tensorrt")) == {"cpu": 0.04}
    half = tolerances("fp16", 1e-3, 1e-3, classes=("cpu", "tensorrt"))
    assert half["tensorrt"] >= half["cpu"] >= 1e-3


FORMATS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int8-trt", "int8-dyn")
Values = st.floats(0.01, 10.0)
FIGURES = st.builds(
    Figures,
    st.builds(SliceSpec, st.sampled_from([1.0, 0.5, 0.25]), st.sampled_from(FORMATS)),
    error=Values,
    ms=Values,
    memory_mib=Values,
    bytes=st.integers(1, 9),
    slack=st.just(0.1),
)
SETS = st.lists(FIGURES, max_size=15, unique_by=lambda one: one.spec)


@pytest.mark.parametrize("device", list(CLASSES))
@given(found=SETS)
def test_who_is_left_out_is_beaten_and_who_is_kept_is_needed(
    device: DeviceClass, found: list[Figures]
) -> None:
    kept, ones = unbeaten(found, device), able(found, device)
    assert len({one.spec for one in kept}) == len(kept)
    assert {one.spec.width for one in kept} == {one.spec.width for one in ones}
    widest = max((one.spec.width for one in ones), default=0.0)
    full = SliceSpec(widest, "fp32")
    assert (full in {one.spec for one in ones}) == (full in {one.spec for one in kept})
    for one in ones:
        if one not in kept:
            assert any(beats(other, one, device) for other in kept)
    for one in kept:
        alone = sum(other.spec.width == one.spec.width for other in kept) == 1
        better = [other for other in kept if other is not one and _is_better(other, one)]
        assert one.spec == full or alone or not better


def _is_better(first: Figures, second: Figures) -> bool:
    """In everything, by more than any tolerance; dynamic ranges come last of near equals."""
    return (
        first.spec.precision != "int8-dyn"
        and first.bytes < second.bytes
        and first.memory_mib < second.memory_mib
        and first.error + 0.1 < second.error
        and first.ms < second.ms
    )


@given(found=SETS, factors=st.lists(st.floats(0.1, 10), min_size=15, max_size=15))
def test_time_does_not_count_where_nobody_measured_it(
    found: list[Figures], factors: list[float]
) -> None:
    changed = [
        dataclasses.replace(one, ms=one.ms * factor)
        for one, factor in zip(found, factors, strict=False)
    ]
    kept, others = ({one.spec for one in unbeaten(ones, "tensorrt")} for ones in (found, changed))
    assert kept == others


def test_a_format_that_is_like_float_is_no_slice_of_its_own() -> None:
    def one(precision: Precision, size: int, ms: float, error: float = 0.2) -> Figures:
        return Figures(SliceSpec(1.0, precision), error, ms, 16.0, size, slack=0.01)

    whole = one("fp32", 1000, 1.0)
    slow, alike = one("int8", 990, 1.2), one("int8-dyn", 900, 0.5)
    assert unbeaten([whole, slow, alike], "cpu") == [whole]
    small = one("int8", 260, 1.2)
    assert unbeaten([whole, small], "cpu") == [whole, small]
    assert unbeaten([whole, small, one("int8-dyn", 262, 1.1)], "cpu") == [whole, small]
    quick = one("int8-dyn", 262, 0.9)
    assert unbeaten([whole, small, quick], "cpu") == [whole, quick]
    assert one("fp16", 500, 2.0) in unbeaten([whole, one("fp16", 500, 2.0)], "tensorrt")
