"""The recipe "image" from pictures to slices: fair splits, plain graphs, honest probabilities."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from tests.engines import engine_bytes

from aimass_cloud.datasets.pictures import read
from aimass_cloud.models.network import predictor
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.classification import figures, stratified, temperature
from aimass_cloud.recipes.image import RECIPE, SIZES, ImageTask
from aimass_cloud.recipes.run import Optimizer, RunSettings, Schedule
from aimass_cloud.slicing import make_slices
from aimass_cloud.training import train
from aimass_shared.errors import DataError, InvalidSettingError, RequestError
from aimass_shared.manifest import TensorSpec
from aimass_shared.moments import Moments
from aimass_shared.slices import SliceSpec

OPTIONS = {"stages": [16, 16, 32], "shift": 0.05}
RUN = msgspec.structs.replace(
    RECIPE.run,
    steps=100,
    check=50,
    optimizer=Optimizer("muon", rate=2e-2),
    schedule=Schedule(warm_up=10),
    widths=(1.0, 0.5),
    options=OPTIONS,
)
PLAIN = {"Sub", "Div", "Mul", "Conv", "Relu", "Add", "AveragePool", "ReduceMean", "Gemm"}
ENDING = {"Softmax", "ArgMax", "QuantizeLinear", "DequantizeLinear"}


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return train("image", RUN)


def task(**changes: Any) -> ImageTask:  # noqa: ANN401  of settings
    opened = RECIPE.open(msgspec.structs.replace(RUN, **changes))
    assert isinstance(opened, ImageTask)
    return opened


def rows(places: NDArray[np.float32]) -> set[bytes]:
    return {one.tobytes() for one in places}


def test_the_contract_says_what_goes_in_and_comes_out() -> None:
    contract = task().contract
    assert contract.task == "classify"
    assert contract.labels == tuple("0123456789")
    assert contract.inputs == (TensorSpec("image", "FP32", (-1, 1, 8, 8)),)
    assert [spec.name for spec in contract.outputs] == ["probabilities", "label"]


def test_parts_share_no_picture_and_do_not_depend_on_the_seed() -> None:
    first, second = task().samples(), task(seed=9).samples()
    calibration, test = (part.inputs["image"] for part in (first.calibration, first.test))
    assert not rows(calibration) & rows(test)
    assert np.array_equal(test, second.test.inputs["image"])
    batches = itertools.islice(
        task(options={**OPTIONS, "shift": 0, "light": 0}).source(batch=256).batches(0), 6
    )
    seen = rows(np.concatenate([np.round(batch["image"].numpy() * 255) for batch in batches]))
    assert not seen & (rows(np.round(test * 255)) | rows(np.round(calibration * 255)))
    assert len(seen) > 1200


def test_a_batch_depends_on_the_seed_and_its_number_alone() -> None:
    straight = list(itertools.islice(task().source(batch=16).batches(0), 4))
    resumed = next(task().source(batch=16).batches(3))
    other = next(task(seed=1).source(batch=16).batches(3))
    assert torch.equal(straight[3]["image"], resumed["image"])
    assert not torch.equal(other["image"], resumed["image"])


def test_processes_share_a_batch() -> None:
    whole = next(task().source(batch=16).batches(5))
    shares = [next(task().source(batch=16, rank=rank, world=2).batches(5)) for rank in (0, 1)]
    for rank, share in enumerate(shares):
        assert torch.equal(share["label"], whole["label"][rank::2])


def test_a_test_part_of_ones_own_is_the_test(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 12, 12)).astype(np.uint8)
    file = tmp_path / "a.npz"
    labels = np.arange(40) % 2
    np.savez(file, x_train=pixels, y_train=labels, x_test=255 - pixels[:6], y_test=labels[:6])
    own = ImageTask(read(str(file), 64), SIZES["tiny"], seed=0)
    samples = own.samples()
    assert len(samples.test) == 6
    assert len(samples.calibration) == 4
    assert np.allclose(samples.test.inputs["image"][:, 0], 1 - pixels[:6] / 255)


def test_a_short_training_beats_guessing_at_every_width(model: TrainedModel) -> None:
    metrics = model.metrics
    for width in ("1.00", "0.50"):
        assert metrics["by_width"][width]["accuracy"] > 0.8
        assert metrics["all_test"][width] == metrics["by_width"][width]
    assert metrics["baselines"]["5 nearest neighbours"]["accuracy"] > 0.9
    assert metrics["pictures"] == {"train": 1259, "held_back": 179, "test": 359}
    assert metrics["turns"] == []
    assert model.constants["readout.temperature"].shape == (2, 1)


def test_slices_are_plain_graphs_that_tensorrt_takes(model: TrainedModel, tmp_path: Path) -> None:
    specs = SliceSpec(0.5, "fp32"), SliceSpec(0.5, "int8-trt")
    made = make_slices(model, tmp_path, specs=specs)
    graphs = [onnx.load_model(dict(slice_.files)["model"]).graph for slice_ in made]
    for graph in graphs:
        assert {node.op_type for node in graph.node} <= PLAIN | ENDING
    for slice_ in made:
        assert engine_bytes(Path(dict(slice_.files)["model"])) > 0
    stored = [{node.op_type: len(node.input) for node in graph.node}["Conv"] for graph in graphs]
    assert stored == [3, 3]
    assert max(slice_.tolerance for slice_ in made) < 0.5
    float_one, whole_number = (slice_.cost for slice_ in made)
    assert whole_number.val_error <= float_one.val_error + 0.005
    assert whole_number.model_bytes < float_one.model_bytes


def test_a_narrow_width_keeps_the_labels_of_its_own(model: TrainedModel) -> None:
    network = RECIPE.open(RUN).network()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.copy_(torch.from_numpy(model.weights[name]))
        images = torch.from_numpy(model.samples.test.inputs["image"])
        logits = predictor(network.eval())(0.5, {"image": images})
    right = (logits.argmax(dim=1).numpy() == model.samples.test.truth["label"]).mean()
    assert right == pytest.approx(model.metrics["by_width"]["0.50"]["accuracy"], abs=1e-4)


def test_what_the_recipe_does_not_know_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="sides"):
        task(options={"sides": 4})
    with pytest.raises(InvalidSettingError, match="turns"):
        task(options={"turns": "sometimes"})
    moments = Moments.__new__(Moments)
    with pytest.raises(RequestError, match="no linear base"):
        RECIPE.open(RUN, moments)


@pytest.mark.parametrize("size", list(SIZES))
def test_every_size_builds_and_the_largest_is_large(size: str) -> None:
    with torch.device("meta"):
        network = task(size=size, options={}).network()
    count = sum(weight.numel() for weight in network.parameters())
    assert count > (1e8 if size == "xl" else 1e4)


def test_a_split_keeps_the_shares_of_classes() -> None:
    labels = np.repeat([0, 1], [90, 10])
    parts = stratified(labels, (0.7, 0.1, 0.2), 3)
    assert [np.bincount(labels[part]).tolist() for part in parts] == [[63, 7], [9, 1], [18, 2]]
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    with pytest.raises(DataError, match="2 samples"):
        stratified(np.array([0, 0, 0, 1, 1]), (0.7, 0.1, 0.2), 3)


def test_a_split_gives_every_part_something() -> None:
    parts = stratified(np.repeat([0, 1], 3), (0.7, 0.1, 0.2), 0)
    assert [len(part) for part in parts] == [2, 2, 2]


def test_figures_of_known_probabilities() -> None:
    shares = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]], np.float32)
    found = figures(shares, np.array([0, 0, 1, 1]))
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.75
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.8, 0.3]).mean(), abs=1e-4)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.4 + 0.2 + 0.7) / 4, abs=1e-4)


def test_the_temperature_undoes_a_scale() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 3)).astype(np.float32) * 2
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array([random.choice(3, p=row / row.sum()) for row in shares.astype(float)])
    assert temperature(logits * 2, truth) == pytest.approx(2.0, rel=0.1)


def test_no_error_at_all_is_no_reason_for_no_doubt() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2] * 30] * 8
    chosen = [temperature(logits[:count], np.array([0, 1, 2] * 30)[:count]) for count in (9, 90)]
    assert chosen[0] > chosen[1] > 0.5


def test_a_run_is_a_function_of_its_settings() -> None:
    short: RunSettings = msgspec.structs.replace(RUN, steps=3, check=3)
    first, second = (train("image", short) for _ in range(2))
    assert first.id == second.id
    assert replace(first, info=second.info).id == second.id
