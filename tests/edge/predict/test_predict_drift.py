"""Drift on the device: of inputs and of forecasts, only what is new, only what is known."""

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

from aimass_edge.predict.drift import MOST_TOLD, DriftWatch
from aimass_shared.drift import DriftScore
from aimass_shared.manifest import Contract, Normal, Sensor

STEP, WINDOW = 1000, 4
NORMAL = Normal(mean=(10.0, 0.0, -5.0), deviation=(2.0, 1.0, 0.5), error=(1.0, 0.5, 0.1))
RANDOM = np.random.default_rng(5)


@pytest.fixture
def watched(contract: Contract) -> Contract:
    return structs.replace(contract, normal=NORMAL)


def _rows(count: int) -> NDArray[np.float32]:
    noise = RANDOM.normal(0, 1, (count, 3))
    return np.asarray(noise * NORMAL.deviation + NORMAL.mean, np.float32)


def _run(
    watch: DriftWatch,
    rows: NDArray[np.float32],
    *,
    stride: int = 1,
    forecasts: NDArray[np.float32] | None = None,
) -> None:
    """Windows over rows; the forecast of row t is `forecasts[t]`."""
    for end in range(WINDOW, len(rows), stride):
        values = rows[None, end - WINDOW : end]
        ahead = () if forecasts is None else tuple(map(float, forecasts[end]))
        watch.step({"values": values, "mask": np.ones_like(values)}, (end - 1) * STEP, ahead)


def test_normal_telemetry_does_not_drift_and_a_shifted_sensor_does(watched: Contract) -> None:
    watch, rows = DriftWatch(watched), _rows(1500)
    _run(watch, rows)
    assert max(one.inputs for one in watch.found().values()) < 0.1
    assert watch.worst() == {}
    rows[:, 1] += 1.5
    _run(watch, rows)
    found = watch.found()
    assert found["B"].inputs > 1.0 > found["A"].inputs
    assert list(watch.worst()) == ["B"]
    assert found["B"].residuals == 0.0, "there were no forecasts"


def test_forecasts_that_get_worse_drift_though_the_inputs_are_normal(watched: Contract) -> None:
    watch, rows = DriftWatch(watched), _rows(1500)
    missed = RANDOM.normal(0, 1, rows.shape) * NORMAL.error
    _run(watch, rows, forecasts=np.asarray(rows - missed, np.float32))
    assert max(one.residuals for one in watch.found().values()) < 0.1
    missed[:, 2] *= 3.0
    _run(watch, rows, forecasts=np.asarray(rows - missed, np.float32))
    found = watch.found()
    assert found["C"].residuals > 1.0
    assert max(found["A"].residuals, found["B"].residuals) < 0.2
    assert found["C"].inputs < 0.1


@pytest.mark.parametrize("stride", [1, 3])
def test_each_row_counts_once_whatever_the_stride(watched: Contract, stride: int) -> None:
    contract = structs.replace(watched, stride=stride)
    watch, rows, expected = DriftWatch(contract), _rows(301), DriftScore(3)
    _run(watch, rows, stride=stride)
    last = range(WINDOW, 301, stride)[-1]
    for row in (rows[WINDOW - stride : last] - NORMAL.mean) / NORMAL.deviation:
        expected.add(row, np.ones(3, np.bool_))
    found = [one.inputs for one in watch.found().values()]
    assert found == pytest.approx(expected.scores().tolist(), abs=1e-4)


def test_a_forecast_of_another_time_is_not_judged(watched: Contract) -> None:
    watch, rows = DriftWatch(watched), _rows(8)
    for end_ms in (3000, 9000, 15_000):
        values = rows[None, :WINDOW]
        feeds = {"values": values, "mask": np.ones_like(values)}
        watch.step(feeds, end_ms, (99.0, 99.0, 99.0))
    assert all(one.residuals == 0.0 for one in watch.found().values())


def test_missing_values_do_not_drift(watched: Contract) -> None:
    watch = DriftWatch(watched)
    values = np.zeros((1, WINDOW, 3), np.float32)
    for number in range(50):
        watch.step({"values": values, "mask": np.zeros_like(values)}, number * STEP, ())
    assert all(one.inputs == 0.0 for one in watch.found().values())


def test_without_a_reference_there_is_nothing_to_tell(contract: Contract) -> None:
    watch = DriftWatch(contract)
    _run(watch, _rows(20))
    assert (watch.found(), watch.worst()) == ({}, {})


def test_a_heartbeat_names_the_worst_of_many() -> None:
    count = 40
    names = tuple(Sensor(f"s{number}", "", "continuous") for number in range(count))
    normal = Normal((0.0,) * count, (1.0,) * count, (1.0,) * count)
    contract = Contract("m", (), (), sensors=names, step_ms=1, window=WINDOW, normal=normal)
    watch = DriftWatch(contract)
    values = np.zeros((1, WINDOW, count), np.float32)
    values += np.arange(count, dtype=np.float32) / 4
    for number in range(500):
        watch.step({"values": values}, number, ())
    told = watch.worst()
    assert len(told) == MOST_TOLD
    assert list(told.values()) == sorted(told.values(), reverse=True)
    assert next(iter(told)) == "s39"
