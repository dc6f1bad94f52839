"""Drift scores: zero in normal operation, the index of two normals, wild values fade."""

import numpy as np

from aimass_shared.drift import FARTHEST, LARGE, SMALL, DriftScore

EVERY = np.ones(3, np.bool_)


def test_what_was_normal_stays_under_a_small_shift() -> None:
    random, score = np.random.default_rng(0), DriftScore(3)
    assert score.scores().tolist() == [0.0, 0.0, 0.0]
    for row in random.normal(0, 1, (3000, 3)):
        score.add(row, EVERY)
        assert score.scores().max() < SMALL


def test_the_score_is_the_stability_index_of_two_normals() -> None:
    random = np.random.default_rng(1)
    mean, deviation = random.uniform(-3, 3, 200), random.uniform(0.3, 3, 200)
    score, every = DriftScore(200, rows=1000), np.ones(200, np.bool_)
    for row in random.normal(mean, deviation, (8000, 200)):
        score.add(row, every)
    variance = deviation**2
    expected = (variance + 1 / variance - 2 + mean**2 * (1 + 1 / variance)) / 2
    assert np.allclose(score.scores(), expected, rtol=0.35, atol=0.1)


def test_a_shift_a_noise_and_a_stuck_sensor_all_drift() -> None:
    random, score = np.random.default_rng(2), DriftScore(3)
    for _ in range(1500):
        score.add(np.array([random.normal() + 1.5, 2 * random.normal(), 0.3]), EVERY)
    assert (score.scores() > LARGE).all()


def test_what_is_missing_changes_nothing() -> None:
    score = DriftScore(3)
    for _ in range(100):
        score.add(np.array([np.nan, 5.0, np.inf]), np.array([False, True, False]))
    found = score.scores()
    assert found[1] > 1.0
    assert (found[0], found[2]) == (0.0, 0.0)


def test_one_wild_value_counts_no_more_than_a_far_one() -> None:
    wild, far = DriftScore(1), DriftScore(1)
    wild.add(np.array([1e30]), EVERY[:1])
    far.add(np.array([FARTHEST]), EVERY[:1])
    assert wild.scores() == far.scores()
    random = np.random.default_rng(3)
    for value in random.normal(0, 1, 3000):
        wild.add(np.array([value]), EVERY[:1])
    assert wild.scores()[0] < SMALL
