"""Gate, detection figures and trainer, each on cases whose answer is known."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aimass_cloud.models.forecaster import Forecaster
from aimass_cloud.models.graph import SensorGraph
from aimass_cloud.models.trained import ForecasterConfig
from aimass_cloud.recipes import tep
from aimass_cloud.training import Plan
from aimass_cloud.training.batches import Batch
from aimass_cloud.training.detection import measured
from aimass_cloud.training.forecasting import gate
from aimass_cloud.training.trainer import Trained, Trainer
from aimass_shared.errors import TrainingFailedError
from aimass_shared.manifest import Sensor

SENSORS = tuple(Sensor(f"s{number}", "%", "continuous") for number in range(3))
WINDOW = 16


def _held() -> Batch:
    """Two sensors of noise, and one that only ever repeats its last value."""
    random = torch.Generator().manual_seed(2)
    window = torch.randn(200, WINDOW, 3, generator=random)
    target = torch.zeros(200, 2, 3)
    target[:, :, 2] = window[:, -1:, 2]
    return Batch(window, torch.zeros_like(target), target)


def _run(train: Batch, plan: Plan, held_back: Batch | None = None) -> Trained:
    torch.manual_seed(0)
    forecaster = Forecaster(ForecasterConfig(hidden=8), SENSORS, window=WINDOW, horizon=2)
    trainer = Trainer(forecaster, SensorGraph(3, 4, 2), widths=(1.0, 0.5), plan=plan)
    return trainer.run(
        train, train if held_back is None else held_back, seed=0, progress=lambda _f, _m: None
    )


def test_training_lowers_the_error_of_all_widths() -> None:
    batch = _held()
    before = _run(batch, Plan(steps=1, check=1, rate=0.0)).error
    after = _run(batch, Plan(steps=150, check=50)).error
    assert after < 0.3 * before


def test_training_stops_when_held_back_rows_gain_nothing() -> None:
    nothing = Batch(*(torch.zeros_like(part) for part in vars(_held()).values()))
    found = _run(_held(), Plan(steps=200, check=5, patience=3), held_back=nothing)
    assert found.steps + 15 == found.taken < 200


def test_an_error_that_is_no_number_is_a_failure() -> None:
    batch = _held()
    with pytest.raises(TrainingFailedError, match="after 1 steps"):
        _run(replace(batch, target=batch.target * torch.nan), Plan(steps=2, check=1))


def test_a_right_correction_is_let_through_and_a_wrong_one_is_not() -> None:
    random = torch.Generator().manual_seed(3)
    target = torch.randn(500, 2, 3, generator=random)
    added = torch.stack([target[..., 0], 2 * target[..., 1], -target[..., 2]], dim=-1)
    shares = gate(torch.zeros_like(target), added, target, kinds=[1, 1, 1])
    assert torch.allclose(shares, torch.tensor([1.0, 0.5, 0.0]).expand(2, 3), atol=1e-5)


def test_a_gate_cannot_make_the_forecast_worse_where_it_was_chosen() -> None:
    random = torch.Generator().manual_seed(4)
    linear, added, target = (torch.randn(50, 2, 3, generator=random) for _ in range(3))
    gated = linear + gate(linear, added, target, kinds=[2, 1]) * added
    assert (gated - target).square().mean() <= (linear - target).square().mean()


def test_detection_counts_windows_and_the_alarm_waits_for_three() -> None:
    data = tep.PLANT.load()

    def score(rows: NDArray[np.float32]) -> NDArray[np.floating]:
        """1 in normal operation, 9 in two spells of the fault that is asked about."""
        scores = np.exp(np.random.default_rng(5).normal(0, 0.01, len(rows) - WINDOW + 1))
        if len(rows) > 480:
            first = data.fault_start - WINDOW + 1
            scores[[*range(first, first + 2), *range(first + 10, first + 90)]] = 9.0
        return scores

    one = replace(data, faults=MappingProxyType({4: data.faults[4]}))
    found = measured(score, one, WINDOW)
    assert found["threshold"] == pytest.approx(1.03, abs=0.01)
    assert found["false_alarm_rate"] < 0.01
    assert found["faults"]["4"]["detection_rate"] == pytest.approx(82 / 800, abs=0.005)
    # Two in a row are no alarm; the third window of the second spell is row 12 of the fault.
    assert found["faults"]["4"]["delay_samples"] == 12


def test_a_fault_that_is_never_found_has_no_delay() -> None:
    data = tep.PLANT.load()
    found = measured(lambda rows: np.linspace(1, 1.1, len(rows) - WINDOW + 1), data, WINDOW)
    assert found["faults"]["1"] == {"detection_rate": 0.0, "delay_samples": None}
