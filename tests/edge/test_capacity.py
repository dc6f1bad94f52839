"""The pure core of capacity: estimates, the account of queued work, and decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aimass_edge.capacity import (
    Capacity,
    Decision,
    Estimate,
    Latencies,
    Load,
    Policy,
    ServiceTimes,
    Ticket,
    decide,
)

POLICY = Policy(queue_limit=4, safety=1.25, min_budget_ms=20.0)
times = st.floats(0.01, 10_000.0)


def load(
    remaining: float, *, queued: int = 0, backlog: float = 0.0, cloud: float | None = None
) -> Load:
    return Load(
        remaining_ms=remaining,
        queued=queued,
        backlog_ms=backlog,
        service_ms=8.0,
        cloud_ready=cloud is not None,
        cloud_ms=cloud or 0.0,
    )


@pytest.mark.parametrize(
    ("given_load", "expected"),
    [
        (load(100.0), Decision("local", "fits", 10.0)),
        (load(10.0), Decision("local", "fits", 10.0)),
        (load(9.9), Decision("refuse", "would-be-late", 10.0)),
        (load(100.0, backlog=72.0), Decision("local", "fits", 100.0)),
        (load(100.0, backlog=72.1, cloud=30.0), Decision("cloud", "hand-off", 100.125)),
        (load(100.0, backlog=80.0, cloud=100.0), Decision("cloud", "hand-off", 110.0)),
        (load(100.0, backlog=80.0, cloud=100.1), Decision("refuse", "cloud-too-slow", 110.0)),
        (load(100.0, backlog=80.0), Decision("refuse", "would-be-late", 110.0)),
        (load(100.0, queued=4), Decision("refuse", "queue-full", 10.0)),
        (load(100.0, queued=4, cloud=30.0), Decision("cloud", "hand-off", 10.0)),
        (load(19.9, backlog=80.0, cloud=5.0), Decision("refuse", "budget-too-short", 110.0)),
        (load(0.0, cloud=0.0), Decision("refuse", "budget-too-short", 10.0)),
    ],
)
def test_decisions(given_load: Load, expected: Decision) -> None:
    assert decide(given_load, POLICY) == expected


loads = st.builds(
    Load,
    remaining_ms=st.floats(0, 1000),
    queued=st.integers(0, 8),
    backlog_ms=st.floats(0, 1000),
    service_ms=st.floats(0, 1000),
    cloud_ready=st.booleans(),
    cloud_ms=st.floats(0, 1000),
)


@given(loads)
def test_nothing_is_accepted_that_would_be_late(given_load: Load) -> None:
    decision = decide(given_load, POLICY)
    if decision.place == "local":
        assert given_load.backlog_ms + given_load.service_ms <= given_load.remaining_ms
        assert given_load.queued < POLICY.queue_limit
    if decision.place == "cloud":
        assert given_load.cloud_ready
        assert given_load.cloud_ms <= given_load.remaining_ms


@given(loads, st.floats(0, 1000))
def test_more_time_never_turns_a_yes_into_a_no(given_load: Load, more: float) -> None:
    longer = Load(
        remaining_ms=given_load.remaining_ms + more,
        queued=given_load.queued,
        backlog_ms=given_load.backlog_ms,
        service_ms=given_load.service_ms,
        cloud_ready=given_load.cloud_ready,
        cloud_ms=given_load.cloud_ms,
    )
    if decide(given_load, POLICY).place != "refuse":
        assert decide(longer, POLICY).place != "refuse"


def test_the_first_measurement_replaces_the_guess() -> None:
    estimate = Estimate(1000.0)
    assert estimate.ms(now=5.0) == 1000.0
    estimate.add(10.0, now=5.0)
    assert estimate.ms(now=5.0) == 10.0


def test_a_slow_spell_is_forgotten_when_nothing_renews_it() -> None:
    estimate = Estimate(10.0)
    estimate.add(10.0, now=0.0)
    for _ in range(50):
        estimate.add(900.0, now=1.0)
    assert estimate.ms(now=1.0) > 890.0
    assert estimate.ms(now=2.0) == pytest.approx((estimate.ms(now=1.0) + 10.0) / 2)
    assert estimate.ms(now=11.0) < 11.0


@given(st.lists(times, min_size=1, max_size=200), st.floats(0, 100))
def test_an_estimate_stays_among_what_was_measured(measured: list[float], age: float) -> None:
    estimate = Estimate(0.0)
    for value in measured:
        estimate.add(value, now=0.0)
    assert min(measured[-128:]) * 0.999 <= estimate.ms(age) <= max(measured) * 1.001


def test_batches_are_learnt_apart_and_guessed_on_the_slow_side() -> None:
    known = ServiceTimes()
    assert known.ms("w1.00-fp32", 1, now=0.0) == 0.0
    known.add("w1.00-fp32", 1, measured_ms=2.0, now=0.0)
    assert known.ms("w1.00-fp32", 8, now=0.0) == 16.0
    known.add("w1.00-fp32", 8, measured_ms=6.0, now=0.0)
    assert known.ms("w1.00-fp32", 8, now=0.0) == 6.0
    assert known.ms("w1.00-fp32", 5, now=0.0) == 6.0
    assert known.ms("w1.00-fp32", 1, now=0.0) == 2.0
    assert known.ms("w1.00-fp32", 16, now=0.0) == 12.0
    assert known.ms("w0.25-int8", 1, now=0.0) == 0.0
    known.forget("w1.00-fp32")
    assert known.ms("w1.00-fp32", 1, now=0.0) == 0.0


def test_percentiles_are_those_of_the_recent_latencies() -> None:
    latencies = Latencies()
    assert latencies.percentile(0.5) == 0.0
    for ms in range(1, 101):
        latencies.add(float(ms))
    assert latencies.percentile(0.5) == 51.0
    assert latencies.percentile(0.99) == 100.0
    for _ in range(1024):
        latencies.add(7.0)
    assert latencies.percentile(0.99) == 7.0


def test_a_running_ticket_counts_for_what_is_left_of_it() -> None:
    capacity = Capacity()
    capacity.times.add("s", 1, measured_ms=100.0, now=0.0)
    first, second = capacity.enter("s", 1), capacity.enter("s", 1)
    assert (capacity.queued, capacity.backlog_ms(0.0)) == (2, 200.0)
    capacity.start(first, 0.0)
    assert capacity.queued == 1
    assert capacity.backlog_ms(0.03) == pytest.approx(170.0)
    assert capacity.backlog_ms(5.0) == pytest.approx(100.0)
    capacity.finish(first, 0.05)
    assert capacity.times.ms("s", 1, 0.05) == pytest.approx(90.0)
    capacity.leave(second)
    capacity.leave(second)
    assert (capacity.queued, capacity.backlog_ms(0.05)) == (0, 0.0)


class Account(RuleBasedStateMachine):
    """Whatever the order of events, the account is empty exactly when all work is done."""

    def __init__(self) -> None:
        super().__init__()
        self.capacity = Capacity()
        self.capacity.times.add("s", 1, measured_ms=10.0, now=0.0)
        self.now = 0.0
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []

    @rule(windows=st.integers(1, 32))
    def enter(self, windows: int) -> None:
        self.waiting.append(self.capacity.enter("s", windows))

    @precondition(lambda self: self.waiting and not self.running)
    @rule()
    def start(self) -> None:
        self.running.append(self.waiting.pop(0))
        self.capacity.start(self.running[0], self.now)

    @precondition(lambda self: self.running)
    @rule(seconds=st.floats(0.0001, 0.1))
    def finish(self, seconds: float) -> None:
        self.now += seconds
        self.capacity.finish(self.running.pop(), self.now)

    @precondition(lambda self: self.waiting)
    @rule()
    def give_up(self) -> None:
        self.capacity.leave(self.waiting.pop())

    @rule(seconds=st.floats(0.0, 10.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_agree(self) -> None:
        assert self.capacity.queued == len(self.waiting)
        if self.waiting:
            assert self.capacity.backlog_ms(self.now) > 0
        if not self.waiting and not self.running:
            assert self.capacity.backlog_ms(self.now) == 0


TestAccount = Account.TestCase
