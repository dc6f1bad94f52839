"""The pure core of capacity: estimates, and the account of queued work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aimass_edge.capacity import (
    HEADROOM,
    Capacity,
    Estimate,
    Latencies,
    Lateness,
    ServiceTimes,
    Ticket,
)

times = st.floats(0.01, 10_000.0)


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


def test_what_never_ended_is_forgotten_too() -> None:
    """Else a cloud that hung once is expected to take as long for ever, and never asked again."""
    estimate = Estimate(20.0)
    for second in range(5):
        estimate.at_least(150.0, float(second))
    assert estimate.ms(4.0) == 150.0
    estimate.at_least(30.0, 4.0)
    assert estimate.ms(4.0) == 150.0, "less is no news"
    assert estimate.ms(9.0) < 25.0
    estimate.add(12.0, 9.0)
    assert estimate.ms(14.0) < 21.0


def test_lateness_is_the_worst_and_fades() -> None:
    late = Lateness()
    late.add(-3.0)
    assert late.ms == 0.0
    late.add(20.0)
    late.add(1.0)
    assert 19.0 * HEADROOM < late.ms < 20.0 * HEADROOM
    for _ in range(1000):
        late.add(0.0)
    assert late.ms < 0.01


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
