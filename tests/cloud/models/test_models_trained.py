"""A trained model on disk: whole, recognised when damaged, and named by what it holds."""

from pathlib import Path

import numpy as np
import pytest

from aimass_cloud.models.blank import blank
from aimass_cloud.models.contract import contract_for
from aimass_cloud.models.trained import ARRAYS, INFO, ForecasterConfig, TrainedModel, identify
from aimass_shared.errors import NotFoundError, StateCorruptError
from aimass_shared.manifest import Sensor

SENSORS = (Sensor("a", "%", "continuous"), Sensor("b", "°C", "sampled"))
CONTRACT = contract_for("m", SENSORS, step_ms=1000, window=12, horizon=3)
MODEL = blank(CONTRACT, ForecasterConfig(hidden=4), recipe="none")


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    MODEL.save(tmp_path / "model")
    loaded = TrainedModel.load(tmp_path / "model")
    assert loaded.info == MODEL.info
    assert loaded.parameters == MODEL.parameters > 0
    for kept, arrays in ((loaded.weights, MODEL.weights), (loaded.constants, MODEL.constants)):
        assert list(kept) == sorted(arrays)
        assert all(np.array_equal(kept[name], array) for name, array in arrays.items())
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted([ARRAYS, INFO])


def test_saving_again_replaces(tmp_path: Path) -> None:
    MODEL.save(tmp_path)
    other = blank(CONTRACT, ForecasterConfig(hidden=4), recipe="none", seed=9)
    other.save(tmp_path)
    assert np.array_equal(
        TrainedModel.load(tmp_path).weights["cell.input"], other.weights["cell.input"]
    )


def test_no_model_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no model in empty"):
        TrainedModel.load(tmp_path / "empty")
    MODEL.save(tmp_path)
    path = tmp_path / ARRAYS
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StateCorruptError, match="do not match their digest"):
        TrainedModel.load(tmp_path)


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
