"""Slices of a small model, made and run for real: right, standard, tested, and made only once."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from tests.engines import engine_bytes

from aimass_cloud import recipes
from aimass_cloud.models.network import LocalLoss, tensors
from aimass_cloud.models.samples import Part
from aimass_cloud.models.sensors import SensorNetwork
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.models.windows import cut
from aimass_cloud.recipes import tep
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.slicing import (
    completing,
    contract_of,
    engines,
    make_slices,
    prepare,
    selftest,
    sliced,
)
from aimass_cloud.slicing.export import filled
from aimass_cloud.slicing.pareto import CLASSES, DeviceClass
from aimass_cloud.slicing.preparing import beside
from aimass_cloud.slicing.quantize import products
from aimass_cloud.slicing.templates import OPSET, network_of
from aimass_cloud.slicing.variants import Variant
from aimass_cloud.training import RunSettings, train, with_weights
from aimass_shared.errors import (
    ConflictError,
    ModelLoadFailedError,
    NotFoundError,
    SelfTestFailedError,
)
from aimass_shared.manifest import SliceArtifact
from aimass_shared.planning.profiles import Candidate, ProfileSet, decode
from aimass_shared.slices import SliceSpec

SPECS = (
    *(SliceSpec(1.0, "fp32"), SliceSpec(1.0, "int8"), SliceSpec(0.5, "int8")),
    *(SliceSpec(1.0, "int8-trt"), SliceSpec(1.0, "fp16")),
)
RUN = RunSettings(steps=60, check=20, widths=(1.0, 0.5), options={"hidden": 8, "steps": 1})
KEPT_FLOAT = SensorNetwork.KEPT_FLOAT
CORES = len(os.sched_getaffinity(0))
DATA = tep.load()
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return train("sensor-graph", RUN)


@pytest.fixture(scope="module")
def folder(model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the exported graphs: one kind from here, one from a process beside."""
    directory = tmp_path_factory.mktemp("slices")
    with beside(model, directory, "step") as wait:
        prepare("sensor-graph", directory, RUN, kinds=["forward"])
        wait()
    assert CORES == 1 or len(_templates(directory)) == 4
    prepare("sensor-graph", directory, RUN)
    return directory


@pytest.fixture(scope="module")
def slices(model: TrainedModel, folder: Path) -> dict[str, SliceArtifact]:
    before = _templates(folder)
    made = make_slices(model, folder / "first", specs=SPECS, reuse=folder)
    assert _templates(folder) == before, "what was prepared did not fit the model"
    return {artifact.spec.name: artifact for artifact in made}


def _templates(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "templates").iterdir()}


def _path(artifact: SliceArtifact, role: str) -> str:
    return next(path for name, path in artifact.files if name == role)


def _run(path: str, feeds: Arrays) -> Arrays:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _torch(model: TrainedModel, width: float, values: NDArray[np.float32]) -> Arrays:
    part = Part({"values": values, "mask": np.ones_like(values)}, {})
    return outputs_of(recipes.find(model.info.recipe), model, part, width=width)


@pytest.mark.parametrize("count", [1, 3])
def test_the_float_file_computes_what_torch_computes_for_any_number_of_windows(
    model: TrainedModel, slices: dict[str, SliceArtifact], count: int
) -> None:
    values = cut(DATA.test, 16)[:count]
    outputs = _run(
        _path(slices["w1.00-fp32"], "model"), {"values": values, "mask": np.ones_like(values)}
    )
    for name, expected in _torch(model, 1.0, values).items():
        assert outputs[name].shape == expected.shape
        assert np.allclose(outputs[name], expected, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize(
    ("name", "width"), [("w1.00-int8", 1.0), ("w0.50-int8", 0.5), ("w1.00-int8-trt", 1.0)]
)
def test_an_int8_file_forecasts_as_well_and_scores_the_same(
    model: TrainedModel, slices: dict[str, SliceArtifact], name: str, width: float
) -> None:
    values = cut(DATA.test, 16)[:50]
    outputs = _run(_path(slices[name], "model"), {"values": values, "mask": np.ones_like(values)})
    expected = _torch(model, width, values)
    assert np.allclose(outputs["score"], expected["score"], rtol=1e-4)
    assert np.allclose(outputs["contribution"], expected["contribution"], rtol=1e-3, atol=1e-4)
    difference = (outputs["forecast"] - expected["forecast"]) / DATA.train.std(axis=0)
    assert 0 < np.abs(difference).max() < 0.2


def test_the_files_keep_to_the_contract(
    model: TrainedModel, slices: dict[str, SliceArtifact]
) -> None:
    contract = contract_of(model)
    for artifact in slices.values():
        graph = onnx.load_model(_path(artifact, "model"))
        onnx.checker.check_model(graph)
        for values, specs in (
            (graph.graph.input, contract.inputs),
            (graph.graph.output, contract.outputs),
        ):
            shapes = [
                (value.name, tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim))
                for value in values
            ]
            assert shapes == [(spec.name, spec.shape) for spec in specs]


def test_the_files_use_standard_operators_of_one_version(
    slices: dict[str, SliceArtifact],
) -> None:
    for artifact in slices.values():
        for role in ("model", "train"):
            graph = onnx.load_model(_path(artifact, role))
            assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
            assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", OPSET)]
            # ONNX Runtime 1.23, the last for Python 3.10, reads IR versions up to 11.
            assert graph.ir_version <= 11
            text = str(graph)
            assert "Einsum" not in text
            assert str(Path(__file__).parents[3]) not in text
            assert ".py" not in text


@pytest.mark.parametrize(
    ("name", "kind"), [("w1.00-int8", np.uint8), ("w1.00-int8-trt", np.int8)], ids=["u8", "s8"]
)
def test_activations_are_unsigned_for_processors_and_symmetric_for_tensorrt(
    slices: dict[str, SliceArtifact], name: str, kind: type[np.generic]
) -> None:
    graph = onnx.load_model(_path(slices[name], "model")).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    rounded = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    back = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert len(rounded) > 3
    assert {stored[node.input[2]].dtype.type for node in rounded} == {kind}
    weights = [stored[node.input[0]] for node in back if node.input[0] in stored]
    assert {array.dtype.type for array in weights} == {np.int8}, "no bias is rounded"
    # Two products of 8 and 7 bits fit into 16 bits, which processors without VNNI add them in.
    assert max(int(np.abs(array.astype(int)).max()) for array in weights) <= (
        64 if kind is np.uint8 else 127
    )
    if kind is np.int8:
        assert not any(stored[node.input[2]].any() for node in (*rounded, *back))


def test_only_products_of_the_forecaster_are_quantised(slices: dict[str, SliceArtifact]) -> None:
    graph = onnx.load_model(_path(slices["w1.00-fp32"], "model"))
    chosen = set(products(graph, KEPT_FLOAT))
    inputs = {name for node in graph.graph.node if node.name in chosen for name in node.input}
    # One for each of 3 kinds, 2 relations, 2 sides of the cell and 2 read-outs.
    assert len(chosen) == 9
    assert "forecaster.encoder.maps.0" in inputs
    # ONNX Runtime 1.23 refuses to run products with int8 weights of more than two axes.
    assert "forecaster.head.hold_changes" not in inputs
    assert not any(name.startswith(KEPT_FLOAT) for name in inputs)


def test_the_self_test_vectors_come_out_again(slices: dict[str, SliceArtifact]) -> None:
    for artifact in slices.values():
        with np.load(_path(artifact, "selftest"), allow_pickle=False) as vectors:
            arrays = dict(vectors.items())
        feeds = {name[3:]: array for name, array in arrays.items() if name.startswith("in.")}
        assert 0 < feeds["mask"].mean() < 1
        outputs = _run(_path(artifact, "model"), feeds)
        assert outputs.keys() == {name[4:] for name in arrays if name.startswith("out.")}
        for name, output in outputs.items():
            expected = arrays[f"out.{name}"]
            assert np.abs(output - expected).max() <= artifact.tolerance * np.abs(expected).max()
        swapped = _run(_path(artifact, "model"), {**feeds, "mask": np.ones_like(feeds["mask"])})
        worst = np.abs(swapped["score"] - arrays["out.score"]).max()
        assert worst > artifact.tolerance * np.abs(arrays["out.score"]).max()


def test_costs_are_measured(model: TrainedModel, slices: dict[str, SliceArtifact]) -> None:
    whole, half = slices["w1.00-int8"].cost, slices["w0.50-int8"].cost
    assert slices["w1.00-fp32"].cost.val_error == pytest.approx(model.metrics["val_mse"], rel=1e-4)
    assert half.val_error == pytest.approx(model.metrics["by_width"]["0.50"]["val_mse"], rel=0.01)
    assert half.model_bytes < whole.model_bytes
    size = Path(_path(slices["w1.00-int8"], "model")).stat().st_size
    assert whole.model_bytes == size
    assert 0 < whole.reference_ms < 50
    assert whole.memory_mib > 1


_MEMORY = """
import sys
import numpy
import onnxruntime

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

before = resident()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
for count in (1, 64, 64):
    values = numpy.zeros((count, 16, 52), "float32")
    session.run(None, {"values": values, "mask": values})
print(resident() - before)
"""


def test_the_memory_estimate_holds_in_a_process_of_its_own(
    slices: dict[str, SliceArtifact],
) -> None:
    for artifact in slices.values():
        command = [sys.executable, "-c", _MEMORY, _path(artifact, "model")]
        taken = float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        assert taken <= artifact.cost.memory_mib <= 3 * taken


@pytest.mark.parametrize(("name", "width"), [("w1.00-fp32", 1.0), ("w0.50-int8", 0.5)])
def test_the_gradient_step_is_that_of_torch(
    model: TrainedModel, slices: dict[str, SliceArtifact], name: str, width: float
) -> None:
    values = cut(DATA.train, 20)[:32].copy()
    mask, weight = np.ones_like(values), np.ones(32, np.float32)
    mask[3, 5, 7] = mask[4, 18, 2] = weight[-2:] = 0.0
    named = {f"network.{key}": tensor for key, tensor in tensors(model.at(width)).items()}
    weights = {key: named[f"network.{key}"].requires_grad_() for key in model.weights}
    batch = tuple(torch.tensor(array) for array in (values, mask, weight))
    loss = torch.func.functional_call(LocalLoss(network_of(model)), named, batch)
    torch.autograd.backward(loss)
    feeds = {"values": values, "mask": mask, "weight": weight}
    arrays = {key: tensor.detach().numpy() for key, tensor in weights.items()}
    outputs = _run(_path(slices[name], "train"), {**feeds, **arrays})
    assert outputs["loss"] == pytest.approx(loss.item(), rel=1e-4)
    for key, tensor in weights.items():
        assert tensor.grad is not None
        expected = tensor.grad.numpy()
        assert np.abs(expected).max() > 0
        assert np.allclose(outputs[f"grad.{key}"], expected, rtol=1e-3, atol=1e-5), key


def test_a_descendant_is_sliced_without_an_export(
    model: TrainedModel, slices: dict[str, SliceArtifact], folder: Path, tmp_path: Path
) -> None:
    assert slices
    before = _templates(folder)
    child = with_weights(model, {name: array * 0.9 for name, array in model.weights.items()})
    started = time.process_time()
    made = make_slices(child, tmp_path, specs=SPECS, reuse=folder)
    assert time.process_time() - started < 10
    assert _templates(folder) == before
    assert _templates(tmp_path).keys() == before.keys(), "a grandchild would have to export"
    assert made[0].cost.val_error == pytest.approx(child.metrics["val_mse"], rel=1e-4)
    whole = Path(_path(made[0], "model")).read_bytes()
    assert whole != Path(_path(slices["w1.00-fp32"], "model")).read_bytes()


def test_a_file_that_computes_something_else_is_refused(
    model: TrainedModel, slices: dict[str, SliceArtifact], folder: Path, tmp_path: Path
) -> None:
    assert slices
    shutil.copytree(folder / "templates", tmp_path / "templates")
    for path in (tmp_path / "templates").glob("forward-w1.00-*"):
        graph = onnx.load_model(path)
        for node in graph.graph.node:
            if node.op_type == "Tanh":
                node.op_type = "Sigmoid"
        onnx.save_model(graph, path)
    with pytest.raises(SelfTestFailedError, match=r"width 1\.0 differs from the model"):
        make_slices(model, tmp_path, specs=SPECS[:1])
    assert not list(tmp_path.glob("w*"))


def test_the_process_beside_ends_with_the_block(model: TrainedModel, tmp_path: Path) -> None:
    with beside(model, tmp_path, "step"):
        pass
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert not any(str(tmp_path).encode() in command for command in commands)


def test_the_process_beside_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "aimass_cloud.slicing",
        "sensor-graph",
        str(tmp_path),
        "--until-closed",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 1
    assert not list(tmp_path.rglob("*.onnx"))


@pytest.mark.skipif(CORES == 1, reason="one core has no process beside")
def test_a_failing_process_beside_is_only_a_warning(
    model: TrainedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = replace(model, info=msgspec.structs.replace(model.info, recipe="cement"))
    with beside(unknown, tmp_path, "step") as wait:
        wait()
    assert "ended with status 1" in caplog.text


def test_a_width_that_was_not_trained_is_refused(
    model: TrainedModel, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=r"width 0\.75 was not trained"):
        make_slices(model, tmp_path, specs=[SliceSpec(0.75, "fp32")], reuse=folder)


def test_an_array_of_another_shape_is_refused(
    slices: dict[str, SliceArtifact], folder: Path
) -> None:
    assert slices
    template = onnx.load_model(next((folder / "templates").glob("forward-w1.00-*")))
    with pytest.raises(ModelLoadFailedError, match=r"base\.mean has shape \(3,\)"):
        filled(template, {"base.mean": np.zeros(3, np.float32)})


@pytest.mark.parametrize("name", ["w1.00-fp32", "w1.00-int8-trt", "w1.00-fp16"])
def test_tensorrt_parses_and_builds_every_slice_that_is_for_it(
    slices: dict[str, SliceArtifact], name: str
) -> None:
    assert engine_bytes(Path(_path(slices[name], "model"))) > 0


def test_halves_and_plans_of_a_recipes_model(
    model: TrainedModel,
    slices: dict[str, SliceArtifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(completing, "SECONDS", 0.001)  # figures are not looked at here
    wholes = list(slices.values())
    found = completing.completed(model, wholes, tmp_path, count=2, progress=lambda *_told: None)
    assert [one.spec for one in found[: len(wholes)]] == [one.spec for one in wholes]
    inputs = {name: array[:3] for name, array in model.samples.test.inputs.items()}
    expected = _run(_path(slices["w1.00-fp32"], "model"), inputs)
    cut = found[len(wholes) :]
    assert cut
    for artifact in cut:
        assert artifact.halves is not None
        assert artifact.halves.batched
        between = {**inputs, **_run(_path(artifact, "model"), inputs)}
        crossing = {one.name: between[one.name] for one in artifact.halves.crossing}
        together = {**between, **_run(_path(artifact, "tail"), crossing)}
        for name, array in expected.items():
            assert selftest.relative_error({name: together[name]}, {name: array}) < 1e-5, name
    plans = {one.candidate: one for one in _plans(found).profiles}
    full = Candidate(1.0, "fp32", "edge")
    assert plans[full].loss == plans[Candidate(1.0, "fp32", "cloud")].loss == 0.0
    assert {SliceSpec(one.width, one.precision, one.cut) for one in plans} == {
        one.spec for one in found
    }
    with pytest.raises(ConflictError, match="plans need the slice"):
        completing.completed(model, cut, tmp_path, count=0, progress=lambda *_told: None)


@pytest.mark.parametrize(
    ("error", "of_whole", "forecasts", "share"),
    [
        (0.2, 0.1, True, 0.5),
        (0.1, 0.2, True, 0.0),
        (0.0, 0.0, True, 0.0),
        (0.2, 0.1, False, 1 / 9),
        (0.1, 0.1, False, 0.0),
        (1.1, 1.05, False, 0.05),
        (1.0, 1.05, False, 0.0),
    ],
)
def test_a_loss_is_a_share_of_what_the_whole_model_knows(
    *, error: float, of_whole: float, forecasts: bool, share: float
) -> None:
    assert completing.share_lost(error, of_whole, forecasts=forecasts) == pytest.approx(share)


def _plans(artifacts: list[SliceArtifact]) -> ProfileSet:
    (content,) = {Path(_path(one, "plans")).read_bytes() for one in artifacts}
    return decode(content)


def test_what_pays_is_chosen_and_all_that_was_tried_is_told(
    model: TrainedModel, folder: Path, tmp_path: Path
) -> None:
    found = sliced(model, tmp_path, reuse=folder)
    names = {artifact.spec.name for artifact in found.artifacts}
    assert "w1.00-fp32" in names
    assert {artifact.spec.width for artifact in found.artifacts} == {1.0, 0.5}
    every = {f"w{width}-{one}" for width in ("1.00", "0.50") for one in CLASSES["cpu"]}
    assert names | found.left_out.keys() == every
    assert not names & found.left_out.keys()
    told = msgspec.json.decode((tmp_path / "variants.json").read_bytes(), type=list[Variant])
    assert told == found.variants
    assert names <= {one.slice for one in told if one.taken}
    assert {path.name for path in tmp_path.glob("w*")} == names
    for artifact in found.artifacts:
        assert artifact.tolerances == {"cpu": artifact.tolerance}
        assert artifact.latency_ms > artifact.cost.reference_ms


def test_without_a_budget_float_steps_in_for_what_loses_anything(
    model: TrainedModel, folder: Path, tmp_path: Path
) -> None:
    specs = [SliceSpec(1.0, "int8"), SliceSpec(0.5, "int8"), SliceSpec(0.5, "fp16")]
    found = sliced(model, tmp_path, specs=specs, budget=0.0, reuse=folder)
    made = {artifact.spec: artifact for artifact in found.artifacts}
    assert {spec.width for spec in made} == {1.0, 0.5}
    for spec in specs:
        assert (spec in made) != (spec.name in found.left_out)
    for spec, artifact in made.items():
        if spec.precision == "fp32":
            assert not any(other.width == spec.width for other in made if other != spec)
        else:
            full = model.metrics["by_width"][f"{spec.width:.2f}"]["val_mse"]
            assert artifact.cost.val_error <= full * (1 + 1e-5)
    assert all("budget ends at" in why for why in found.left_out.values())


def test_slices_for_tensorrt_have_its_verdict_and_its_tolerance(
    model: TrainedModel, folder: Path, tmp_path: Path
) -> None:
    specs = [SliceSpec(0.5, "fp32"), SliceSpec(0.5, "int8")]
    classes: tuple[DeviceClass, ...] = ("cpu", "tensorrt")
    full, small = make_slices(model, tmp_path, specs=specs, classes=classes, reuse=folder)
    assert full.cost.tensorrt == ("builds" if engines.is_installed() else "")
    assert full.tolerances["tensorrt"] > full.tolerances["cpu"] == full.tolerance
    assert small.cost.tensorrt == ""
    assert "tensorrt" not in small.tolerances
