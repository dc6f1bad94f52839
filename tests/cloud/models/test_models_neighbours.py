"""Neighbourhoods against counting by hand."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_cloud.models.neighbours import averaging, count_pairs, nearest, scores

SIZE = 7
HISTORIES = st.lists(
    st.lists(st.integers(1, SIZE - 1), unique=True, max_size=6).map(
        lambda items: np.array(items, np.int64)
    ),
    min_size=1,
    max_size=8,
)


@given(HISTORIES, st.sampled_from([1.0, 0.5]), st.sampled_from([0.0, 0.5, 1.0]))
def test_pairs_are_those_of_counting_by_hand(
    histories: list[np.ndarray[tuple[int], np.dtype[np.int64]]], fade: float, back: float
) -> None:
    wanted = np.zeros((SIZE, SIZE))
    for history in histories:
        for (a, earlier), (b, later) in combinations(enumerate(history), 2):
            count = fade ** (b - a - 1) / np.log(2 + len(history))
            wanted[earlier, later] += count
            wanted[later, earlier] += back * count
    found = np.zeros((SIZE, SIZE))
    pairs = count_pairs(histories, SIZE, fade=fade).both_ways(back)
    found[pairs.earlier, pairs.later] = pairs.counts
    assert np.allclose(found, wanted)
    assert len(set(zip(pairs.earlier.tolist(), pairs.later.tolist(), strict=True))) == len(
        pairs.counts
    )


def test_the_nearest_are_the_heaviest_with_shrinkage() -> None:
    histories = [np.array(items) for items in ([1, 2], [1, 2], [1, 3], [4, 3], [1, 5])]
    found = nearest(count_pairs(histories, 6, fade=1.0), 2, shrink=1.0, power=0.5)
    count = 1 / np.log(4)
    assert found.ids[1].tolist() == [2, 5]
    assert found.weights[1] == pytest.approx(
        [2 * count / (np.sqrt(4 * 2) + 1), count / (np.sqrt(4 * 1) + 1)]
    )
    assert not found.ids[[0, 2, 5]].any()
    assert averaging(found).weights.sum(axis=1) == pytest.approx([0, 1, 0, 0, 1, 0])


def test_scores_add_up_and_fade() -> None:
    histories = [np.array(items) for items in ([1, 2], [3, 2], [3, 4])]
    found = nearest(count_pairs(histories, 5, fade=1.0), 3, shrink=0.0, power=1.0)
    one = found.weights[1][0]
    asked = scores(found, np.array([[0, 1], [1, 3], [0, 0]]), recency=0.5)
    assert asked[0] == pytest.approx([0, 0, one, 0, 0])
    assert asked[1] == pytest.approx([0, 0, 0.5 * one + one / 2, 0, one / 2])
    assert not asked[2].any()
