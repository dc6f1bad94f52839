"""The planner on a device: load, deadline, link and prices decide, and nothing else does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared.planning import (
    Backlog,
    Candidate,
    Choice,
    Link,
    Planner,
    PlanTable,
    Policy,
    Profile,
)
from aimass_shared.planning.prediction import Costs
from aimass_shared.planning.prices import COARSE, FREE, cost, given_ms, leant, prices

FULL, HALF, QUARTER = (Candidate(width, "int8", "edge") for width in (1.0, 0.5, 0.25))
AWAY = Candidate(1.0, "fp32", "cloud")
TABLE = PlanTable(
    model="m",
    profiles=(
        Profile(candidate=FULL, edge_ms=50, edge_spread=0.05),
        Profile(candidate=HALF, edge_ms=15, edge_spread=0.05, loss=0.01),
        Profile(candidate=QUARTER, edge_ms=5, edge_spread=0.05, loss=0.05),
        Profile(candidate=AWAY, bytes_up=20_000, cloud_ms=10),
    ),
)
DEAD = Link(bandwidth_mbit_s=0)
WIFI = Link(bandwidth_mbit_s=20, rtt_ms=20)


def planner(link: Link = DEAD, policy: Policy | None = None) -> Planner:
    return Planner(TABLE, slowdown=1.0, link=link, now=0.0, policy=policy)


def steady(one: Planner, *, rate_per_s: float, backlog: Backlog) -> Choice:
    """The last of many choices at a rate."""
    choices = [one.choose(300, backlog, number / rate_per_s) for number in range(50)]
    return choices[-1]


def test_without_load_the_best_is_taken_and_costs_nobody() -> None:
    choice = planner().choose(150, Backlog(), 0.0)
    assert (choice.candidate, choice.why, choice.prices) == (FULL, "best", FREE)
    assert choice.edge_ms == 50


@pytest.mark.parametrize(
    ("rate", "queue_ms", "width"), [(5, 0, 1.0), (40, 170, 0.5), (100, 170, 0.25)]
)
def test_the_higher_the_rate_the_narrower_the_slice(
    rate: float, queue_ms: float, width: float
) -> None:
    found = steady(planner(), rate_per_s=rate, backlog=Backlog(edge_ms=queue_ms))
    assert found.candidate is not None
    assert found.candidate.width == width
    assert found.why == ("best" if width == 1.0 else "cheaper")


def test_a_link_takes_the_load_off_the_edge() -> None:
    one = planner(WIFI)
    for number in range(50):
        at = number / 40
        found = one.choose(300, Backlog(edge_ms=170), at)
        one.uplink.arrived(20_000, 8.0, now=at, rtt_ms=20)
    assert found.candidate == AWAY


def test_a_short_deadline_and_a_long_queue_narrow_the_slice_or_shed() -> None:
    one = planner()
    assert one.choose(30, Backlog(), 0.0).candidate == HALF
    assert one.choose(150, Backlog(edge_ms=140), 1.0).candidate == QUARTER
    shed = one.choose(150, Backlog(edge_ms=200), 2.0)
    assert (shed.candidate, shed.row, shed.why) == (None, -1, "shed")
    assert shed.total_ms == 205


def test_the_accuracy_budget_is_hard() -> None:
    assert planner(policy=Policy(max_loss=0.02)).choose(10, Backlog(), 0.0).why == "shed"


def test_at_its_turn_a_request_gets_its_slice_or_a_faster_one() -> None:
    one = planner(WIFI)
    assert one.again(0, 150, 0.0).candidate == FULL
    assert one.again(0, 20, 0.0).candidate == HALF
    assert one.again(2, 150, 0.0).candidate == QUARTER
    assert one.again(0, 2, 0.0).why == "shed"


def test_a_slower_device_is_learnt_from_what_ran() -> None:
    one = planner()
    one.ran(2, 50.0)
    assert one.corrections.slowdown == pytest.approx([10] * 4)
    assert one.choose(150, Backlog(), 0.0).candidate == QUARTER


def test_parts_can_be_left_out() -> None:
    ahead = Backlog(edge_ms=1000)
    assert planner(policy=Policy(queues=False)).choose(150, ahead, 0.0).candidate == FULL
    fastest = planner(policy=Policy(in_time=False, priced=False, least_worth=0))
    assert fastest.choose(150, Backlog(), 0.0).candidate == QUARTER
    free = steady(planner(policy=Policy(priced=False)), rate_per_s=90, backlog=Backlog())
    assert (free.candidate, free.prices) == (FULL, FREE)


def test_prices_are_those_at_which_supply_meets_demand() -> None:
    costs = Costs.of(TABLE.profiles[:3])
    takes = np.stack((costs.edge_ms, costs.bytes_up))
    found = prices(costs.quality, takes, np.array([10.0, 10.0]))
    # Between half and quarter: (0.99 - 0.95) / (15 - 5) for a millisecond.
    assert found.edge == pytest.approx(0.004, rel=0.3)
    assert found.uplink == 0
    assert prices(costs.quality, takes, np.array([60.0, 0.0])) == FREE


@given(
    st.sampled_from(COARSE[:12].tolist())
    | st.floats(1e-7, 0.1),  # the program gives none between 0 and that
    st.floats(0, 400),
    st.floats(0, 300),
    st.floats(1, 500),
    st.floats(1, 300),
)
def test_what_time_costs_is_its_leant_price_all_along(
    price: float, backlog: float, takes: float, deadline: float, more: float
) -> None:
    found = float(cost(price, backlog, np.array([takes]), deadline_ms=deadline)[0])
    steps = backlog + (np.arange(2000) + 0.5) * takes / 2000
    expected = np.mean([leant(price, float(at), deadline) for at in steps]) * takes
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)
    longer = float(cost(price, backlog, np.array([takes + more]), deadline_ms=deadline)[0])
    assert longer >= found + leant(price, backlog, deadline) * more * (1 - 1e-9)


def test_a_price_leans_with_its_queue() -> None:
    assert leant(0.1, 75, 150) == pytest.approx(0.1)
    assert leant(0.1, 10, 150) < 0.1 < leant(0.1, 100, 150)
    assert leant(0.1, 150, 150) == leant(0.1, 1e6, 150)
    assert leant(0.0, 1e6, 150) == 0


def test_a_long_queue_gives_less_and_never_nothing() -> None:
    given = [given_ms(20, ahead, deadline_ms=150, busy=0.95) for ahead in (0, 75, 150, 1e6)]
    assert given[1] == 19
    assert given == sorted(given, reverse=True)
    assert given[-1] > 0


def test_a_burst_at_one_instant_tells_no_rate() -> None:
    one = planner()
    one.choose(150, Backlog(), 0.0)
    second = one.choose(150, Backlog(edge_ms=50), 0.0)
    assert (second.candidate, second.prices) == (FULL, FREE)


@pytest.mark.parametrize("remaining_ms", [0.0, -20.0])
def test_what_comes_too_late_is_shed(remaining_ms: float) -> None:
    one = planner()
    one.choose(150, Backlog(), 0.0)
    assert one.choose(remaining_ms, Backlog(edge_ms=5), 0.1).why == "shed"
