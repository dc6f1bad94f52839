"""Direct forecasts in closed form: the same as from windows, exact errors, gaps."""

import numpy as np
import pytest
from numpy.typing import NDArray

from aimass_cloud.models.direct import Direct, Fit, WindowMoments, candidates, filled, persistence
from aimass_cloud.models.windows import cut
from aimass_shared.errors import TrainingFailedError

LOOK_BACK, HORIZON = 6, 3
LENGTH = LOOK_BACK + HORIZON
Floats = NDArray[np.float64]


def _walks(rows: int, seed: int) -> Floats:
    """Three waves that drift."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(rows, 3)) * 0.1
    waves = np.sin(np.arange(rows)[:, None] * np.array([0.3, 0.5, 0.9]))
    return np.asarray(waves + np.cumsum(noise, axis=0), np.float64)


def _windows(runs: list[Floats]) -> Floats:
    return np.concatenate(
        [cut(run.astype(np.float32), LENGTH) for run in runs if len(run) >= LENGTH]
    ).astype(np.float64)


@pytest.mark.parametrize("pooled", [True, False])
def test_moments_of_windows_are_those_of_the_windows_themselves(*, pooled: bool) -> None:
    runs = [_walks(40, 1), _walks(4, 2), _walks(25, 3)]
    moments = WindowMoments.of(runs, LENGTH, pooled=pooled)
    windows = _windows(runs)
    expected = np.einsum("nis,njs->sij", windows, windows)
    expected = expected.sum(axis=0, keepdims=True) if pooled else expected
    assert moments.windows == len(windows) * 3
    assert np.allclose(moments.products, expected, rtol=1e-4, atol=1e-4)


def test_the_maps_are_those_of_a_ridge_regression_on_windows() -> None:
    windows = _windows([_walks(80, 1)])
    fit = Fit(WindowMoments.of([_walks(80, 1)], LENGTH, pooled=True), HORIZON)
    past = windows[:, :LOOK_BACK] - windows[:, LOOK_BACK - 1 : LOOK_BACK]
    future = windows[:, LOOK_BACK:] - windows[:, LOOK_BACK - 1 : LOOK_BACK]
    z = past.transpose(0, 2, 1).reshape(-1, LOOK_BACK)
    y = future.transpose(0, 2, 1).reshape(-1, HORIZON)
    for ridge, direct in fit.solved(LOOK_BACK):
        penalty = ridge * np.trace(z.T @ z) / (LOOK_BACK - 1)
        expected = np.linalg.solve(z.T @ z + penalty * np.eye(LOOK_BACK), z.T @ y)
        assert np.allclose(direct.maps[0], expected, atol=1e-4)


@pytest.mark.parametrize("look_back", [2, LOOK_BACK])
def test_errors_need_no_windows(look_back: int) -> None:
    train, held_back = _walks(120, 1), _walks(60, 2)
    windows = _windows([held_back])
    truth = Fit(WindowMoments.of([held_back], LENGTH, pooled=False), HORIZON)
    own = Fit(WindowMoments.of([train], LENGTH, pooled=False), HORIZON)
    shared = Fit(WindowMoments.of([train], LENGTH, pooled=True), HORIZON)
    for fit in (own, shared):
        for _, direct in fit.solved(look_back):
            missed = direct.forecast(windows[:, :LOOK_BACK]) - windows[:, LOOK_BACK:]
            assert truth.error(direct) == pytest.approx(np.mean(missed**2), rel=1e-4)


def test_a_shift_of_the_level_shifts_the_forecast() -> None:
    """Prices and loads drift away from where they were in training."""
    direct = next(Fit(WindowMoments.of([_walks(80, 1)], LENGTH, pooled=True), HORIZON).solved(4))[1]
    windows = _windows([_walks(30, 2)])[:, :LOOK_BACK]
    assert np.allclose(direct.forecast(windows + 9), direct.forecast(windows) + 9)


def test_persistence_is_the_last_value() -> None:
    windows = _windows([_walks(30, 2)])
    assert np.array_equal(persistence(2).forecast(windows), windows[:, [-1, -1]])


def test_waves_are_forecast_better_than_by_persistence() -> None:
    found = candidates([_walks(300, 1)], [_walks(100, 2)], rows=(3, 6), horizon=HORIZON)
    errors = {each.name: each.error for each in found}
    assert len(errors) == len(found) == 1 + 2 * 2 * 4
    assert min(errors.values()) < 0.5 * errors["persistence"]
    assert {isinstance(each.direct, Direct) for each in found} == {True}


def test_gaps_are_filled_with_the_value_before() -> None:
    rows = np.array([[np.nan, 1.0], [2.0, np.nan], [np.nan, np.nan], [3.0, 4.0]])
    assert filled(rows).tolist() == [[0, 1], [2, 1], [2, 1], [3, 4]]


def test_runs_that_are_too_short_are_refused() -> None:
    with pytest.raises(TrainingFailedError, match="windows of 9 rows do not fit: the longest"):
        candidates([_walks(8, 1)], [_walks(8, 2)], rows=(LOOK_BACK,), horizon=HORIZON)
