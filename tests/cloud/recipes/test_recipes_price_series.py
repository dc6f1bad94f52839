"""Prices: persistence always beside the forecast, a band, a trend, and a verdict in words."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from tests.engines import engine_bytes

from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes import find
from aimass_cloud.recipes.price_series import RUN, synthetic, verdict
from aimass_cloud.recipes.settling import outputs_on_test
from aimass_cloud.slicing import make_slices
from aimass_cloud.training import train
from aimass_shared.slices import SliceSpec

OPTIONS = {"hidden": 8, "steps": 1, "window": 12, "horizon": 4}


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    run = structs.replace(RUN, steps=40, check=20, widths=(1.0, 0.5), options=OPTIONS)
    return train("price-series", run)


def test_persistence_is_beside_the_model_and_the_verdict_says_who_won(model: TrainedModel) -> None:
    metrics = model.metrics
    gain = 1 - metrics["val_mse"] / metrics["baselines"]["persistence"]
    assert metrics["gain_over_persistence"] == pytest.approx(gain, abs=1e-3)
    assert metrics["verdict"] == verdict(gain)
    assert "persistence" in metrics["candidates"]


def test_the_trend_is_the_change_over_the_horizon_as_a_share(model: TrainedModel) -> None:
    outputs, values = outputs_on_test(model), model.samples.test.inputs["values"]
    expected = outputs["forecast"][:, -1] / values[:, -1] - 1
    assert np.allclose(outputs["trend"], expected, atol=1e-5)
    assert 0 < np.abs(outputs["trend"]).max() < 0.5
    names = [spec.name for spec in model.info.contract.outputs]
    assert names == ["forecast", "lower", "upper", "trend"]
    assert model.info.contract.alarm is None


def test_directions_are_counted_beside_those_of_always_the_same_one(model: TrainedModel) -> None:
    trend = model.metrics["trend"]
    assert 0.5 <= trend["always_the_commoner"] <= 1
    assert 0 <= trend["direction_right"] <= 1


def test_slices_are_what_tensorrt_takes(model: TrainedModel, tmp_path: Path) -> None:
    specs = (SliceSpec(1.0, "fp32"), SliceSpec(1.0, "int8-trt"))
    for made in make_slices(model, tmp_path, specs=specs):
        assert engine_bytes(Path(dict(made.files)["model"])) > 0


def test_a_band_covers_about_what_it_says(model: TrainedModel) -> None:
    assert 0.65 < model.metrics["band"]["covered"] < 0.95


def test_losing_to_persistence_is_said() -> None:
    assert verdict(-0.02).startswith("not better than persistence")
    assert verdict(0.005).startswith("not better")
    assert verdict(0.143) == ("better than persistence on the test rows: 14.3 % less squared error")


def test_the_synthetic_market_is_the_same_each_time() -> None:
    assert np.array_equal(synthetic().train[0].rows, synthetic().train[0].rows)
    assert find("price-series").run.widths == (1.0, 0.5, 0.25)
