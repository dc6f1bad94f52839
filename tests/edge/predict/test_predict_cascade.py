"""Second opinions: the budget holds whatever comes, and the gain is learned from what came back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimass_edge.predict.cascade import FIRST, RATE, Gate, features

Floats = NDArray[np.float64]


def shares(*sure: float) -> Floats:
    """Two classes, the first with these probabilities."""
    return np.array([[one, 1.0 - one] for one in sure])


@given(
    st.floats(0.01, 0.9),
    st.lists(st.floats(0.5, 1.0), min_size=1, max_size=400),
    st.integers(0, 5),
)
def test_the_share_that_goes_is_the_budget_whatever_comes(
    share: float, sure: list[float], seed: int
) -> None:
    gate = Gate(share, seed)
    went = [gate.wants(shares(one)) for one in sure]
    assert abs(sum(went) - share * len(went)) <= (1 + FIRST) / RATE + 1e-6


def test_a_drift_changes_the_threshold_and_not_the_share() -> None:
    random = np.random.default_rng(0)
    gate = Gate(0.2)
    for low in (0.9, 0.5):
        went = [gate.wants(shares(random.uniform(low, 1.0))) for _ in range(2000)]
        assert np.mean(went) == pytest.approx(0.2, abs=0.03)


def test_what_the_cloud_changes_is_learned_even_if_the_slice_is_sure_of_it() -> None:
    """The slice is sure of what it gets wrong: by margin alone all the others would go."""
    random = np.random.default_rng(1)
    gate = Gate(0.2)
    caught = []
    for number in range(3000):
        is_wrong = random.random() < 0.2
        given = shares(random.uniform(0.85, 0.95) if is_wrong else random.uniform(0.5, 0.8))
        if gate.wants(given):
            gate.learn(given, np.array([int(is_wrong)]))
            if number >= 2000:
                caught.append(is_wrong)
    assert np.mean(caught) > 0.6, "a fifth of all are wrong"


def test_it_starts_with_what_the_slice_is_least_sure_of() -> None:
    random = np.random.default_rng(2)
    gate = Gate(0.1)
    margins: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(2000):
        sure = random.uniform(0.5, 1.0)
        margins[gate.wants(shares(sure))].append(sure)
    assert np.median(margins[True]) < 0.6 < np.median(margins[False])


@given(
    st.lists(
        st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2),
)
def test_no_output_of_a_model_ends_it(rows: list[list[float]], label: int) -> None:
    gate = Gate(0.5)
    odd: Any = np.array(rows)
    assert np.isfinite(features(odd)).all()
    gate.learn(odd, np.full(len(rows), label))
    assert gate.wants(odd) in {True, False}
    assert gate.wants(shares(0.5)) in {True, False}


def test_one_class_and_years_of_the_same_answer_keep_it_sound() -> None:
    gate = Gate(0.5)
    one = np.ones((1, 1))
    for _ in range(20_000):
        gate.learn(one, np.array([0]))
    assert np.isfinite(gate._weights).all()
    assert gate.wants(one) in {True, False}


def test_logits_are_taken_for_what_they_say() -> None:
    logits = np.array([[2.0, -1.0, 0.5], [-3.0, 4.0, 4.0]])
    powers = np.exp(logits)
    np.testing.assert_allclose(
        features(logits), features(powers / powers.sum(axis=1, keepdims=True)), atol=1e-12
    )
