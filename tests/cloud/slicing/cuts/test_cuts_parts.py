"""Head and tail: together the whole, each alone a valid model, and refused where they cannot be."""

import contextlib
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser
from tests import graphs

from aimass_cloud.slicing.cuts import (
    HALF_TOLERANCE,
    TOLERANCE,
    Agreement,
    Cut,
    Reference,
    cuts_of,
    demand,
    read,
    split,
    tolerance_of,
    whole,
)
from aimass_cloud.slicing.cuts.files import save
from aimass_shared.errors import (
    AimassError,
    ModelLoadFailedError,
    NotFoundError,
    SelfTestFailedError,
    UncuttableModelError,
)

CLOSE = 1e-5


@pytest.mark.parametrize("name", graphs.GRAPHS)
def test_head_and_tail_of_every_cut_are_the_whole(name: str) -> None:
    given = whole(graphs.GRAPHS[name]())
    cuts = cuts_of(given, sizes={"sequence": 5})
    assert cuts.complete
    assert cuts.cuts
    reference = Reference(given, sizes={"batch": 3, "sequence": 5})
    for cut in cuts.cuts:
        found = reference.agreement(*split(given, cut))
        assert found.max_abs_error <= (1e-3 if name == "half precision" else CLOSE), cut.id


def test_ids_are_readable_unique_and_the_same_for_other_weights() -> None:
    first = cuts_of(whole(graphs.resnet())).cuts
    model = graphs.resnet()
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            doubled = numpy_helper.from_array(2 * numpy_helper.to_array(tensor), tensor.name)
            tensor.CopyFrom(doubled)
    assert [cut.id for cut in cuts_of(whole(model)).cuts] == [cut.id for cut in first]
    assert len({cut.id for cut in first}) == len(first)
    assert first[2].id.startswith("cut-relu_2-")
    assert all(set(cut.id) <= {*"abcdefghijklmnopqrstuvwxyz0123456789_-"} for cut in first)


def test_what_crosses_has_type_shape_and_bytes_of_one_sample() -> None:
    cuts = cuts_of(whole(graphs.mobilenet()))
    (cut,) = [one for one in cuts.cuts if one.names == ("clip_2",)]
    assert cut.crossing[0].dtype == "float32"
    assert cut.crossing[0].shape == ("batch", 8, 8, 8)
    assert cut.bytes_per_sample == 8 * 8 * 8 * 4
    assert cuts.input_bytes == 3 * 16 * 16 * 4
    assert cut.splits == ()


def test_bytes_that_depend_on_an_axis_are_known_when_its_size_is() -> None:
    given = whole(graphs.transformer())
    assert cuts_of(given).unsized == ("sequence",)
    assert cuts_of(given).cuts[1].bytes_per_sample is None
    sized = cuts_of(given, sizes={"sequence": 10})
    assert sized.unsized == ()
    assert all(cut.bytes_per_sample for cut in sized.cuts)
    assert sized.input_bytes == 10 * 16 * 4


def test_rows_that_depend_on_the_data_are_seen_in_a_run() -> None:
    cuts = cuts_of(whole(graphs.picked())).cuts
    crossing = {one.name: one for cut in cuts for one in cut.crossing}
    assert crossing["nonzero_4"].dtype == "int64"
    assert crossing["greater_3"].dtype == "bool"
    assert all(one.bytes_per_sample is not None for one in crossing.values())


def test_types_that_normal_numbers_cannot_show_are_seen_with_inputs_of_the_model() -> None:
    b = graphs.Builder()
    x, shape = b.input("x", ["batch", "wide"]), b.input("shape", [None], graphs.INT64)
    shape = b.op("Add", shape, b.whole(10))
    y = b.op("Relu", b.op("Reshape", b.op("Tanh", x), shape))
    given = whole(b.model((y, ["batch", 2, 3])))
    assert any("reshape_2" in one for one in cuts_of(given).refused)
    inputs = {"x": np.ones((4, 6), np.float32), "shape": np.array([-11, -8, -7])}
    cuts = cuts_of(given, inputs=inputs)
    assert (cuts.refused, cuts.unsized) == ((), ())
    cut = cuts.find("reshape_2")
    assert cut.bytes_per_sample == 2 * 3 * 4
    head, tail = split(given, cut, inputs=inputs)
    assert Reference(given, inputs).agreement(head, tail).identical
    with pytest.raises(UncuttableModelError, match="choose another cut"):
        split(given, cut)


def test_inputs_that_the_tail_needs_cross_and_outputs_of_the_head_are_early() -> None:
    given = whole(graphs.late_input())
    cuts = cuts_of(given)
    cut = cuts.find("mask,relu_4")
    assert cuts.find(",".join(reversed(cut.names))) == cut
    assert cut.early == ("reducemean_3",)
    head, tail = split(given, cut)
    assert (head.inputs, head.outputs) == (["values"], ["relu_4", "reducemean_3"])
    assert tail.inputs == ["mask", "relu_4"]
    assert split(given, cuts.cuts[-1])[0].inputs == ["mask", "values"]


def test_an_output_that_the_head_gives_is_not_given_twice() -> None:
    b = graphs.Builder()
    hidden = b.op("Tanh", b.input("x", ["batch", 4]))
    model = b.model((hidden, ["batch", 4]), (b.op("Relu", hidden), ["batch", 4]))
    given = whole(model)
    (cut,) = cuts_of(given).cuts
    assert cut.early == cut.names == ("tanh_0",)
    head, tail = split(given, cut)
    assert (head.outputs, tail.outputs) == (["tanh_0"], ["relu_1"])
    assert Reference(given).agreement(head, tail).identical


def test_a_part_holds_what_it_uses_and_says_what_it_is_of() -> None:
    given = whole(graphs.mobilenet())
    cut = cuts_of(given).find("clip_2")
    head, tail = split(given, cut)
    stored = [{one.name for one in part.model.graph.initializer} for part in (head, tail)]
    used = [
        {name for node in part.model.graph.node for name in node.input} for part in (head, tail)
    ]
    assert stored[0] <= used[0]
    assert stored[1] <= used[1]
    assert stored[0] & stored[1] == {"w0", "w1"}, "the limits of Clip belong to both"
    labels = {one.key: one.value for one in head.model.metadata_props}
    assert labels["aimass.part"] == "head"
    assert labels["aimass.cut"] == cut.id
    assert labels["aimass.whole"] == given.digest
    assert msgspec.json.decode(labels["aimass.crossing"]) == ["clip_2"]
    assert head.model.SerializeToString() == split(given, cut)[0].model.SerializeToString()


def test_stored_tensors_that_old_files_list_as_inputs_are_none(tmp_path: Path) -> None:
    path = tmp_path / "old.onnx"
    onnx.save_model(graphs.old(), path)
    given = read(path)
    cut = cuts_of(given).cuts[1]
    head, tail = split(given, cut)
    assert head.inputs == ["image"]
    assert tail.inputs == list(cut.names)
    assert head.model.ir_version == 4


def test_weights_in_a_file_beside_are_read_for_the_part_that_uses_them(tmp_path: Path) -> None:
    path = graphs.with_files(graphs.resnet(), tmp_path / "resnet.onnx")
    given = read(path)
    assert not any(tensor.raw_data for tensor in given.model.graph.initializer)
    reference = Reference(given)
    cuts = cuts_of(given)
    assert [cut.id for cut in cuts.cuts] == [cut.id for cut in cuts_of(whole(graphs.resnet())).cuts]
    head, tail = split(given, cuts.cuts[len(cuts.cuts) // 2])
    assert reference.agreement(head, tail).max_abs_error <= CLOSE
    (one,) = head.save(tmp_path / "out" / "head.onnx")
    assert all(tensor.raw_data for tensor in onnx.load_model(one).graph.initializer)
    assert sorted(file.name for file in one.parent.iterdir()) == ["head.onnx"]


def test_weights_over_the_limit_of_a_file_go_beside_it(tmp_path: Path) -> None:
    model = graphs.resnet()
    file, weights = save(model, None, tmp_path / "tail.onnx", most_inside=1000)
    save(model, None, file, most_inside=1000)  # again: nothing is appended
    assert weights.name == "tail.onnx.data"
    assert weights.stat().st_size < 2 * sum(
        numpy_helper.to_array(one).nbytes for one in model.graph.initializer
    )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    image = np.ones((1, 3, 16, 16), np.float32)
    expected = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, {"image": image})
    assert np.array_equal(session.run(None, {"image": image})[0], expected[0])
    onnx.checker.check_model(str(file), full_check=True)


def test_lists_of_tensors_do_not_cross_and_are_named() -> None:
    cuts = cuts_of(whole(graphs.GRAPHS["sequence"]()))
    assert cuts.refused == ("tensor 'both' is a sequence, which does not travel",)
    assert not any("both" in cut.names for cut in cuts.cuts)


def test_random_numbers_are_refused_by_name() -> None:
    b = graphs.Builder()
    x = b.input("x", [2])
    noise = b.op("RandomNormalLike", x)
    model = b.model((b.op("Add", b.op("Relu", x), noise), [2]))
    with pytest.raises(UncuttableModelError, match="RandomNormalLike"):
        whole(model)


def test_dropout_in_training_is_refused() -> None:
    b = graphs.Builder()
    x = b.op("Relu", b.input("x", [2]))
    on = b.constant(np.array(1), np.bool_)
    model = b.model((b.op("Dropout", x, b.constant(0.5), on), [2]))
    with pytest.raises(UncuttableModelError, match="Dropout"):
        whole(model)


@pytest.mark.parametrize("opset", [6, 99])
def test_opsets_that_nothing_runs_are_refused(opset: int) -> None:
    model = graphs.resnet()
    model.opset_import[0].version = opset
    with pytest.raises((UncuttableModelError, ModelLoadFailedError), match=f"(?i)opset.*{opset}"):
        whole(model)


def test_inputs_without_a_rank_are_not_valid() -> None:
    b = graphs.Builder()
    model = b.model((b.op("Relu", b.op("Tanh", b.input("x", ["batch"]))), ["batch"]))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", graphs.FLOAT, None))
    with pytest.raises(ModelLoadFailedError, match="shape"):
        whole(model)


def test_one_node_is_not_cut() -> None:
    b = graphs.Builder()
    model = b.model((b.op("Relu", b.input("x", [2])), [2]))
    with pytest.raises(UncuttableModelError, match="nothing to cut"):
        cuts_of(whole(model))


def test_functions_that_call_themselves_are_refused_by_name() -> None:
    text = graphs.FUNCTIONS.replace("s = Sigmoid (a)", "s = plant.Swish (a)").replace(
        'opset_import: ["" : 17]>\nSwish', 'opset_import: ["" : 17, "plant" : 1]>\nSwish'
    )
    with pytest.raises((UncuttableModelError, ModelLoadFailedError), match="Swish"):
        whole(parser.parse_model(text))


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelLoadFailedError, match="cannot be read"):
        read(path)
    for content in (b"", b"not a model", graphs.resnet().SerializeToString()[:-100]):
        path.write_bytes(content)
        with pytest.raises(ModelLoadFailedError, match=r"model\.onnx"):
            read(path)


@given(st.sampled_from(["if", "functions", "gru"]), st.data())
@settings(max_examples=60, derandomize=True)  # ONNX Runtime itself may end at other bytes
def test_altered_files_work_or_are_refused(name: str, data: st.DataObject) -> None:
    content = bytearray(graphs.GRAPHS[name]().SerializeToString())
    for _ in range(2):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with TemporaryDirectory() as folder, contextlib.suppress(AimassError):
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        model = read(path)
        reference = Reference(model)
        for cut in cuts_of(model, most_cuts=20).cuts[:2]:
            assert reference.agreement(*split(model, cut)).outputs


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    path = graphs.with_files(graphs.resnet(), tmp_path / "resnet.onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelLoadFailedError, match=r"weights\.bin"):
        read(path)


def test_operators_that_the_runtime_lacks_are_said() -> None:
    b = graphs.Builder()
    x = b.op("Relu", b.input("x", [2]))
    model = b.model((b.op("Relu", x), [2]))
    model.graph.node[1].domain, model.graph.node[1].op_type = "plant", "Torque"
    model.opset_import.append(helper.make_opsetid("plant", 1))
    given = whole(model)
    assert cuts_of(given).cuts
    with pytest.raises(ModelLoadFailedError, match="Torque"):
        Reference(given)


def test_a_cut_of_another_model_is_refused() -> None:
    cut = cuts_of(whole(graphs.gru())).cuts[0]
    with pytest.raises(NotFoundError):
        split(whole(graphs.resnet()), cut)
    with pytest.raises(NotFoundError, match="did you mean cut-relu_2-"):
        cuts_of(whole(graphs.resnet())).find("cut-relu_2-00000000")


def test_parts_that_are_not_the_whole_are_refused() -> None:
    given = whole(graphs.mobilenet())
    cut = cuts_of(given).find("clip_2")
    head, tail = split(given, cut)
    for tensor in tail.model.graph.initializer:
        if tensor.name == "w26" or tensor.dims == [5]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    found = Reference(given).agreement(head, tail)
    assert found.max_abs_error > 0.5
    assert not found.identical
    with pytest.raises(SelfTestFailedError, match="differ from the whole"):
        demand(found, cut.id)


def test_half_precision_may_differ_by_more() -> None:
    assert tolerance_of(whole(graphs.half())) == HALF_TOLERANCE
    assert tolerance_of(whole(graphs.resnet())) == TOLERANCE


def test_infinities_and_shapes_must_agree() -> None:
    b = graphs.Builder()
    x = b.input("x", [3])
    model = b.model((b.op("Log", b.op("Sub", x, b.constant(1.0))), [3]))
    given = whole(model)
    head, tail = split(given, cuts_of(given).cuts[0])
    inputs = {"x": np.array([1, 0, 2], np.float32)}
    found = Reference(given, inputs).agreement(head, tail)
    assert found == Agreement(0.0, 0.0, identical=True, outputs={"log_1": 0.0})
    del head.model.graph.initializer[0].dims[:]
    value = numpy_helper.from_array(np.array(2, np.float32), head.model.graph.initializer[0].name)
    head.model.graph.initializer[0].CopyFrom(value)
    assert Reference(given, inputs).agreement(head, tail).max_abs_error == np.inf


def test_a_cut_survives_json() -> None:
    cut = cuts_of(whole(graphs.yolo())).cuts[3]
    assert msgspec.json.decode(msgspec.json.encode(cut), type=Cut) == cut


def test_no_torch_is_needed() -> None:
    code = "import sys, aimass_cloud.slicing.cuts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
