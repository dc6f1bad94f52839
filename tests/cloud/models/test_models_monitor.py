"""The monitor and the PCA baseline: the right score, the right sensor, the promised threshold."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aimass_cloud.models.base import VarBase
from aimass_cloud.models.linear import DLinear, persistence
from aimass_cloud.models.monitor import Monitor, monitor_constants, threshold, window_rows
from aimass_cloud.models.pca import Pca
from aimass_cloud.models.shrinkage import LAGS, RIDGE
from aimass_shared.errors import TrainingFailedError
from aimass_shared.moments import moments
from aimass_shared.monitoring import SiteMonitor
from aimass_shared.var import solve

RANDOM = np.random.default_rng(11)
WINDOW = 16


def _noise(rows: int) -> NDArray[np.float32]:
    slow = np.cumsum(RANDOM.normal(0, 0.1, (rows, 3)), axis=0) * 0.1
    noise = slow + RANDOM.normal(0, 1, (rows, 3))
    return np.asarray(noise * [1.0, 10.0, 0.1] + [0.0, 50.0, 3.0], np.float32)


NOISE, HELD_BACK = _noise(400), _noise(300)
MOMENTS = moments([(NOISE, np.ones_like(NOISE))], sensors=("a", "b", "c"), lags=LAGS)
VAR = solve(MOMENTS.shortened(2))
CONSTANTS = {
    f"base.{name}": torch.tensor(getattr(VAR, name), dtype=torch.float32)
    for name in ("mean", "scale", "intercept", "coefficients")
}
BASE, MONITOR = VarBase(CONSTANTS), Monitor(monitor_constants(MOMENTS, HELD_BACK))


def _scored(rows: NDArray[np.float32], mask: NDArray[np.float32]) -> tuple[float, list[float]]:
    values, known = torch.tensor(rows)[None], torch.tensor(mask)[None]
    score, contribution = MONITOR(BASE.standardised(values, known), known)
    return float(score), contribution[0].tolist()


def _windows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    view = np.lib.stride_tricks.sliding_window_view(rows, WINDOW, axis=0)
    return np.ascontiguousarray(view.transpose(0, 2, 1))


def test_torch_and_numpy_score_and_explain_the_same() -> None:
    plain = SiteMonitor.uncalibrated(solve(MOMENTS, RIDGE))
    monitor = plain.calibrated(plain.calibration(HELD_BACK))
    run = _noise(60)
    run[40:, 1] += 20.0
    values = torch.tensor(_windows(run))
    mask = torch.ones_like(values)
    score, contribution = MONITOR(BASE.standardised(values, mask), mask)
    first = WINDOW - 1 - monitor.lead
    assert np.allclose(score.numpy(), monitor.score(run)[first:], rtol=1e-3)
    assert np.allclose(contribution.numpy(), monitor.explained(run)[first:], rtol=1e-2, atol=1e-4)


def test_contributions_add_up_to_the_score() -> None:
    values = torch.tensor(_windows(_noise(100)))
    mask = (torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) > 0.2).float()
    score, contribution = MONITOR(BASE.standardised(values, mask), mask)
    assert (contribution >= 0).all()
    assert torch.allclose(contribution.sum(dim=1), score, rtol=1e-4)


def test_torch_and_numpy_forecast_the_same() -> None:
    windows = np.stack([NOISE[10:26], NOISE[50:66]])
    values = torch.tensor(windows)
    mask = torch.ones_like(values)
    forecast = BASE(BASE.standardised(values, mask), mask, 4)
    assert np.allclose(forecast.numpy(), VAR.forecast(windows, 4), atol=1e-5)


def test_a_jump_is_scored_and_blamed_on_its_sensor() -> None:
    rows = NOISE[200:216].copy()
    calm, _ = _scored(rows, np.ones_like(rows))
    rows[-2:, 1] += 80.0
    score, contribution = _scored(rows, np.ones_like(rows))
    assert calm < 1 < score
    assert np.argmax(contribution) == 1


def test_a_missing_value_is_not_blamed() -> None:
    rows, mask = NOISE[200:216].copy(), np.ones((16, 3), np.float32)
    rows[:, 2], mask[:, 2] = np.nan, 0.0
    score, contribution = _scored(rows, mask)
    assert np.isfinite(score)
    assert contribution[2] < max(contribution) / 10


def test_a_window_holds_the_charts_and_their_history() -> None:
    assert window_rows() == 15 <= WINDOW
    with pytest.raises(TrainingFailedError, match="too few to calibrate"):
        monitor_constants(MOMENTS, HELD_BACK[:14])


def test_a_threshold_is_passed_as_often_as_it_promises() -> None:
    scores = RANDOM.chisquare(8, 200_000)
    level = threshold(scores[:2000], nominal=0.01)
    assert np.mean(scores > level) == pytest.approx(0.01, abs=0.003)


def test_pca_finds_a_broken_correlation() -> None:
    first = RANDOM.normal(0, 1, 500)
    rows = np.stack([first, first + RANDOM.normal(0, 0.05, 500), RANDOM.normal(0, 1, 500)], axis=1)
    pca = Pca.fit(rows)
    assert np.mean(pca.score(rows) > 1) < 0.03
    assert pca.score(np.array([[1.0, -1.0, 0.0]]))[0] > 5


def test_dlinear_continues_a_line_and_persistence_does_not() -> None:
    starts = RANDOM.normal(0, 1, (200, 1, 2))
    slopes = RANDOM.normal(0, 0.1, (200, 1, 2))
    lines = starts + slopes * np.arange(12.0)[None, :, None]
    past, future = lines[:, :8], lines[:, 8:]
    dlinear = DLinear.fit(past[:150], future[:150], ridge=1e-6)
    assert np.abs(dlinear.forecast(past[150:]) - future[150:]).max() < 0.02
    assert np.abs(persistence(past[150:], 4) - future[150:]).max() > 0.2
