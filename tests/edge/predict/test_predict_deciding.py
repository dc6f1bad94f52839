"""Where a request goes: cases by hand, and what holds for all loads and policies."""

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_edge.config import Policy
from aimass_edge.predict.deciding import NONE, Decision, Load, Rules, decide

RULES = Rules(policy="local-first", queue_limit=4, safety=1.25, min_budget_ms=20.0)


def load(
    remaining: float,
    *services: float,
    queued: int = 0,
    backlog: float = 0.0,
    cloud: float | None = None,
) -> Load:
    return Load(
        remaining_ms=remaining,
        queued=queued,
        backlog_ms=backlog,
        services_ms=services or (8.0,),
        cloud_ready=cloud is not None,
        cloud_ms=cloud or 0.0,
    )


@pytest.mark.parametrize(
    ("given_load", "expected"),
    [
        (load(100.0), Decision("local", "fits", 0, 10.0)),
        (load(10.0), Decision("local", "fits", 0, 10.0)),
        (load(9.9), Decision("refuse", "would-be-late", NONE, 10.0)),
        (load(9.9, 8.0, 2.0), Decision("local", "narrower", 1, 10.0)),
        (load(100.0, backlog=72.0), Decision("local", "fits", 0, 100.0)),
        (load(100.0, backlog=80.0, cloud=100.0), Decision("cloud", "unhedged", NONE, 110.0, 100.0)),
        (
            load(100.0, 50.0, 4.0, backlog=36.0, cloud=30.0),
            Decision("cloud", "hand-off", 1, 107.5, 50.0),
        ),
        (
            load(100.0, 50.0, 4.0, backlog=36.0, cloud=60.0),
            Decision("local", "narrower", 1, 107.5),
        ),
        (load(100.0, backlog=80.0, cloud=100.1), Decision("refuse", "cloud-too-slow", NONE, 110.0)),
        (load(100.0, backlog=80.0), Decision("refuse", "would-be-late", NONE, 110.0)),
        (load(100.0, queued=4), Decision("refuse", "queue-full", NONE, 10.0)),
        (load(100.0, queued=4, cloud=30.0), Decision("cloud", "unhedged", NONE, 10.0, 100.0)),
        (load(19.9, backlog=80.0, cloud=5.0), Decision("refuse", "budget-too-short", NONE, 110.0)),
    ],
)
def test_local_first(given_load: Load, expected: Decision) -> None:
    assert decide(given_load, RULES) == expected


@pytest.mark.parametrize(
    ("given_load", "expected"),
    [
        (load(100.0, cloud=30.0), Decision("cloud", "hand-off", 0, 10.0, 90.0)),
        (load(35.0, 40.0, 2.0, cloud=30.0), Decision("cloud", "hand-off", 1, 50.0, 32.5)),
        (load(35.0, cloud=30.0), Decision("local", "fits", 0, 10.0)),
        (load(100.0), Decision("local", "fits", 0, 10.0)),
        (load(9.0, cloud=5.0), Decision("refuse", "budget-too-short", NONE, 10.0)),
    ],
)
def test_cloud_first(given_load: Load, expected: Decision) -> None:
    rules = Rules(policy="cloud-first", queue_limit=4, safety=1.25, min_budget_ms=20.0)
    assert decide(given_load, rules) == expected


loads = st.builds(
    Load,
    remaining_ms=st.floats(0, 1000),
    queued=st.integers(0, 8),
    backlog_ms=st.floats(0, 1000),
    services_ms=st.lists(st.floats(0, 500), min_size=1, max_size=3).map(
        lambda some: tuple(sorted(some, reverse=True))
    ),
    cloud_ready=st.booleans(),
    cloud_ms=st.floats(0, 1000),
)
rules = st.builds(
    Rules,
    policy=st.sampled_from(get_args(Policy)),
    queue_limit=st.integers(1, 8),
    safety=st.floats(1, 2),
    min_budget_ms=st.floats(0, 100),
    reserve_ms=st.floats(0, 50),
)


def need(one: Load, by: Rules, rung: int) -> float:
    return (one.backlog_ms + one.services_ms[rung]) * by.safety


@given(loads, rules)
def test_nothing_is_begun_that_is_expected_to_be_late(one: Load, by: Rules) -> None:
    found = decide(one, by)
    if found.place == "local":
        assert need(one, by, found.rung) <= one.remaining_ms
        assert one.queued < by.queue_limit
    if found.place == "cloud":
        assert one.cloud_ms <= found.budget_ms <= one.remaining_ms
        assert found.budget_ms >= by.min_budget_ms


@given(loads, rules)
def test_a_hand_off_leaves_the_time_that_its_hedge_needs(one: Load, by: Rules) -> None:
    found = decide(one, by)
    if found.place == "cloud" and found.rung != NONE:
        spent_ms = found.budget_ms + need(one, by, found.rung) + by.reserve_ms
        assert spent_ms <= one.remaining_ms + 1e-9
        assert one.queued < by.queue_limit


@given(loads, rules)
def test_what_may_not_leave_or_finds_no_cloud_stays(one: Load, by: Rules) -> None:
    found = decide(one, by)
    if by.policy == "never-leave-site" or not one.cloud_ready:
        assert found.place != "cloud"
        assert found.budget_ms == 0


@given(loads, rules)
def test_nothing_is_refused_that_can_be_done_in_time(one: Load, by: Rules) -> None:
    if decide(one, by).place != "refuse":
        return
    rungs = range(len(one.services_ms))
    fits = any(need(one, by, rung) <= one.remaining_ms for rung in rungs)
    assert not fits or one.queued >= by.queue_limit
    may_ask = one.cloud_ready and by.policy != "never-leave-site"
    assert not may_ask or one.remaining_ms < max(one.cloud_ms, by.min_budget_ms)


@given(loads, rules, st.floats(0, 1000))
def test_more_time_never_turns_a_yes_into_a_no(one: Load, by: Rules, more: float) -> None:
    longer = msgspec.structs.replace(one, remaining_ms=one.remaining_ms + more)
    if decide(one, by).place != "refuse":
        assert decide(longer, by).place != "refuse"


@given(loads, rules)
def test_no_slice_is_taken_where_a_wider_one_is_in_time_too(one: Load, by: Rules) -> None:
    found = decide(one, by)
    if found.place == "local" and found.rung > 0:
        assert need(one, by, found.rung - 1) > one.remaining_ms
    if found.place == "local" and by.policy == "local-first":
        assert found.rung == 0 or found.reason == "narrower"


@given(loads, rules)
def test_who_has_the_time_for_the_widest_slice_needs_no_cloud(one: Load, by: Rules) -> None:
    there_is_time = one.queued < by.queue_limit and need(one, by, 0) <= one.remaining_ms
    if by.policy != "cloud-first" and there_is_time:
        assert decide(one, by).reason == "fits"
