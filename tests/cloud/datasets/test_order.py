"""The order of windows: every window once, none across a border, and any place to go on from."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aimass_cloud.datasets.order import Order, Stretch

COUNTS = st.integers(1, 9)


@st.composite
def orders(draw: st.DrawFn) -> Order:
    edges = sorted(draw(st.sets(st.integers(0, 120), min_size=2, max_size=9)))
    cuts = sorted(draw(st.sets(st.integers(edges[0], edges[-1]), max_size=9)))
    stretches = [Stretch(f"{number}", *ends) for number, ends in enumerate(pairwise(cuts))]
    bounds = np.array([0, *edges[1:-1], 120], np.int64)
    return Order(bounds, stretches, draw(COUNTS), draw(COUNTS), together=draw(COUNTS))


def every(order: Order) -> list[int]:
    """By the definition: starts of windows, the slow way."""
    return [
        start
        for one in order.stretches
        for start in range(one.first, one.stop, order.stride)
        if start + order.length <= one.stop
    ]


@given(orders())
def test_an_epoch_has_every_window_once(order: Order) -> None:
    drawn = [start for _, starts in order.rounds(3, 0) for start in starts.tolist()]
    assert sorted(drawn) == every(order)
    assert order.total == len(drawn)


@given(orders())
def test_a_window_belongs_to_the_block_in_which_it_begins(order: Order) -> None:
    for blocks, starts in order.rounds(3, 0):
        assert len(blocks) <= order.together
        found = np.searchsorted(order.bounds, starts, "right") - 1
        assert set(found.tolist()) == set(blocks.tolist())
    for block, count in enumerate(order.counts.tolist()):
        assert len(order.starts(block)) == count


@given(orders(), st.integers(0, 130))
def test_going_on_skips_exactly_what_was_taken(order: Order, skip: int) -> None:
    whole = [start for _, starts in order.rounds(3, 1) for start in starts.tolist()]
    rest = [start for _, starts in order.rounds(3, 1, skip) for start in starts.tolist()]
    assert rest == whole[skip:]
    first = next((len(starts) for _, starts in order.rounds(3, 1)), 0)
    left_out = first > 0 and skip >= first
    assert len(list(order.rounds(3, 1, skip))) <= len(list(order.rounds(3, 1))) - left_out


def test_seeds_and_epochs_have_their_own_orders() -> None:
    order = Order(np.array([0, 40, 80, 120]), [Stretch("", 0, 120)], 4, 1, together=2)
    sequences = {
        tuple(start for _, starts in order.rounds(seed, epoch) for start in starts.tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(sequences) == 9
