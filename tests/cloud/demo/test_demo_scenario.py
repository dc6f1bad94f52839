"""What the demo replays: chosen by the seed, kept apart, never the replayed fault's own past."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimass_cloud.demo.scenario import Rows, Scenario, Stretch, plan
from aimass_cloud.demo.sites import SITES
from aimass_cloud.recipes import tep
from aimass_shared.errors import NotFoundError
from aimass_shared.windows import GridOptions, RowGrid

RECIPE = tep.PLANT
DATA = RECIPE.load()
FAULTS = sorted(DATA.faults)
SEEDS = st.integers(0, 2**32 - 1)


def _later(scenario: Scenario) -> list[Stretch]:
    return [scenario.normal, scenario.fault, scenario.outage]


def _of_site(scenario: Scenario, site: str) -> list[Stretch]:
    """All that a site sees, in the order in which it is sent."""
    return [*scenario.histories[site], *_later(scenario)]


def _bytes(scenario: Scenario) -> list[bytes]:
    everything = [part for site in SITES for part in _of_site(scenario, site.name)]
    return [part.rows.tobytes() for part in everything]


def _last_ms(stretch: Stretch) -> int:
    return stretch.time_ms(len(stretch.rows) - 1)


def _rows_of(*recordings: Rows) -> set[bytes]:
    return {row.tobytes() for rows in recordings for row in rows}


def test_same_seed_same_rows() -> None:
    assert _bytes(plan(RECIPE, 1, 7)) == _bytes(plan(RECIPE, 1, 7))


def test_another_seed_other_rows() -> None:
    one, other = plan(RECIPE, 1, 7), plan(RECIPE, 1, 8)
    assert not np.array_equal(one.normal.rows, other.normal.rows)
    assert not np.array_equal(one.outage.rows, other.outage.rows)
    histories = [_rows_of(*(p.rows for p in s.histories["north"])) for s in (one, other)]
    assert histories[0] != histories[1]


def test_another_fault_another_run_with_its_onset() -> None:
    one, other = plan(RECIPE, 1, 7), plan(RECIPE, 4, 7)
    assert np.array_equal(one.normal.rows, other.normal.rows)
    for scenario, fault in ((one, 1), (other, 4)):
        length = len(scenario.fault.rows)
        assert np.array_equal(scenario.fault.rows, DATA.faults[fault][:length])
        assert 0 < scenario.onset < length
        assert scenario.onset == DATA.fault_start


@settings(max_examples=25)
@given(seed=SEEDS, fault=st.sampled_from(FAULTS))
def test_every_site_sees_stretches_apart_in_the_order_of_time_all_in_the_past(
    seed: int, fault: int
) -> None:
    scenario = plan(RECIPE, fault, seed)
    bridged_ms = GridOptions(RECIPE.step_ms).gap_rows * RECIPE.step_ms
    for site in SITES:
        stretches = _of_site(scenario, site.name)
        assert len(stretches) > len(_later(scenario)), "each has a past"
        for before, after in pairwise(stretches):
            assert after.start_ms - _last_ms(before) > bridged_ms
        assert _last_ms(stretches[-1]) <= time.time_ns() // 1_000_000
        assert all(part.step_ms == RECIPE.step_ms for part in stretches)


def test_a_grid_makes_no_rows_between_two_stretches() -> None:
    scenario = plan(RECIPE, 1, 7)
    grid = RowGrid(1, GridOptions(RECIPE.step_ms))
    made: list[int] = []
    for part in _of_site(scenario, "east"):
        for row, values in enumerate(part.rows[:20]):
            grid.add(0, part.time_ms(row), float(values[0]), now_ms=part.time_ms(row))
            made += [one.time_ms for one in grid.rows()]
    sent = {p.time_ms(row) for p in _of_site(scenario, "east") for row in range(20)}
    assert len(made) > 20
    assert set(made) <= sent


@settings(max_examples=25)
@given(seed=SEEDS, fault=st.sampled_from(FAULTS))
def test_a_sites_past_is_its_own_and_holds_nothing_that_is_judged_or_trained_on(
    seed: int, fault: int
) -> None:
    scenario = plan(RECIPE, fault, seed)
    pasts = [_rows_of(*(p.rows for p in scenario.histories[site.name])) for site in SITES]
    central = _rows_of(DATA.train, DATA.calibration, DATA.test)
    replayed = _rows_of(DATA.faults[fault])
    for past in pasts:
        assert past
        assert past.isdisjoint(central)
        assert past.isdisjoint(replayed)
    assert sum(map(len, pasts)) == len(set().union(*pasts)), "no row at two sites"
    assert _rows_of(*DATA.site_runs(fault).values()) == set().union(*pasts), "none is wasted"


def test_histories_hold_no_faulty_row() -> None:
    scenario = plan(RECIPE, 1, 7)
    faulty = _rows_of(*(rows[DATA.fault_start :] for rows in DATA.faults.values()))
    for parts in scenario.histories.values():
        assert _rows_of(*(part.rows for part in parts)).isdisjoint(faulty)


def test_normal_and_outage_are_held_back_rows_that_follow_one_another() -> None:
    scenario = plan(RECIPE, 1, 7)
    both = np.concatenate([scenario.normal.rows, scenario.outage.rows])
    starts = [i for i in range(len(DATA.test)) if np.array_equal(DATA.test[i], both[0])]
    assert any(np.array_equal(DATA.test[i : i + len(both)], both) for i in starts)


@pytest.mark.parametrize("fault", [0, 3, 99, -1])
def test_unknown_fault_is_not_found_and_the_known_ones_are_listed(fault: int) -> None:
    with pytest.raises(NotFoundError) as caught:
        plan(RECIPE, fault, 0)
    assert caught.value.code == "not-found"
    assert f"no fault {fault}; it has 1, 2, 4, 6, 7, 8, 12, 14" in caught.value.detail


@given(row=st.integers(-50, 60), start=st.integers(0, 10**13), within=st.integers(0, 999))
def test_row_of_a_time_is_the_inverse_of_time_of_a_row(row: int, start: int, within: int) -> None:
    stretch = Stretch(np.zeros((10, 2), np.float32), start, 1000)
    expected = row if 0 <= row < 10 else None
    assert stretch.row(stretch.time_ms(row) + within) == expected
