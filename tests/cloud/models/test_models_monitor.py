"""The monitor and the PCA baseline: the right score, the right sensor, the promised threshold."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aimass_cloud.models.base import VarBase
from aimass_cloud.models.linear import DLinear, persistence
from aimass_cloud.models.monitor import ROWS, Monitor, threshold
from aimass_cloud.models.pca import Pca
from aimass_cloud.models.var import Var, solve
from aimass_shared.moments import moments

RANDOM = np.random.default_rng(11)
ROWS_OF_NOISE = np.cumsum(RANDOM.normal(0, 0.1, (400, 3)), axis=0) * 0.1 + RANDOM.normal(
    0, 1, (400, 3)
)
NOISE: NDArray[np.float32] = (ROWS_OF_NOISE * [1.0, 10.0, 0.1] + [0.0, 50.0, 3.0]).astype(
    np.float32
)


def _parts() -> tuple[Var, VarBase, Monitor]:
    var = solve(moments([(NOISE, np.ones_like(NOISE))], sensors=("a", "b", "c"), lags=2))
    arrays = {
        "base.mean": var.mean,
        "base.scale": var.scale,
        "base.intercept": var.intercept,
        "base.coefficients": var.coefficients,
        "monitor.whitening": var.whitening(),
        "monitor.deviation": np.sqrt(np.diag(var.covariance)),
    }
    constants = {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
    return var, VarBase(constants), Monitor(constants)


def _scored(rows: NDArray[np.float32], mask: NDArray[np.float32]) -> tuple[float, list[float]]:
    _, base, monitor = _parts()
    values, known = torch.tensor(rows)[None], torch.tensor(mask)[None]
    score, contribution = monitor(base, base.standardised(values, known), known)
    return float(score), contribution[0].tolist()


def test_the_score_is_the_averaged_t2_of_the_newest_residuals() -> None:
    var, _, _ = _parts()
    rows = NOISE[100:116]
    each = []
    for at in range(16 - ROWS, 16):
        ahead = var.forecast(rows[None, :at], 1)[0, 0]
        residual = var.standardised(rows[at]) - ahead
        shrunk = 0.9 * var.covariance + 0.1 * np.diag(np.diag(var.covariance))
        each.append(residual @ np.linalg.solve(shrunk, residual) / 3)
    score, _ = _scored(rows, np.ones_like(rows))
    assert score == pytest.approx(np.mean(each), rel=1e-4)


def test_torch_and_numpy_forecast_the_same() -> None:
    var, base, _ = _parts()
    windows = np.stack([NOISE[10:26], NOISE[50:66]])
    values = torch.tensor(windows)
    forecast = base(base.standardised(values, torch.ones_like(values)), 4)
    assert np.allclose(forecast.numpy(), var.forecast(windows, 4), atol=1e-5)


def test_a_jump_is_scored_and_blamed_on_its_sensor() -> None:
    rows = NOISE[200:216].copy()
    calm, _ = _scored(rows, np.ones_like(rows))
    rows[-2:, 1] += 80.0
    score, contribution = _scored(rows, np.ones_like(rows))
    assert score > 5 * calm
    assert np.argmax(contribution) == 1


def test_a_missing_value_is_not_blamed() -> None:
    rows, mask = NOISE[200:216].copy(), np.ones((16, 3), np.float32)
    rows[-ROWS:, 2], mask[-ROWS:, 2] = np.nan, 0.0
    score, contribution = _scored(rows, mask)
    assert np.isfinite(score)
    assert contribution[2] == 0.0


def test_a_threshold_is_passed_as_often_as_it_promises() -> None:
    scores = np.exp(RANDOM.normal(0.2, 0.3, 200_000))
    level = threshold(scores[:2000], nominal=0.01)
    assert np.mean(scores > level) == pytest.approx(0.01, abs=0.004)


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
