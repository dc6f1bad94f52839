"""Monitors of many sites: the fleet helps the site with few rows, units and order do not matter."""

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.models.shrinkage import (
    WEIGHTS,
    SiteRows,
    chosen_weight,
    fleet_of,
    moments_of,
    normal_of,
    site_monitors,
)
from aimass_shared.monitoring import SiteMonitor
from aimass_shared.var import shrunk, solve

SENSORS = 4
TRUTH = np.diag([0.8, 0.6, 0.5, 0.7]) + 0.2 * np.eye(SENSORS, k=1)
MIXING = np.eye(SENSORS) + 0.7 * np.eye(SENSORS, k=-1)
TRAIN, CALIBRATION = 60, 80
LEVELS = np.array([10.0, -300.0, 0.5, 7.0])


def _series(rows: int, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    series: NDArray[np.float64] = np.zeros((rows + 50, SENSORS))
    for at in range(1, len(series)):
        series[at] = series[at - 1] @ TRUTH + random.normal(0, 0.1, SENSORS) @ MIXING
    return np.asarray(series[50:] + LEVELS * (1 + seed % 7), np.float64)


RUNS = {f"site {seed}": _series(TRAIN + CALIBRATION + 600, seed) for seed in range(6)}


def _sites(runs: dict[str, NDArray[np.float64]]) -> dict[str, SiteRows]:
    end = TRAIN + CALIBRATION
    return {name: SiteRows(run[:TRAIN], run[TRAIN:end]) for name, run in runs.items()}


def _scores(monitor: SiteMonitor, run: NDArray[np.float64]) -> NDArray[np.float64]:
    return monitor.score(run[TRAIN + CALIBRATION - monitor.lead :])


def test_sites_with_few_rows_rely_on_the_fleet_and_keep_their_false_alarms_low() -> None:
    sites = _sites(RUNS)
    own = {name: moments_of(site.train) for name, site in sites.items()}
    weight = chosen_weight(own, sites)
    assert weight >= WEIGHTS[2]
    monitors = site_monitors(sites)
    false = [np.mean(_scores(monitors[name], run) > 1) for name, run in RUNS.items()]
    assert np.mean(false) < 0.02


def test_the_fleet_sees_smaller_faults_than_a_site_alone() -> None:
    shared, alone = site_monitors(_sites(RUNS)), site_monitors(_sites(RUNS), weight=0.0)
    found = []
    for monitors in (shared, alone):
        rates = []
        for name, run in RUNS.items():
            faulty = run.copy()
            faulty[TRAIN + CALIBRATION :, 2] += 0.25
            rates.append(np.mean(_scores(monitors[name], faulty) > 1))
        found.append(np.mean(rates))
    assert found[0] > found[1] + 0.05


def test_other_units_and_another_order_give_the_same_scores() -> None:
    order, factors = [2, 0, 3, 1], np.array([100.0, 0.01, 3.0, 1.0])
    other = {name: run[:, order] * factors for name, run in RUNS.items()}
    plain, changed = site_monitors(_sites(RUNS)), site_monitors(_sites(other))
    for name, run in RUNS.items():
        expected = _scores(plain[name], run)
        assert np.allclose(_scores(changed[name], other[name]), expected, rtol=0.02)


def test_a_site_without_a_fleet_is_a_plain_var() -> None:
    run = RUNS["site 0"]
    site = SiteRows(run[:400], run[400:600], is_one_run=False)
    monitor = site_monitors({"only": site}, lags=2, ridge=5.0)["only"]
    expected = solve(moments_of(site.train, 2), 5.0)
    mean = monitor.var.forecast(run[None, 100:120], 2) * monitor.var.scale + monitor.var.mean
    wanted = expected.forecast(run[None, 100:120], 2) * expected.scale + expected.mean
    assert np.allclose(mean, wanted, atol=1e-4)
    assert len(site.since(10)) == 200


def test_a_device_gets_the_same_from_its_own_moments_and_the_fleets() -> None:
    sites = _sites(RUNS)
    monitor = site_monitors(sites, weight=300.0, ridge=20.0)["site 2"]
    fleet = fleet_of([moments_of(site.train) for site in sites.values()])
    on_device = shrunk(moments_of(sites["site 2"].train), fleet, 300.0, ridge=20.0)
    assert np.allclose(on_device.whitening(), monitor.whitening)


def test_what_drift_is_measured_against_is_in_the_sensors_units() -> None:
    run = RUNS["site 0"]
    normal = normal_of(solve(moments_of(run[:400], 2), 5.0), run[400:])
    assert np.allclose(normal.mean, run[:400].mean(axis=0), rtol=0.01)
    assert np.allclose(normal.deviation, run[:400].std(axis=0), rtol=0.02)
    noise = 0.1 * np.sqrt((MIXING**2).sum(axis=0))
    assert np.allclose(normal.error, noise, rtol=0.15)
