"""Measures of overlap, and of agreement with what people said, against numpy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_cloud.models.correlation import accuracy, f1, pearson, spearman, unexplained
from aimass_cloud.models.overlap import OverlapRidge, TfIdf, jaccard

ONE = np.array([[1, 2, 3, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
OTHER = np.array([[3, 2, 4, 0], [1, 2, 0, 0], [1, 0, 0, 0]])


def test_shared_words() -> None:
    assert jaccard((ONE, OTHER)).tolist() == [2 / 4, 1 / 2, 0.0]


def test_tf_idf_is_the_cosine_of_weighted_counts() -> None:
    weight = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    first, second, none = TfIdf(weight).score((ONE, OTHER))
    assert first == pytest.approx(13 / np.sqrt(14 * 29))
    assert second == pytest.approx(2 / np.sqrt(4 * 5))
    assert none == 0


def test_a_ridge_over_overlap_learns_a_score_of_overlap() -> None:
    random = np.random.default_rng(0)
    sides = (random.integers(1, 9, (200, 5)), random.integers(1, 9, (200, 5)))
    score = 2 + 3 * jaccard(sides)
    ridge = OverlapRidge.fit((sides[0][:150], sides[1][:150]), score[:150], 9)
    told = ridge.score((sides[0][150:], sides[1][150:]))
    assert pearson(told, score[150:]) > 0.95
    assert unexplained(told, score[150:]) < 0.1


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=20))
def test_correlations_are_those_of_numpy(rows: list[tuple[int, int]]) -> None:
    one, other = np.array(rows, float).T
    if one.std() and other.std():
        assert pearson(one, other) == pytest.approx(np.corrcoef(one, other)[0, 1])
        left, right = (
            np.array([(side < value).sum() + (side == value).sum() / 2 for value in side])
            for side in (one, other)
        )
        assert spearman(one, other) == pytest.approx(np.corrcoef(left, right)[0, 1])
    else:
        assert pearson(one, other) == spearman(one, other) == 0


def test_answers_yes_or_no() -> None:
    given_, wanted = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert (accuracy(given_, wanted), f1(given_, wanted)) == (0.5, 0.5)
    assert f1(np.zeros(2, bool), np.zeros(2, bool)) == 0
