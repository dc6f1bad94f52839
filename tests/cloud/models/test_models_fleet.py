"""The fleet of a model: exact sums of sites, the weight that held-back rows choose, its file."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.federation.statistics import sum_moments
from aimass_cloud.models.fleet import (
    MOST_SENSORS,
    SitesMoments,
    moments_of_runs,
    packed_fleet,
    packed_moments,
    unpacked_moments,
    weight_of,
)
from aimass_cloud.models.shrinkage import WEIGHT, WEIGHTS, SiteRows, fleet_of
from aimass_shared.fleet import unpack
from aimass_shared.moments import Moments, moments
from aimass_shared.var import shrunk

NAMES = ("a", "b", "c")


def _rows(seed: int, count: int = 200) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    rows = np.zeros((count, 3))
    for at in range(1, count):
        rows[at] = 0.8 * rows[at - 1] + random.normal(0, 0.2, 3)
    rows[:, 2] = 0.0  # a sensor that never moves, far from zero below
    return np.asarray(rows + random.normal(0, 1, 3) * [10, 300, 20_000], np.float32)


def _moments(rows: NDArray[np.float32]) -> Moments:
    return moments([(rows, np.ones_like(rows))], sensors=NAMES, lags=3)


RUNS = [_rows(seed) for seed in range(4)]
SITES = [_moments(rows) for rows in RUNS]


def _same(left: Moments, right: Moments) -> bool:
    both = zip(left.arrays().values(), right.arrays().values(), strict=True)
    return all(np.allclose(one, other, rtol=1e-9, atol=1e-6) for one, other in both)


def test_a_statistics_round_gives_both_sums_and_they_are_exact() -> None:
    answers = {str(number): site.arrays() for number, site in enumerate(SITES)}
    found, rows, refused = sum_moments(answers, sensors=NAMES, lags=3)
    assert (rows, refused) == ({str(number): 197 for number in range(4)}, {})
    total = SITES[0].add(SITES[1]).add(SITES[2]).add(SITES[3])
    assert all(
        np.array_equal(array, total.arrays()[name]) for name, array in found.arrays().items()
    )
    assert _same(found.within, fleet_of(SITES))
    # The same as of rows that were moved to their own site's mean before.
    moved = [_moments(rows - rows[3:].mean(axis=0, dtype=np.float64)) for rows in RUNS]
    whole = moved[0].add(moved[1]).add(moved[2]).add(moved[3])
    assert np.allclose(found.within.yy[:2, :2], whole.yy[:2, :2], rtol=1e-3)
    assert np.allclose(found.within.zz[1:3, 1:3], whole.zz[1:3, 1:3], rtol=1e-3)


def test_a_site_of_huge_numbers_or_without_rows_takes_no_others_with_it() -> None:
    huge = Moments.empty(NAMES, 3).arrays()
    huge["zz"][1, 1] = 1e308
    answers = {
        "good": SITES[0].arrays(),
        "empty": huge,
        "worse": {**SITES[1].arrays(), "yy": np.diag([1.7e308] * 3)},
    }
    found, rows, refused = sum_moments(answers, sensors=NAMES, lags=3)
    assert {"good", "empty"} == rows.keys()
    assert refused.keys() == {"worse"}
    assert np.isfinite(found.within.yy).all()


def test_a_sensor_that_never_moves_leaves_no_noise_that_could_become_its_unit() -> None:
    fleet = fleet_of(SITES)
    assert not fleet.yy[2].any()
    assert not fleet.zz[3].any()
    assert shrunk(SITES[0], fleet, 300.0).scale[2] == 1.0


def test_the_moments_of_a_run_are_kept_whole_and_old_files_still_give_their_sum() -> None:
    found = moments_of_runs(RUNS, sensors=NAMES, lags=3)
    again = unpacked_moments(packed_moments(found))
    assert isinstance(again, SitesMoments)
    assert np.array_equal(again.within.zz, found.within.zz)
    assert again.sites == found.sites == len(RUNS)
    assert np.array_equal(again.zz, found.zz)
    file = io.BytesIO()
    arrays: dict[str, Any] = {"sensors": np.array(NAMES), "lags": np.array(3), **found.arrays()}
    np.savez(file, **arrays)
    old = unpacked_moments(file.getvalue())
    assert not isinstance(old, SitesMoments)
    assert np.array_equal(old.yy, found.yy)


def test_held_back_rows_of_several_sites_choose_the_weight_and_one_site_cannot() -> None:
    sites = {str(n): SiteRows(rows[:60], rows[60:160]) for n, rows in enumerate(RUNS)}
    assert weight_of(sites) in WEIGHTS
    assert weight_of(sites) >= 100.0
    assert weight_of({"0": sites["0"]}) == WEIGHT
    short = SiteRows(RUNS[0][:2], RUNS[0][2:4])
    assert weight_of({"0": sites["0"], "1": short}) == WEIGHT


def test_a_file_has_the_monitors_lags_and_is_none_where_rows_are_few() -> None:
    longer = moments_of_runs(RUNS, sensors=NAMES, lags=5)
    raw = packed_fleet(longer.within, 100.0)
    assert raw is not None
    found = unpack(raw, NAMES)
    assert (found.moments.lags, found.weight) == (3, 100.0)
    assert packed_fleet(moments_of_runs([RUNS[0][:5]], sensors=NAMES, lags=3).within, 1.0) is None


def test_of_many_sensors_there_is_no_fleet_and_no_memory_is_spent_on_it() -> None:
    names = tuple(f"s{number}" for number in range(MOST_SENSORS + 1))
    rows = np.random.default_rng(0).normal(size=(MOST_SENSORS + 9, len(names)))
    found = moments_of_runs([rows.astype(np.float32)], sensors=names, lags=3)
    assert (found.n, found.within.n) == (len(rows) - 3, 0)
    assert packed_fleet(found.within, 300.0) is None
