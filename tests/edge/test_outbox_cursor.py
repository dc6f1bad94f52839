"""The sender's rule against the receiver's, over a network that loses, repeats and reorders."""

from collections.abc import Callable

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aimass_edge.outbox import Cursor
from aimass_shared.messages import StreamBatch, StreamItem
from aimass_shared.streams import advance

WINDOW, BATCH, REWIND_MS = 7, 3, 100


def cursor() -> Cursor:
    return Cursor(window_rows=WINDOW, batch_rows=BATCH, rewind_ms=REWIND_MS)


class Delivery(RuleBasedStateMachine):
    """One stream from an outbox to the cloud; `kept` is the outbox, `stored` the cloud."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.cursor = cursor()
        self.next_id = 1
        self.kept: set[int] = set()
        self.dropped: set[int] = set()
        self.network: list[StreamBatch] = []
        self.acks: list[int] = []
        self.stored: set[int] = set()
        self.upto = 0

    @rule(skip=st.integers(0, 3))
    def put(self, skip: int) -> None:
        self.next_id += skip  # ids that other streams took
        self.kept.add(self.next_id)
        self.next_id += 1

    @rule()
    def send(self) -> None:
        want = self.cursor.want(self.now)
        rows = sorted(row for row in self.kept if want and row > want.position)
        if want is None or not rows:
            return
        rows = rows[: want.rows]
        items = tuple(StreamItem(row, msgspec.Raw(b"0")) for row in rows)
        self.network.append(StreamBatch(epoch="e", items=items, after=want.after))
        self.cursor.sent(rows[-1], len(rows), self.now)

    @precondition(lambda self: self.network)
    @rule(data=st.data(), repeat=st.booleans())
    def arrive(self, data: st.DataObject, *, repeat: bool) -> None:
        index = data.draw(st.integers(0, len(self.network) - 1))
        batch = self.network[index] if repeat else self.network.pop(index)
        upto = advance(self.upto, batch)
        if upto is not None:
            self.stored |= {item.id for item in batch.items}
            self.upto = upto
        self.acks.append(self.upto)

    @precondition(lambda self: self.network)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.network.pop(data.draw(st.integers(0, len(self.network) - 1)))

    @precondition(lambda self: self.acks)
    @rule(data=st.data(), lost=st.booleans())
    def ack(self, data: st.DataObject, *, lost: bool) -> None:
        upto = self.acks.pop(data.draw(st.integers(0, len(self.acks) - 1)))
        if not lost and self.cursor.acked(upto, self.now):
            self.kept = {row for row in self.kept if row > upto}

    @precondition(lambda self: self.kept)
    @rule()
    def drop_oldest(self) -> None:
        oldest = min(self.kept)
        self.kept.remove(oldest)
        self.dropped.add(oldest)

    @rule(ms=st.sampled_from([1, 50, REWIND_MS]))
    def wait(self, ms: int) -> None:
        self.now += ms

    @rule()
    def restart(self) -> None:
        self.cursor = cursor()

    @invariant()
    def the_window_holds(self) -> None:
        assert 0 <= self.cursor.in_flight <= WINDOW

    @invariant()
    def what_is_acknowledged_is_stored(self) -> None:
        """Hence nothing is deleted that the cloud does not have, nor dropped knowingly."""
        gone = set(range(1, self.upto + 1)) & (self.kept | self.stored | self.dropped)
        assert gone <= self.stored | self.dropped

    def teardown(self) -> None:
        """On a network that works again, everything that is kept arrives, within few steps."""
        self.network.clear()
        for _ in range(200):
            self.now += REWIND_MS / 2
            self.send()
            while self.network:
                batch = self.network.pop(0)
                self.upto = advance(self.upto, batch) or self.upto
                self.stored |= {item.id for item in batch.items}
                self.cursor.acked(self.upto, self.now)
                self.kept = {row for row in self.kept if row > self.upto}
        assert not self.kept


Delivery.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestDelivery = Delivery.TestCase


def test_it_rewinds_only_without_progress() -> None:
    one = cursor()
    one.sent(3, 3, 0)
    one.sent(6, 3, 50)
    assert one.acked(3, 90)
    assert not one.acked(3, 150)  # alive, but no progress
    want = one.want(189)
    assert want is not None
    assert (want.position, want.after) == (6, 6)
    again = one.want(190)
    assert again is not None
    assert (again.position, again.after) == (3, 0)
    assert one.rewinds == 1


def test_a_full_window_waits_and_an_idle_one_never_rewinds() -> None:
    one = cursor()
    one.sent(7, 7, 0)
    assert one.want(10) is None
    assert one.acked(7, 20)
    assert one.idle_until() is None
    assert one.want(10_000) is not None
    assert one.rewinds == 0
    one.sent(8, 1, 10_000)
    assert one.want(10_050) is not None  # the clock starts with the first row in flight
    assert one.rewinds == 0


@pytest.mark.parametrize("early", [lambda one: one.acked(9, 1), lambda one: one.acked(3, 1)])
def test_an_ack_while_sending_is_not_undone(early: Callable[[Cursor], bool]) -> None:
    one = cursor()
    early(one)
    one.sent(3, 3, 2)
    assert one.in_flight == 0
