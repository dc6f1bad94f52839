"""Rates and delays of a replayed fault: by hand, and what must hold of any predictions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_cloud.demo.detection import Rates, Seen, first_alarm, judge, rates, share

PCA = {"pca": Rates(0.1, 0.9)}


def test_rates_by_hand() -> None:
    seen = [Seen(0, over=False), Seen(1, over=True), Seen(2, over=False), Seen(3, over=False)]
    seen += [Seen(4, over=True), Seen(5, over=False)]
    # Onset 4: one of four normal windows, one of two faulty ones.
    assert rates(seen, 4) == Rates(false_alarm_rate=0.25, detection_rate=0.5)
    assert rates(seen, 1) == Rates(false_alarm_rate=0.0, detection_rate=0.4)


def test_rates_of_nothing_are_zero() -> None:
    assert rates([], 5) == Rates(0.0, 0.0)
    assert rates([Seen(9, over=True)], 5) == Rates(0.0, 1.0)
    assert rates([Seen(1, over=True)], 5) == Rates(1.0, 0.0)


def test_first_alarm_is_not_before_the_onset_and_wants_an_alarm_not_a_score() -> None:
    early, high = Seen(8, over=True, alarm=True), Seen(11, over=True)
    alarm, later = Seen(13, over=True, alarm=True), Seen(14, over=True, alarm=True)
    assert first_alarm([early, high, alarm, later], 10) is alarm
    assert first_alarm([early, high], 10) is None
    assert first_alarm([], 10) is None


def test_an_alarm_that_was_up_before_the_onset_has_not_found_the_fault() -> None:
    up = [Seen(row, over=True, alarm=True) for row in (8, 9, 10, 11)]
    down, again = Seen(12, over=False), Seen(15, over=True, alarm=True)
    assert first_alarm(up, 10) is None
    assert first_alarm([*up, down, again], 10) is again


def test_judge_by_hand_over_three_sites() -> None:
    sites = [
        [
            Seen(9, over=False),
            Seen(10, over=True),
            Seen(12, over=True, alarm=True, top_sensors=["a", "b"]),
        ],
        [Seen(9, over=True), Seen(14, over=True, alarm=True, top_sensors=["b", "c"])],
        [Seen(9, over=False), Seen(10, over=False), Seen(11, over=False)],
    ]
    found = judge(4, sites, onset=10, baselines=PCA, top=2)
    assert found.fault == 4
    assert found.false_alarm_rate == pytest.approx(1 / 3)
    assert found.detection_rate == pytest.approx(3 / 5)
    assert found.delay_samples == 3, "the median of 2 and 4; the third site found nothing"
    assert found.top_sensors == ["b", "a"]
    assert found.windows == 8
    assert found.baselines == PCA


def test_no_alarm_anywhere_is_a_delay_of_minus_one() -> None:
    found = judge(1, [[Seen(20, over=True)], []], onset=10, baselines={})
    assert found.delay_samples == -1
    assert found.top_sensors == []
    assert found.detection_rate == 1.0


def test_the_order_in_which_predictions_arrive_does_not_matter_nor_that_one_comes_twice() -> None:
    one = Seen(12, over=True, alarm=True, top_sensors=["a"])
    again = Seen(12, over=True, alarm=True, top_sensors=("a",))
    found = judge(1, [[Seen(15, over=True, alarm=True), one, again]], onset=10, baselines={})
    assert found.delay_samples == 2
    assert found.top_sensors == ["a"]


SEEN = st.builds(
    Seen,
    st.integers(-30, 60),
    st.booleans(),
    st.booleans(),
    st.lists(st.sampled_from("abcde"), max_size=3, unique=True),
)


@given(sites=st.lists(st.lists(SEEN, max_size=20), max_size=4), onset=st.integers(0, 30))
def test_figures_stay_in_their_ranges(sites: list[list[Seen]], onset: int) -> None:
    found = judge(1, sites, onset=onset, baselines={})
    assert 0 <= found.false_alarm_rate <= 1
    assert 0 <= found.detection_rate <= 1
    assert found.windows == sum(map(len, sites))
    alarms = [s.row - onset for run in sites for s in run if s.alarm and s.row >= onset]
    if found.delay_samples == -1:
        begun = [first_alarm(sorted(run, key=lambda s: s.row), onset) for run in sites]
        assert begun == [None] * len(sites)
    else:
        assert min(alarms) <= found.delay_samples <= max(alarms)
    assert len(found.top_sensors) <= 3


@given(sites=st.lists(st.lists(SEEN, max_size=20), max_size=3), onset=st.integers(0, 30))
def test_one_more_false_alarm_never_improves_the_figures(
    sites: list[list[Seen]], onset: int
) -> None:
    before = judge(1, sites, onset=onset, baselines={})
    after = judge(1, [*sites, [Seen(onset - 1, over=True)]], onset=onset, baselines={})
    assert after.false_alarm_rate >= before.false_alarm_rate
    assert after.false_alarm_rate > 0
    assert after.detection_rate == before.detection_rate
    assert after.delay_samples == before.delay_samples


@given(st.lists(st.booleans(), min_size=1))
def test_share_and_its_complement_are_one(flags: list[bool]) -> None:
    assert share(flags) + share([not flag for flag in flags]) == pytest.approx(1)
