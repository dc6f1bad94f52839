"""The ranking: expected goodput decides, every candidate has its reason, hard limits are hard."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared.errors import InvalidSettingError
from aimass_shared.planning import (
    Backlog,
    Candidate,
    Demand,
    Device,
    Link,
    Profile,
    ProfileSet,
    Ranked,
    rank,
)
from aimass_shared.planning.prediction import Costs, predict
from aimass_shared.planning.profiles import decode, encode

FULL = Candidate(1.0, "fp32", "edge")
NARROW = Candidate(0.25, "int8", "edge")
AWAY = Candidate(1.0, "fp32", "cloud", codec="jpeg")
SPLIT = Candidate(1.0, "fp32", "split", "c1", "int8+zlib")
PROFILES = (
    Profile(candidate=FULL, edge_ms=10.0, memory_mib=200),
    Profile(candidate=NARROW, edge_ms=1.0, memory_mib=30, loss=0.05),
    Profile(candidate=AWAY, edge_ms=0.1, bytes_up=5000, cloud_ms=10.0),
    Profile(candidate=SPLIT, edge_ms=4.0, bytes_up=2000, cloud_ms=6.0, memory_mib=200),
)
WIFI = Link(bandwidth_mbit_s=20, rtt_ms=20)
FAST = Link(bandwidth_mbit_s=1000, rtt_ms=20)
DEMAND = Demand(deadline_ms=150)


def ranked(
    demand: Demand = DEMAND,
    *,
    device: Device | None = None,
    link: Link = WIFI,
    backlog: Backlog | None = None,
) -> dict[Candidate, Ranked]:
    found = rank(PROFILES, demand, device=device or Device(), link=link, backlog=backlog)
    return {one.candidate: one for one in found}


def test_a_fast_device_runs_the_whole_model_itself() -> None:
    best = next(iter(ranked().values()))
    assert (best.candidate, best.total_ms) == (FULL, 10.0)
    assert best.why == "wins: done in 10 ms of 150 ms, 100.0% in time, loses 0.0% of accuracy"


def test_a_slow_device_hands_off_and_says_why_not_itself() -> None:
    found = ranked(device=Device(slowdown=20))
    assert next(iter(found)) == AWAY
    assert found[FULL].why.startswith("late: 200 ms of 150 ms, most of it edge (200 ms)")
    assert found[NARROW].why == "loses 5.0% of accuracy, the best 0.0%"


def test_without_a_link_a_slow_device_takes_the_narrow_slice() -> None:
    found = ranked(device=Device(slowdown=20), link=Link(bandwidth_mbit_s=0))
    assert next(iter(found)) == NARROW
    assert found[AWAY].why == "there is no link"
    assert found[AWAY].goodput < 1e-6


def test_load_and_not_latency_decides() -> None:
    slow, busy = Device(slowdown=5), Demand(deadline_ms=150, rate_per_s=30)
    assert next(iter(ranked(device=slow, link=Link(bandwidth_mbit_s=1, rtt_ms=20)))) == FULL
    found = ranked(busy, device=slow, link=Link(bandwidth_mbit_s=1, rtt_ms=20))
    assert next(iter(found)) == SPLIT, "half the edge, half the uplink"
    assert found[FULL].why.startswith("edge is 150% busy at 30 requests/s: takes on 6")
    assert found[AWAY].why.startswith("uplink is 120% busy at 30 requests/s: takes on ")


def test_what_is_ahead_counts() -> None:
    found = ranked(device=Device(slowdown=5), backlog=Backlog(edge_ms=120))
    assert next(iter(found)) == AWAY
    assert found[FULL].total_ms == 170
    assert ranked(backlog=Backlog(uplink_ms=500))[AWAY].on_time < 0.01


def test_memory_formats_and_the_accuracy_budget_are_hard() -> None:
    found = ranked(
        Demand(deadline_ms=150, max_loss=0.01), device=Device(memory_mib=100, precisions=("fp32",))
    )
    assert [one.possible for one in found.values()] == [True, False, False, False]
    assert found[FULL].why == "needs 200 MiB, the device gives 100"
    assert found[SPLIT].why == "needs 200 MiB, the device gives 100"
    assert found[NARROW].why == "is int8, the device runs fp32"
    assert ranked(Demand(deadline_ms=150, max_loss=0.01))[NARROW].why == (
        "loses 5.0% of accuracy, the budget is 1.0%"
    )


def test_where_nothing_is_in_time_the_best_says_so() -> None:
    found = ranked(Demand(deadline_ms=1), device=Device(slowdown=20))
    best = next(iter(found.values()))
    assert best.goodput < 1e-6
    assert best.why == "nothing is in time: the fastest takes 20 ms; shed, or answer stale"


def test_what_another_one_beats_in_everything_says_by_which() -> None:
    worse = Profile(candidate=Candidate(0.5, "fp32", "edge"), edge_ms=11, memory_mib=200, loss=0.1)
    found = rank((*PROFILES, worse), DEMAND, device=Device(), link=WIFI)
    assert found[-1].why == "beaten in everything by edge w1.00-fp32"


@given(
    rate=st.floats(0, 500),
    slowdown=st.floats(0.1, 100),
    bandwidth=st.floats(0, 1000),
    loss=st.floats(0, 0.5),
    age=st.floats(0, 100),
)
def test_goodput_is_a_share_in_order_and_every_candidate_has_a_reason(
    rate: float, slowdown: float, bandwidth: float, loss: float, age: float
) -> None:
    link = Link(bandwidth_mbit_s=bandwidth, rtt_ms=30, loss=loss, age_s=age, hazard_per_s=0.1)
    demand = Demand(deadline_ms=150, rate_per_s=rate)
    found = rank(PROFILES, demand, device=Device(slowdown=slowdown), link=link)
    assert all(0 <= one.goodput <= 1 - one.loss and one.why for one in found)
    assert all(0 <= one.on_time <= 1 and 0 <= one.carried <= 1 for one in found)
    assert all(above.goodput >= below.goodput - 2e-3 for above, below in pairwise(found))


def test_a_worse_link_is_never_better() -> None:
    costs = Costs.of(PROFILES)

    def on_time(**link: float) -> float:
        seen = Link(**{"bandwidth_mbit_s": 1.0, "rtt_ms": 60.0, **link})
        found = predict(costs, 1.0, link=seen, backlog=Backlog(), remaining_ms=130)
        return float(found.on_time[2])

    good = on_time()
    assert on_time(bandwidth_mbit_s=0.5) < good
    assert on_time(loss=0.2) < good
    assert on_time(rtt_ms=90.0) < good
    assert on_time(hazard_per_s=1.0) < good
    assert on_time(hazard_per_s=1.0, age_s=2.0) < on_time(hazard_per_s=1.0)


def test_a_hundred_candidates_are_predicted_as_one_by_one() -> None:
    many = [Profile(candidate=FULL, edge_ms=ms) for ms in np.linspace(1, 300, 100)]
    found = predict(Costs.of(many), 1.0, link=WIFI, backlog=Backlog(), remaining_ms=150)
    for row in (0, 49, 99):
        one = predict(
            Costs.of([many[row]]), 1.0, link=WIFI, backlog=Backlog(), remaining_ms=150
        ).row(0)
        assert one == found.row(row)
    assert (np.diff(found.on_time) <= 0).all()


def test_a_file_of_profiles_is_read_as_it_was_written() -> None:
    whole = ProfileSet(model="steel", profiles=PROFILES, about="here")
    assert decode(encode(whole)) == whole


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{", "plans.json: Input data was truncated"),
        (b'{"model": "m", "profiles": []}', "length >= 1"),
        (
            b'{"model":"m","profiles":[{"edge_ms":-1,"candidate":{"width":1,"place":"edge"}}]}',
            r"profiles\[0\].edge_ms",
        ),
        (
            b'{"model":"m","profiles":['
            + b",".join([b'{"candidate":{"width":1,"precision":"fp32","place":"edge"}}'] * 2)
            + b"]}",
            "edge w1.00-fp32 is there more than once",
        ),
    ],
)
def test_a_file_that_is_none_names_its_fault(raw: bytes, said: str) -> None:
    with pytest.raises(InvalidSettingError, match=said):
        decode(raw, "plans.json")


@pytest.mark.parametrize(
    ("field", "said"),
    [('"edge_mss":5', "edge_mss"), ('"edge_ms":1e300', "edge_ms"), ('"bytes_up":-1', "bytes_up")],
)
def test_a_field_that_is_mistyped_is_not_taken_as_left_out(field: str, said: str) -> None:
    candidate = '"candidate":{"width":1,"precision":"fp32","place":"edge"}'
    raw = f'{{"model":"m","profiles":[{{{field},{candidate}}}]}}'.encode()
    with pytest.raises(InvalidSettingError, match=said):
        decode(raw)


def test_a_file_nested_without_end_is_refused() -> None:
    with pytest.raises(InvalidSettingError):
        decode(b'{"x":' * 100_000)


def test_what_waits_for_round_trips_or_others_is_late_for_that() -> None:
    assert ranked(link=Link(bandwidth_mbit_s=20, rtt_ms=400))[AWAY].why.startswith(
        "late: 412 ms of 150 ms, most of it waiting (400 ms)"
    )
    assert ranked(backlog=Backlog(edge_ms=500))[FULL].why.startswith(
        "late: 510 ms of 150 ms, most of it waiting (500 ms)"
    )


def test_a_cloud_that_is_overloaded_is_what_is_named() -> None:
    found = ranked(Demand(deadline_ms=150, rate_per_s=200, cloud_parallel=1), link=FAST)
    assert found[AWAY].why == "cloud is 200% busy at 200 requests/s: takes on 50.0%"


def test_the_fastest_is_named_where_nothing_is_in_time_under_load() -> None:
    found = ranked(Demand(deadline_ms=1, rate_per_s=1), device=Device(slowdown=20), link=FAST)
    assert next(iter(found)) == AWAY, "the least busy one"
    assert found[AWAY].total_ms == pytest.approx(32.04)
    assert found[AWAY].why == "nothing is in time: the fastest takes 20 ms; shed, or answer stale"


def test_what_the_device_does_not_run_beats_nothing() -> None:
    whole = Profile(candidate=FULL, edge_ms=10.0, loss=0.1)
    faster = Profile(candidate=Candidate(1.0, "int8", "edge"), edge_ms=1.0, loss=0.1)
    away = Profile(candidate=AWAY, bytes_up=5000, cloud_ms=10.0)
    device = Device(precisions=("fp32",))
    found = rank((faster, whole, away), DEMAND, device=device, link=WIFI)
    why = {one.candidate: one.why for one in found}
    assert why[FULL] == "loses 10.0% of accuracy, the best 0.0%"


def test_what_is_in_time_less_often_says_so_and_not_that_it_loses_accuracy() -> None:
    unsure = Profile(candidate=NARROW, edge_ms=95.0, edge_spread=0.3)
    away = Profile(candidate=AWAY, bytes_up=5000, cloud_ms=10.0)
    found = rank((unsure, away), DEMAND, device=Device(), link=WIFI)
    assert found[1].candidate == NARROW
    assert found[1].why.endswith("in time, the best 100.0%")


def test_without_a_link_nothing_goes_up_however_small() -> None:
    tiny = Profile(candidate=AWAY, cloud_ms=10.0)
    found = rank((tiny,), DEMAND, device=Device(), link=Link(bandwidth_mbit_s=0))[0]
    assert found.goodput < 1e-6
    assert found.why.startswith("nothing is in time")


def test_a_candidate_that_is_there_twice_is_ranked_twice() -> None:
    assert len(rank(PROFILES[:1] * 2, DEMAND, device=Device(), link=WIFI)) == 2
    assert rank((), DEMAND, device=Device(), link=WIFI) == ()
