"""The recipe "diagnosis" from recordings to slices: what order tells, plain graphs, gaps."""

import itertools
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from tests.engines import engine_bytes

from aimass_cloud.models.samples import Part
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes import tep
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.recipes.diagnosis import RECIPE, DiagnosisTask
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.slicing import make_slices
from aimass_cloud.slicing.costs import Runner
from aimass_cloud.training import train
from aimass_cloud.training.explaining import Explainer
from aimass_shared.errors import InvalidSettingError, RequestError
from aimass_shared.explaining import explained, occluded
from aimass_shared.manifest import TensorSpec
from aimass_shared.moments import Moments
from aimass_shared.slices import SliceSpec

PERIOD, ROWS = 8, 400
NAMES = ("falling", "rising")
PLAIN = {
    *(
        "Sub",
        "Div",
        "Clip",
        "LessOrEqual",
        "Where",
        "Cast",
        "Reshape",
        "MatMul",
        "Add",
        "Relu",
        "Transpose",
    ),
    *("LayerNormalization", "Slice", "Softmax", "ReduceMean", "ArgMax", "Gemm"),
    *("QuantizeLinear", "DequantizeLinear"),
}


def ramps(condition: str, random: np.random.Generator) -> NDArray[np.float32]:
    """A sensor that rises and drops, or the other way round, and one that is noise.

    Mean and deviation of a window are the same for both.
    """
    place = np.arange(ROWS) % PERIOD / PERIOD
    wave = place if condition == "rising" else 1 - 1 / PERIOD - place
    rows: NDArray[np.float64] = np.stack([500 + 40 * wave, np.zeros(ROWS)], axis=1)
    rows += random.normal(size=rows.shape) * np.array([2, 1])
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    folder, random = tmp_path_factory.mktemp("machine"), np.random.default_rng(0)
    lines = ["press,noise,condition"]
    for name in NAMES:
        lines += [f"{a},{b},{name}" for a, b in ramps(name, random).tolist()]
    (folder / "a.csv").write_text("\n".join(lines))
    return msgspec.structs.replace(
        RECIPE.run,
        data=str(folder / "a.csv"),
        size="tiny",
        steps=100,
        check=50,
        widths=(1.0, 0.25),
        options={"window": 16},
    )


@pytest.fixture(scope="module")
def model(run: RunSettings) -> TrainedModel:
    return train("diagnosis", run)


def test_the_contract_says_what_goes_in_and_comes_out(model: TrainedModel) -> None:
    contract = model.info.contract
    assert (contract.task, contract.labels, contract.telemetry) == ("classify", NAMES, False)
    assert contract.inputs == (
        TensorSpec("values", "FP32", (-1, 16, 2)),
        TensorSpec("mask", "FP32", (-1, 16, 2)),
    )
    assert [(spec.name, spec.shape) for spec in contract.outputs] == [
        ("probabilities", (-1, 2)),
        ("label", (-1,)),
    ]
    assert model.metrics["sensors"] == ["press", "noise"]


def test_it_sees_what_means_and_deviations_do_not_tell(model: TrainedModel) -> None:
    metrics = model.metrics
    best = max(one["accuracy"] for one in metrics["baselines"].values())
    for width in ("1.00", "0.25"):
        assert metrics["all_test"][width]["accuracy"] > best + 0.1
        assert metrics["all_test"][width]["macro_f1"] > 0.9
    table = np.array(metrics["confusion"])
    assert table.sum() == metrics["windows"]["test"] == 2 * (80 - 15)
    assert np.trace(table) / table.sum() == pytest.approx(metrics["accuracy"], abs=1e-4)
    assert model.constants["readout.temperature"].shape == (2, 1)


def test_a_sensor_that_is_missing_does_not_matter_where_it_says_nothing(
    model: TrainedModel,
) -> None:
    test = model.samples.test
    mask = test.inputs["mask"].copy()
    mask[..., 1] = 0
    values = np.where(mask > 0, test.inputs["values"], np.nan)
    part = Part({"values": values, "mask": mask}, test.truth)
    told = RECIPE.figures(outputs_of(RECIPE, model, part, width=1.0), test.truth)
    assert told["accuracy"] > model.metrics["accuracy"] - 0.05


def test_slices_are_plain_graphs_that_tensorrt_takes(model: TrainedModel, tmp_path: Path) -> None:
    specs = SliceSpec(0.25, "fp32"), SliceSpec(0.25, "int8-trt")
    made = make_slices(model, tmp_path, specs=specs)
    for slice_ in made:
        path = Path(dict(slice_.files)["model"])
        graph = onnx.load_model(path).graph
        assert {node.op_type for node in graph.node} <= PLAIN
        assert engine_bytes(path) > 0
    float_one, whole_number = made
    test = model.samples.test
    told = Runner(onnx.load_model(dict(float_one.files)["model"])).run(test.inputs)
    wanted = outputs_of(RECIPE, model, test, width=0.25)
    assert np.abs(told["probabilities"] - wanted["probabilities"]).max() <= 1e-5
    assert whole_number.cost.val_error <= float_one.cost.val_error + 0.01


def test_the_sensor_that_tells_is_blamed(model: TrainedModel) -> None:
    inputs = {name: array[:1] for name, array in model.samples.test.inputs.items()}
    found = Explainer(model).attribution(inputs, method="integrated")
    assert set(found.values) == {"values"}
    blamed = np.abs(found.values["values"]).sum(axis=(0, 1))
    assert blamed[0] > 2 * blamed[1]
    left_out = occluded(model.info.contract, inputs)
    outputs = outputs_of(RECIPE, model, Part(left_out.inputs, {}), width=1.0)
    parts = explained(model.info.contract, outputs)
    assert left_out.names[int(parts.argmax())] == "0"


def test_a_training_that_is_interrupted_goes_on(run: RunSettings, tmp_path: Path) -> None:
    short = msgspec.structs.replace(run, steps=12, check=4, checkpoint=4)

    def stop(fraction: float, _message: str) -> None:
        if fraction > 0.6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train("diagnosis", short, directory=tmp_path / "run", progress=stop)
    resumed = train("diagnosis", short, directory=tmp_path / "run", resume=True)
    assert resumed.id == train("diagnosis", short).id


def test_a_batch_depends_on_the_seed_and_its_number_alone(run: RunSettings) -> None:
    task = RECIPE.open(run)
    straight = list(itertools.islice(task.source(batch=8).batches(0), 4))
    resumed = next(task.source(batch=8).batches(3))
    halves = [next(task.source(batch=8, rank=rank, world=2).batches(3)) for rank in (0, 1)]
    for name in ("values", "mask", "label"):
        assert torch.equal(straight[3][name], resumed[name])
    for rank, half in enumerate(halves):
        assert torch.equal(half["label"], resumed["label"][rank::2])


def test_the_plant_that_ships_is_normal_or_has_one_of_its_faults() -> None:
    task = RECIPE.open(RECIPE.run)
    assert isinstance(task, DiagnosisTask)
    assert set(task.contract.labels) == {"normal", *tep.FAULTS.values()}
    samples = task.samples()
    assert set(np.unique(samples.test.truth["label"])) == set(range(9))
    assert samples.selftest["values"].shape == (4, 32, 52)
    ours = {row.tobytes() for row in samples.test.inputs["values"].reshape(-1, 52)}
    assert not ours & {
        row.tobytes() for row in samples.calibration.inputs["values"].reshape(-1, 52)
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 30}, "multiple of patches of 4"),
        ({"hidden": 100}, "at width 1 is no multiple of options.head 16"),
        ({"blocks": 0}, "1 at least"),
        ({"windows": 3}, "windows"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidSettingError, match=message):
        RECIPE.open(msgspec.structs.replace(RECIPE.run, options=options))
    with pytest.raises(RequestError, match="no linear base"):
        RECIPE.open(RECIPE.run, Moments.__new__(Moments))
