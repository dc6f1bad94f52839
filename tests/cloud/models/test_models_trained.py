"""A trained model on disk: whole, recognised when damaged, and named by what it holds."""

from pathlib import Path

import numpy as np
import pytest

from aimass_cloud.models.contract import contract_for
from aimass_cloud.models.samples import Part, Samples
from aimass_cloud.models.trained import (
    ARRAYS,
    INFO,
    SAMPLES,
    ModelInfo,
    TrainedModel,
    identify,
)
from aimass_shared.errors import NotFoundError, StateCorruptError
from aimass_shared.manifest import Sensor

SENSORS = (Sensor("a", "%", "continuous"), Sensor("b", "°C", "sampled"))
CONTRACT = contract_for("m", SENSORS, step_ms=1000, window=12, horizon=3)
PART = Part({"values": np.zeros((3, 12, 2), np.float32)}, {"future": np.ones(3)})
INFO_OF = ModelInfo(
    "m-1",
    "none",
    "",
    0,
    {"hidden": 4},
    CONTRACT,
    {},
    1,
    widths=(1.0, 0.5),
    axes={"cell.input": (0, 1), "cell.bias": (0,)},
    per_width=("gate",),
)


def _model(seed: int = 0) -> TrainedModel:
    random = np.random.default_rng(seed)
    return TrainedModel(
        INFO_OF,
        {
            "cell.input": random.normal(size=(4, 4)).astype(np.float32),
            "cell.bias": np.zeros(4, np.float32),
        },
        {"base.mean": np.ones(2, np.float32), "gate": np.array([1.0, 0.5], np.float32)},
        Samples(PART, PART, {"values": np.ones((4, 12, 2), np.float32)}),
        {"vocabulary": b"{}"},
    )


MODEL = _model()


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    MODEL.save(tmp_path / "model")
    loaded = TrainedModel.load(tmp_path / "model")
    assert loaded.info == MODEL.info
    assert loaded.parameters == MODEL.parameters > 0
    for kept, arrays in ((loaded.weights, MODEL.weights), (loaded.constants, MODEL.constants)):
        assert list(kept) == sorted(arrays)
        assert all(np.array_equal(kept[name], array) for name, array in arrays.items())
    assert loaded.assets == {"vocabulary": b"{}"}
    assert len(loaded.samples.test) == 3
    for kept, wanted in (
        (loaded.samples.test.inputs, PART.inputs),
        (loaded.samples.calibration.truth, PART.truth),
        (loaded.samples.selftest, MODEL.samples.selftest),
    ):
        assert kept.keys() == wanted.keys()
        assert all(np.array_equal(kept[name], array) for name, array in wanted.items())


def test_saving_again_replaces(tmp_path: Path) -> None:
    MODEL.save(tmp_path)
    other = _model(9)
    other.save(tmp_path)
    assert np.array_equal(
        TrainedModel.load(tmp_path).weights["cell.input"], other.weights["cell.input"]
    )


def test_no_model_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no model in empty"):
        TrainedModel.load(tmp_path / "empty")
    MODEL.save(tmp_path)
    for name in (ARRAYS, SAMPLES, "asset-vocabulary"):
        path = tmp_path / name
        whole = path.read_bytes()
        path.write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]))
        with pytest.raises(
            StateCorruptError, match=f"{name} of model m-1 does not match its digest"
        ):
            TrainedModel.load(tmp_path)
        path.write_bytes(whole)


def test_a_width_has_its_leading_parts_and_its_own_constants() -> None:
    half = MODEL.at(0.5)
    assert np.array_equal(half["cell.input"], MODEL.weights["cell.input"][:2, :2])
    assert half["gate"] == 0.5
    assert np.array_equal(half["base.mean"], MODEL.constants["base.mean"])
    with pytest.raises(NotFoundError, match=r"width 0\.75 was not trained"):
        MODEL.at(0.75)


def test_a_sheet_that_is_no_json_is_damage(tmp_path: Path) -> None:
    MODEL.save(tmp_path)
    (tmp_path / INFO).write_bytes(b"{")
    with pytest.raises(StateCorruptError, match="does not decode"):
        TrainedModel.load(tmp_path)


def test_the_id_follows_the_arrays() -> None:
    first = identify("m", MODEL.weights, MODEL.constants)
    again = identify("m", dict(reversed(MODEL.weights.items())), MODEL.constants)
    changed = {**MODEL.weights, "cell.bias": MODEL.weights["cell.bias"] + 1}
    assert first == again
    assert first.startswith("m-")
    assert identify("m", changed, MODEL.constants) != first
