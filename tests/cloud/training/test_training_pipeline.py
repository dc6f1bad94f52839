"""Training a recipe for real, small: repeatable, honest, and refusing what does not belong."""

import numpy as np
import pytest
from msgspec import structs

from aimass_cloud.models.shrinkage import LAGS
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes import tep
from aimass_cloud.training import RunSettings, evaluate, train, with_weights
from aimass_shared.errors import BadUpdateError, NotFoundError
from aimass_shared.moments import Moments, moments

SMALL = RunSettings(seed=1, steps=60, check=20, options={"hidden": 8, "steps": 1})
OTHER = structs.replace(SMALL, seed=2)
NAME, BIAS = "sensor-graph", "forecaster.cell.bias"
DATA = tep.load()


def _site_moments(fault: int) -> Moments:
    rows = DATA.site_runs()[fault]
    return moments([(rows, np.ones_like(rows))], sensors=DATA.names, lags=LAGS)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return train(NAME, SMALL)


def test_the_same_seed_gives_the_same_model_and_another_seed_another(model: TrainedModel) -> None:
    assert train(NAME, SMALL).id == model.id
    assert train(NAME, OTHER).id != model.id


def test_the_report_holds_the_baselines_and_the_model_beats_them(model: TrainedModel) -> None:
    metrics = model.metrics
    baselines = metrics["baselines"]
    assert baselines["var"] < baselines["dlinear"] < baselines["persistence"]
    assert metrics["val_mse"] < baselines["var"]
    assert metrics["by_width"].keys() == {"1.00", "0.50", "0.25"}
    assert max(each["val_mse"] for each in metrics["by_width"].values()) < 1.01 * baselines["var"]
    assert metrics["parameters"] == model.parameters


def test_detection_is_reported_beside_pca_judged_the_same_way(model: TrainedModel) -> None:
    found = model.metrics["detection"]
    assert found.keys() == {"monitor", "pca", "pca_averaged", "random", "always_alarm"}
    assert found["monitor"]["faults"].keys() == {str(fault) for fault in DATA.faults}
    assert found["monitor"]["mar"] < min(0.005, found["pca"]["mar"])
    assert found["monitor"]["far"] < 0.01 < found["pca"]["far"]
    assert found["monitor"]["auroc"] > found["pca"]["auroc"] > found["random"]["auroc"]
    assert found["monitor"]["f1"] > found["always_alarm"]["f1"]
    assert model.info.contract.alarm is not None
    assert found["monitor"]["threshold"] == model.info.contract.alarm.threshold == 1.0


def test_moments_of_sites_make_the_base_better(model: TrainedModel) -> None:
    base = _site_moments(1).add(_site_moments(2)).add(_site_moments(6)).add(_site_moments(7))
    joined = train(NAME, SMALL, base=base)
    assert joined.metrics["baselines"]["var"] < model.metrics["baselines"]["var"]
    assert joined.metrics["rows"] == model.metrics["rows"] + base.n
    assert joined.metrics["detection"]["monitor"]["far"] < 0.02


def test_moments_of_another_plant_are_refused() -> None:
    rows = np.ones((10, 2), np.float32)
    other = moments([(rows, rows)], sensors=("a", "b"), lags=LAGS)
    with pytest.raises(BadUpdateError, match="other sensors"):
        train(NAME, SMALL, base=other)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(NotFoundError, match="no recipe"):
        train("cement", SMALL)


def test_progress_rises_to_one() -> None:
    told: list[float] = []
    train(NAME, SMALL, progress=lambda fraction, _message: told.append(fraction))
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)


def test_evaluating_a_models_own_weights_gives_its_reported_error(model: TrainedModel) -> None:
    found = evaluate(model, model.weights)
    assert found == {name: model.metrics[name] for name in ("val_mse", "val_mae")}
    half = evaluate(model, model.weights, width=0.5)
    assert half == model.metrics["by_width"]["0.50"]


def test_a_child_keeps_base_and_threshold_and_knows_its_parent(model: TrainedModel) -> None:
    weights = {name: array * 0.5 for name, array in model.weights.items()}
    child = with_weights(model, weights)
    assert child.info.parent == model.id != child.id
    assert child.info.contract == model.info.contract
    assert all(
        np.array_equal(child.constants[name], array)
        for name, array in model.constants.items()
        if name not in model.info.per_width
    )
    assert not np.array_equal(child.constants["gate"], model.constants["gate"])
    assert child.metrics["val_mse"] != model.metrics["val_mse"]


def test_ruined_weights_are_gated_off(model: TrainedModel) -> None:
    """The gate is why a bad round cannot make a forecast much worse than the linear base."""
    random = np.random.default_rng(0)
    ruined = {
        name: random.normal(0, 3, array.shape).astype(np.float32)
        for name, array in model.weights.items()
    }
    child = with_weights(model, ruined)
    assert child.metrics["val_mse"] < 1.02 * model.metrics["baselines"]["var"]


@pytest.mark.parametrize("call", [evaluate, with_weights])
def test_weights_of_another_model_are_refused(model: TrainedModel, call: object) -> None:
    assert callable(call)
    lacking = dict(list(model.weights.items())[1:])
    with pytest.raises(BadUpdateError, match=r"cell\.bias"):
        call(model, lacking)
    with pytest.raises(BadUpdateError, match="must have shape"):
        call(model, {**model.weights, BIAS: np.zeros((3, 1), np.float32)})
    with pytest.raises(BadUpdateError, match="not finite"):
        call(
            model,
            {
                **model.weights,
                "forecaster.cell.bias": model.weights["forecaster.cell.bias"] * np.nan,
            },
        )
