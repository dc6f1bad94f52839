"""Recordings of a user's own: chosen on held-back rows, any order of sensors, gaps, graphs."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aimass_cloud.datasets import series, shards
from aimass_cloud.models.fleet import moments_of_runs, packed_moments, unpacked_moments
from aimass_cloud.models.forecaster import ForecasterConfig
from aimass_cloud.models.samples import Part
from aimass_cloud.models.shrinkage import WEIGHTS
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes import find
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.recipes.sensor_task import SensorTask
from aimass_cloud.training import train
from aimass_shared.errors import DataError, InvalidSettingError, TrainingFailedError
from aimass_shared.fleet import Fleet, unpack
from aimass_shared.moments import Moments

SENSORS, ROWS, HORIZON = 6, 900, 3
KINDS = ("flow", "level", "flow", "valve", "level", "flow")
OPTIONS = {"hidden": 8, "horizon": HORIZON, "window": 12, "neighbours": 2, "quantiles": True}


def rows_of_a_ring(rows: int = ROWS, seed: int = 0) -> NDArray[np.float64]:
    """Each sensor repeats what the one before it did two rows earlier, with a level that drifts."""
    random = np.random.default_rng(seed)
    first = np.zeros(rows + 2 * SENSORS)
    for row in range(1, len(first)):
        first[row] = 0.7 * first[row - 1] + random.normal()
    delayed = [first[2 * (SENSORS - lag) : 2 * (SENSORS - lag) + rows] for lag in range(SENSORS)]
    drift = np.cumsum(random.normal(size=(rows, SENSORS)), axis=0) * 0.02
    return np.asarray(np.stack(delayed, axis=1) * 5 + 40 + drift, np.float64)


def folder_of_a_ring(folder: Path, *, gaps: float = 0.05) -> Path:
    """A plant's recordings with gaps, kinds, machines and a given graph."""
    folder.mkdir()
    rows = rows_of_a_ring()
    rows[np.random.default_rng(1).random(rows.shape) < gaps] = np.nan
    names = [f"s{number}" for number in range(SENSORS)]
    lines = [",".join("" if np.isnan(cell) else f"{cell:.4f}" for cell in row) for row in rows]
    (folder / "train.csv").write_text("\n".join([",".join(names), *lines]))
    told = [
        f"{name},bar,{kind},pump{name == 's0'}" for name, kind in zip(names, KINDS, strict=True)
    ]
    (folder / "sensors.csv").write_text("\n".join(["name,unit,kind,entity", *told]))
    edges = [f"{names[at]},{names[(at + 1) % SENSORS]},1" for at in range(SENSORS)]
    (folder / "graph.csv").write_text("\n".join(["source,target,weight", *edges]))
    return folder


def _run(data: Path, **options: object) -> RunSettings:
    return RunSettings(
        data=str(data), steps=60, check=20, widths=(1.0, 0.5), options={**OPTIONS, **options}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_a_ring(tmp_path_factory.mktemp("data") / "ring")


@pytest.fixture(scope="module")
def model(folder: Path) -> TrainedModel:
    return train("sensor-graph", _run(folder, base="direct"))


def _networks(model: TrainedModel) -> dict[str, float]:
    """Held-back errors with each set of relations."""
    tried: dict[str, float] = model.metrics["candidates"]
    return {name: error for name, error in tried.items() if name.startswith("network")}


def _task(data: Path, **options: object) -> SensorTask:
    task = find("sensor-graph").open(_run(data, **options))
    assert isinstance(task, SensorTask)
    return task


def test_a_network_that_hears_its_neighbours_beats_the_linear_base(model: TrainedModel) -> None:
    networks = _networks(model)
    assert len(networks) == 2**3, "learned, given, members: each heard or not"
    assert min(networks, key=networks.__getitem__) != "network, no graph"
    assert model.metrics["val_mse"] < 0.9 * model.metrics["baselines"]["linear"]
    assert model.metrics["linear"] in model.metrics["candidates"]


def test_what_ships_is_what_did_best_on_held_back_rows(model: TrainedModel) -> None:
    calibration = model.samples.calibration
    plan = find("sensor-graph")
    error = plan.error(outputs_of(plan, model, calibration, width=1.0), calibration.truth)
    assert error == pytest.approx(min(_networks(model).values()), rel=1e-3)


def test_a_band_covers_about_what_it_says(model: TrainedModel) -> None:
    band = model.metrics["band"]
    assert band["wanted"] == 0.8
    assert 0.65 < band["covered"] < 0.95
    assert band["below"] + band["above"] == pytest.approx(1 - band["covered"], abs=1e-3)


def test_the_contract_names_sensors_window_and_outputs(model: TrainedModel) -> None:
    contract = model.info.contract
    assert contract.model == "sensor-graph"
    assert contract.window >= 15, "the monitor's charts need so many"
    assert contract.horizon == HORIZON
    names = [spec.name for spec in contract.outputs]
    assert names == ["forecast", "score", "contribution", "lower", "upper"]
    assert model.info.config["entities"] == ("pumpTrue", "pumpFalse")
    assert {name for name in model.constants if name.startswith("graph.")} == {
        f"graph.{name}"
        for name in ("inward", "outward", "given_inward", "given_outward", "parts", "whole")
    }


def test_levels_beyond_those_of_training_are_followed(model: TrainedModel) -> None:
    """A forecast is relative to the newest value, so that drift does not break it."""
    plan, part = find("sensor-graph"), model.samples.test
    inputs = {**part.inputs, "values": part.inputs["values"] + 500 * part.inputs["mask"]}
    moved = outputs_of(plan, model, Part(inputs, part.truth), width=1.0)["forecast"] - 500
    assert plan.error({"forecast": moved}, part.truth) < 3 * model.metrics["val_mse"]


def test_runs_without_a_window_try_several_look_backs(folder: Path) -> None:
    task = _task(folder, window=0)
    assert task.config.recent in {12, 24}
    assert task.contract.window == max(task.config.recent, 15)


@pytest.mark.parametrize("base", ["persistence", "direct", "var"])
def test_the_base_can_be_asked_for(folder: Path, base: str) -> None:
    constants = dict(_task(folder, base=base).network().named_buffers())
    assert ("base.maps" in constants) == (base != "var")
    if base == "persistence":
        assert not constants["base.maps"].any()


def test_few_rows_are_forecast_without_a_monitor(tmp_path: Path) -> None:
    rows = rows_of_a_ring(120)
    wide = np.concatenate([rows + shift for shift in range(20)], axis=1)  # more sensors than rows
    np.savetxt(
        tmp_path / "few.csv",
        wide,
        delimiter=",",
        header=",".join(f"s{at}" for at in range(120)),
        comments="",
    )
    task = _task(tmp_path / "few.csv", window=4, horizon=2)
    assert task.contract.alarm is None
    assert [spec.name for spec in task.contract.outputs] == ["forecast", "lower", "upper"]
    with pytest.raises(TrainingFailedError, match="no VAR here"):
        _task(tmp_path / "few.csv", window=4, horizon=2, base="var")


def test_runs_too_short_for_window_and_horizon_are_refused(folder: Path) -> None:
    with pytest.raises(TrainingFailedError, match="windows of 503 rows do not fit"):
        _task(folder, window=500)


def test_no_test_rows_are_judged_on_what_is_held_back(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("s0,s1\n" + "1,2\n" * 3)
    lines = [f"{a:.3f},{b:.3f}" for a, b in rows_of_a_ring(400)[:, :2]]
    (tmp_path / "train.csv").write_text("\n".join(["s0,s1", *lines]))
    with pytest.raises(DataError, match="the longest run of this part has 3"):
        _task(tmp_path).samples()


def test_an_unknown_option_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidSettingError, match="colour"):
        _task(folder, colour="red")


def test_streamed_rows_give_batches_of_the_same_kind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards.write(
        str(tmp_path / "train"),
        rows_of_a_ring().astype(np.float32),
        [f"s{number}" for number in range(SENSORS)],
        shard_rows=300,
    )
    monkeypatch.setattr(series, "open", partial(series.open, memory_bytes=8000))
    streamed, loaded = _task(tmp_path), _task(folder)
    one, other = (next(task.source(batch=4).batches(3)) for task in (streamed, loaded))
    assert {name: (each.shape, each.dtype) for name, each in one.items()} == {
        name: (each.shape, each.dtype) for name, each in other.items()
    }
    again = next(_task(tmp_path).source(batch=4).batches(3))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert streamed.network() is not None
    assert streamed.baselines().keys() == loaded.baselines().keys()


def test_the_docs_list_every_option() -> None:
    text = (Path(__file__).parents[3] / "docs" / "forecasting.md").read_text()
    own = set(ForecasterConfig.__struct_fields__) - {"entities"}
    assert {name for name in own if f"`{name}`" not in text} == set()


def test_the_fleet_of_a_model_is_that_of_the_sites_or_else_of_the_runs(tmp_path: Path) -> None:
    names, runs = ("a", "b"), [rows_of_a_ring(600, seed)[:, :2] + 9 * seed for seed in range(3)]
    lines = [f"{at},{row[0]:.4f},{row[1]:.4f}" for at, rows in enumerate(runs) for row in rows]
    (tmp_path / "train.csv").write_text("\n".join(["site,a,b", *lines]))

    def fleet_of(base: Moments | None = None) -> Fleet:
        task = find("sensor-graph").open(_run(tmp_path, base="direct", window=4), base)
        return unpack(task.assets["fleet"], names)

    own = fleet_of()
    assert 3 * 400 < own.moments.n < 3 * 600
    assert own.weight in WEIGHTS
    within = own.moments.yy / own.moments.n
    assert np.all(np.diag(within) < 81), "each run is about its own mean"
    rows = [rows.astype(np.float32) for rows in runs]
    sites = moments_of_runs(rows, sensors=names, lags=3)
    given = fleet_of(sites)
    assert np.array_equal(given.moments.zz, sites.within.zz)
    assert given.weight == own.weight
    few = moments_of_runs(rows[:2], sensors=names, lags=3)
    assert np.array_equal(fleet_of(few).moments.zz, own.moments.zz), "each knew the other's"
    old = unpacked_moments(packed_moments(sites)).add(Moments.empty(names, 3))
    assert np.array_equal(fleet_of(old).moments.zz, own.moments.zz)
