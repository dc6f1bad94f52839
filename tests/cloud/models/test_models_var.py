"""The ridge VAR: federated sums give the pooled solution, units do not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimass_cloud.models.var import Var, solve
from aimass_shared.errors import TrainingFailedError
from aimass_shared.moments import Moments, moments

SENSORS = 3
NAMES = ("a", "b", "c")
TRUTH = np.array([[0.6, 0.2, 0.0], [0.0, 0.5, -0.3], [0.1, 0.0, 0.7]])


def _series(rows: int, seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    series = np.zeros((rows, SENSORS))
    for at in range(1, rows):
        series[at] = series[at - 1] @ TRUTH + random.normal(0, 0.1, SENSORS)
    return np.asarray(series + np.array([5.0, -2.0, 100.0]), np.float32)


def _moments(*runs: NDArray[np.float32], lags: int = 2) -> Moments:
    return moments([(run, np.ones_like(run)) for run in runs], sensors=NAMES, lags=lags)


def _close(first: Var, second: Var) -> bool:
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    return all(np.allclose(one, other, rtol=1e-9, atol=1e-9) for one, other in pairs)


def test_the_sum_of_sites_gives_the_solution_of_their_pooled_rows() -> None:
    runs = [_series(60 + 10 * site, site) for site in range(4)]
    total = Moments.empty(NAMES, 2)
    for run in runs:
        total = total.add(_moments(run))
    assert _close(solve(total), solve(_moments(*runs)))


def test_a_known_process_is_found() -> None:
    var = solve(_moments(_series(20_000, 1), lags=1), ridge=1e-6)
    in_units = var.coefficients * var.scale / var.scale[:, None]
    assert np.allclose(in_units, TRUTH, atol=0.03)
    assert np.allclose(np.sqrt(np.diag(var.covariance)) * var.scale, 0.1, atol=0.003)


@settings(max_examples=25, deadline=None)
@given(
    factors=st.lists(st.floats(0.01, 100.0), min_size=SENSORS, max_size=SENSORS),
    order=st.permutations(range(SENSORS)),
)
def test_other_units_and_another_order_give_the_same_forecast(
    factors: list[float], order: list[int]
) -> None:
    rows = _series(300, 7)
    other = (rows[:, order] * factors).astype(np.float32)
    plain, changed = solve(_moments(rows)), solve(_moments(other))
    windows = np.stack([rows[20:30], rows[100:110]])
    expected = plain.forecast(windows, 3)[:, :, order]
    assert np.allclose(changed.forecast(windows[:, :, order] * factors, 3), expected, atol=1e-3)


def test_whitened_residuals_have_unit_covariance() -> None:
    var = solve(_moments(_series(500, 3)))
    white = var.whitening(shrinkage=0.0)
    assert np.allclose(white.T @ var.covariance @ white, np.eye(SENSORS), atol=1e-9)


def test_shrinking_keeps_a_copied_sensor_from_a_division_by_zero() -> None:
    rows = _series(200, 4)
    rows[:, 1] = rows[:, 0]
    assert np.isfinite(solve(_moments(rows)).whitening()).all()


def test_a_sensor_that_never_moves_stays_in_its_unit() -> None:
    rows = _series(200, 5)
    rows[:, 2] = 40.0
    var = solve(_moments(rows))
    assert var.scale[2] == 1.0
    assert np.isfinite(var.whitening()).all()
    assert var.forecast(rows[None, -10:], 2)[0, :, 2] == pytest.approx([0.0, 0.0], abs=1e-6)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(TrainingFailedError, match="3 complete rows of 3 sensors"):
        solve(_moments(_series(5, 6)))


def test_singular_moments_are_refused() -> None:
    rows = _series(100, 8)
    rows[:, 1] = rows[:, 0]
    with pytest.raises(TrainingFailedError, match="moments"):
        solve(_moments(np.round(rows)), ridge=0.0)
