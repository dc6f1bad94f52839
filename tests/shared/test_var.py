"""The ridge VAR: federated sums give the pooled solution, units do not matter, sites shrink."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimass_shared.errors import BadUpdateError, TrainingFailedError
from aimass_shared.moments import Moments, moments
from aimass_shared.var import Var, centred, shrunk, solve

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


def test_whitening_is_that_of_the_correlations_root() -> None:
    covariance = np.array([[4.0, 1.0], [1.0, 1.0]])
    zero = np.zeros(2)
    var = Var(zero, zero + 1, zero, np.zeros((2, 2)), covariance, lags=1)
    whitening = var.whitening(shrinkage=0.0)
    deviation = np.sqrt(np.diag(covariance))
    root = whitening * deviation[:, None]
    correlations = covariance / np.outer(deviation, deviation)
    assert np.allclose(root, root.T)
    assert np.allclose(root @ root @ correlations, np.eye(2))


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


def test_residuals_are_what_the_forecast_missed() -> None:
    rows = _series(60, 11)
    var = solve(_moments(rows))
    ahead = [var.forecast(rows[None, :at], 1)[0, 0] for at in range(2, 60)]
    assert np.allclose(var.residuals(rows), var.standardised(rows[2:]) - ahead)


def test_a_missing_value_has_no_residual_and_its_history_is_the_mean() -> None:
    rows = _series(60, 12)
    var = solve(_moments(rows))
    gone, mean = rows.copy(), rows.copy()
    gone[30, 1], mean[30, 1] = np.nan, var.mean[1]
    found, expected = var.residuals(gone), var.residuals(mean)
    assert found[28, 1] == 0.0
    expected[28, 1] = 0.0
    assert np.allclose(found, expected, atol=1e-6)


def test_centred_moments_are_those_of_centred_rows() -> None:
    rows = _series(200, 13)
    about = (rows - rows[2:].mean(axis=0, dtype=np.float64)).astype(np.float32)
    plain, expected = _moments(rows), _moments(about)
    for found, wanted in zip(
        centred(plain).arrays().values(), expected.arrays().values(), strict=True
    ):
        assert np.allclose(found, wanted, atol=1e-2)


def _fleet(*sites: Moments) -> Moments:
    total = Moments.empty(NAMES, 2)
    for site in sites:
        total = total.add(centred(site))
    return total


def test_a_site_shrinks_from_its_own_solution_to_the_fleets() -> None:
    site, others = _moments(_series(80, 14)), [_moments(_series(400, seed)) for seed in (15, 16)]
    fleet = _fleet(site, *others)
    alone = shrunk(site, fleet, 0.0, ridge=1e-9)
    plain = solve(site, 1e-9)
    in_units = alone.coefficients * alone.scale / np.tile(alone.scale, 2)[:, None]
    expected = plain.coefficients * plain.scale / np.tile(plain.scale, 2)[:, None]
    assert np.allclose(in_units, expected, atol=1e-6)
    whole, common = shrunk(site, fleet, math.inf), solve(fleet)
    assert np.allclose(whole.coefficients, common.coefficients)
    assert np.allclose(whole.covariance, common.covariance)
    assert np.allclose(whole.mean, plain.mean)
    between = shrunk(site, fleet, 200.0)
    gaps = [np.abs(one.coefficients - whole.coefficients).sum() for one in (alone, between)]
    assert 0 < gaps[1] < gaps[0]


def test_borrowed_rows_count_as_rows_of_the_site() -> None:
    site = _moments(_series(120, 17))
    fleet = _fleet(site)
    twice = shrunk(site, fleet, float(site.n), ridge=2e-3)
    assert np.allclose(twice.coefficients, shrunk(site, fleet, 0.0, ridge=1e-3).coefficients)


def test_sites_at_other_levels_help_each_other_and_rows_of_another_process_surprise() -> None:
    far = [np.asarray(_series(300, seed) + 50.0 * seed, np.float32) for seed in (18, 19, 20)]
    short, held_back = far[0][:40], far[0][40:]
    fleet = _fleet(_moments(short), *(_moments(run) for run in far[1:]))
    alone, helped = (shrunk(_moments(short), fleet, weight) for weight in (0.0, 300.0))
    assert helped.surprise(held_back) < alone.surprise(held_back)
    assert helped.surprise(held_back[::-1].copy()) > helped.surprise(held_back)


def test_shrinking_refuses_another_fleet_and_a_site_without_rows() -> None:
    site = _moments(_series(80, 21))
    with pytest.raises(BadUpdateError, match="other sensors or lags"):
        shrunk(site, _moments(_series(80, 22), lags=1), 1.0)
    with pytest.raises(TrainingFailedError, match="without complete rows"):
        shrunk(Moments.empty(NAMES, 2), _fleet(site), 1.0)
