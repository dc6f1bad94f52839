"""The circuit breaker as a state machine, with a clock of its own."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aimass_edge.handoff import Breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(3, retry_after_s=1.0)
    for outcome in ("failed", "failed", "succeeded", "failed", "failed"):
        assert breaker.acquire(0.0)
        breaker.failed(0.0) if outcome == "failed" else breaker.succeeded()
    assert not breaker.is_open
    breaker.failed(0.0)
    assert breaker.is_open
    assert not breaker.acquire(0.99)


def test_one_probe_at_a_time_decides() -> None:
    breaker = Breaker(1, retry_after_s=1.0)
    breaker.failed(0.0)
    assert breaker.acquire(1.0)
    assert not breaker.acquire(1.0), "the probe is out"
    breaker.failed(1.5)
    assert not breaker.acquire(2.4), "a failed probe waits anew"
    assert breaker.acquire(2.5)
    breaker.succeeded()
    assert breaker.acquire(2.5)
    assert breaker.acquire(2.5)


def test_a_cloud_that_says_when_is_not_asked_before() -> None:
    breaker = Breaker(3, retry_after_s=1.0)
    breaker.failed(0.0, hold_s=5.0)
    assert not breaker.is_open
    assert not breaker.acquire(4.9)
    breaker.failed(4.9, hold_s=0.0)
    assert breaker.acquire(5.0)


def test_a_fleet_does_not_come_back_in_one_instant() -> None:
    breaker = Breaker(1, retry_after_s=1.0)
    breaker.failed(0.0, jitter=0.5)
    assert not breaker.lets_through(0.49)
    assert breaker.lets_through(0.5)


def test_a_probe_whose_caller_left_does_not_block_the_next() -> None:
    breaker = Breaker(1, retry_after_s=1.0)
    breaker.failed(0.0)
    assert breaker.acquire(1.0)
    breaker.abandoned()
    assert breaker.acquire(1.0)


class Life(RuleBasedStateMachine):
    """Whatever happens, a cloud that is well again is found within one retry time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(2, retry_after_s=1.0)
        self.now = 0.0
        self.out = 0
        self.in_a_row = 0

    @rule(seconds=st.floats(0.0, 2.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        expected = self.breaker.lets_through(self.now)
        assert self.breaker.acquire(self.now) == expected
        self.out += expected

    @precondition(lambda self: self.out)
    @rule(how=st.sampled_from(["succeeded", "failed", "abandoned"]))
    def end(self, how: str) -> None:
        self.out -= 1
        if how == "failed":
            self.in_a_row += 1
            self.breaker.failed(self.now)
        elif how == "succeeded":
            self.in_a_row = 0
            self.breaker.succeeded()
        else:
            self.breaker.abandoned()

    @invariant()
    def it_is_open_after_two_failures(self) -> None:
        assert self.breaker.is_open == (self.in_a_row >= 2)

    @invariant()
    def it_never_stays_shut_when_nothing_is_out(self) -> None:
        if self.out == 0:
            assert self.breaker.lets_through(self.now + 1.001)


TestLife = Life.TestCase
