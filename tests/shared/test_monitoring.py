"""Monitoring of a site: charts, exact shares of sensors, limits that keep their promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimass_shared.errors import TrainingFailedError
from aimass_shared.moments import moments
from aimass_shared.monitoring import (
    CHARTS,
    LONGEST,
    RootSums,
    SiteMonitor,
    averaged_t2,
    limit,
    shares,
    statistics,
)
from aimass_shared.var import solve

SENSORS = 4
NAMES = tuple("abcd")
MIXING = np.array(
    [[1.0, 0.8, 0.0, 0.0], [0.0, 0.6, 0.0, 0.3], [0.0, 0.0, 1.0, 0.0], [0.2, 0.0, 0.0, 1.0]]
)


def _series(rows: int, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    series: NDArray[np.float64] = np.zeros((rows, SENSORS))
    for at in range(1, rows):
        series[at] = 0.7 * series[at - 1] + random.normal(0, 0.1, SENSORS) @ MIXING
    return np.asarray(series + np.array([5.0, -2.0, 100.0, 0.0]), np.float64)


def _monitor(seed: int = 1) -> SiteMonitor:
    rows = _series(1500, seed).astype(np.float32)
    var = solve(moments([(rows, np.ones_like(rows))], sensors=NAMES, lags=2), 1.0)
    plain = SiteMonitor.uncalibrated(var)
    return plain.calibrated(plain.calibration(_series(800, seed + 1)))


MONITOR = _monitor()


def test_normal_rows_pass_as_rarely_as_they_were_promised_to() -> None:
    found = np.mean([np.mean(MONITOR.score(_series(3000, seed)) > 1) for seed in (5, 6, 7)])
    assert 0 < found < 2 * MONITOR.limits.nominal


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, SENSORS - 1), st.floats(-3, 3))
def test_shares_are_not_negative_and_add_up_to_the_score(
    seed: int, sensor: int, jump: float
) -> None:
    rows = _series(60, seed)
    rows[30:, sensor] += jump
    explained = MONITOR.explained(rows)
    assert (explained >= 0).all()
    each = statistics(MONITOR.shares(rows)) / MONITOR.limits.levels
    assert np.allclose(explained.sum(axis=1), each.max(axis=1), rtol=1e-9)
    assert np.allclose(explained.sum(axis=1), MONITOR.score(rows), rtol=1e-9)
    assert len(explained) == len(rows) - MONITOR.lead


def test_the_statistics_are_t2_of_the_residuals_and_of_their_mean() -> None:
    residuals = MONITOR.var.residuals(_series(40, 9))[-LONGEST:]
    inverse = np.linalg.inv(MONITOR.var.shrunk_covariance())
    (found,) = statistics(shares(residuals @ MONITOR.whitening))
    for chart, value in zip(CHARTS, found, strict=True):
        newest = residuals[-chart.rows :]
        mean = newest.mean(axis=0)
        each = [row @ inverse @ row for row in newest]
        expected = np.mean(each) if chart.kind == "spread" else chart.rows * mean @ inverse @ mean
        assert value == pytest.approx(expected / SENSORS)


def test_a_fault_is_blamed_on_its_sensor() -> None:
    for sensor in range(SENSORS):
        rows = _series(80, 10)
        rows[40:, sensor] += 1.0
        explained = MONITOR.explained(rows)[41 - MONITOR.lead]
        assert explained.sum() > 1
        assert explained.argmax() == sensor


def test_each_chart_sees_best_what_it_is_for() -> None:
    random = np.random.default_rng(3)
    calm = random.normal(0, 1, (20_000, SENSORS))
    levels = np.quantile(statistics(shares(calm)), 0.99, axis=0)

    def found(white: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.mean(statistics(shares(white)) > levels, axis=0), np.float64)

    noisy, shifted = found(calm * 1.3), found(calm + 0.6)
    assert noisy.argmax() == 1
    assert shifted.argmax() == 2
    burst = calm[:LONGEST].copy()
    burst[-1] *= 5
    assert (statistics(shares(burst)) / levels).argmax() == 0


def test_a_missing_value_has_no_share() -> None:
    rows = _series(40, 12)
    rows[-LONGEST:, 2] = np.nan
    explained = MONITOR.explained(rows)[-1]
    assert np.isfinite(explained).all()
    assert explained[2] < explained.max() / 10


def test_t2_is_averaged_over_rows() -> None:
    white = np.arange(12.0).reshape(6, 2)
    each = (white**2).mean(axis=1)
    assert np.allclose(averaged_t2(white, 2), (each[1:] + each[:-1]) / 2)
    assert averaged_t2(white[:1], 2).shape == (0,)


def test_a_limit_is_that_of_the_next_value_however_few_there_were() -> None:
    random = np.random.default_rng(0)
    passed = []
    for _ in range(4000):
        own = RootSums.of(random.normal(3.0, 0.5, 12) ** 3, 1)
        passed.append(random.normal(3.0, 0.5) ** 3 > limit(own, nominal=0.02))
    assert np.mean(passed) == pytest.approx(0.02, abs=0.008)


def test_the_spread_is_the_fleets_and_the_level_the_sites_own() -> None:
    random = np.random.default_rng(1)
    sites = [RootSums.of(random.normal(place, 0.5, 40) ** 3, 4) for place in range(5, 25)]
    levels = [np.cbrt(limit(site, sites, nominal=0.01)) for site in sites]
    assert np.allclose(np.diff(levels), 1.0, atol=0.4)
    alone = np.cbrt([limit(site, nominal=0.01) for site in sites])
    assert np.mean(alone) > np.mean(levels)


def test_too_few_windows_calibrate_nothing() -> None:
    with pytest.raises(TrainingFailedError, match="24 are needed"):
        MONITOR.calibration(_series(30, 4))
