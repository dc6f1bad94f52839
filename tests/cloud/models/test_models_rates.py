"""Measures of detection: against sklearn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimass_cloud.models.rates import Run, auprc, auroc, delays, rates, references


def _run(faulty: str, over: str) -> Run:
    """Rows as text: "x" is faulty, or over the limit."""
    return Run(
        np.array([one == "x" for one in faulty]),
        np.array([2.0 if one == "x" else 0.5 for one in over]),
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=60))
def test_areas_are_those_of_their_definitions(rows: list[tuple[bool, int]]) -> None:
    faulty = np.array([one for one, _ in rows])
    score = np.array([value for _, value in rows], np.float64)
    if faulty.all() or not faulty.any():
        assert auroc(faulty, score) is None
        return
    pairs = score[faulty][:, None] - score[~faulty]
    assert auroc(faulty, score) == pytest.approx(np.mean(pairs > 0) + np.mean(pairs == 0) / 2)
    levels = sorted(set(score), reverse=True)
    recalls = [0.0, *(float(np.mean(score[faulty] >= level)) for level in levels)]
    precisions = [float(np.mean(faulty[score >= level])) for level in levels]
    assert auprc(faulty, score) == pytest.approx(np.dot(np.diff(recalls), precisions))


def test_rates_are_of_single_rows() -> None:
    found = rates([_run("....xxxxxxxx", ".x..x..xxxx.")])
    assert found.far == pytest.approx(1 / 4)
    assert found.mar == pytest.approx(3 / 8)
    assert found.f1 == pytest.approx(2 * 5 / (2 * 5 + 1 + 3))
    assert (found.add, found.cdr) == (5.0, 1.0)


def test_a_stretch_without_an_alarm_lowers_the_share_and_not_the_delay() -> None:
    found = rates([_run("..xxxx..xxxx", "......xxxxx."), _run("xxxx", ".xx.")])
    assert found.add == 2.0
    assert found.cdr == pytest.approx(1 / 3)


def test_an_alarm_that_was_up_before_the_fault_has_not_found_it() -> None:
    assert delays(_run("...xxxx", "xxxx...")) == [None]
    assert delays(_run("...xxxx", "xxxxxx.")) == [2]
    assert delays(_run("...xx", "xxxxx"), consecutive=1) == [0]


def test_what_there_is_nothing_to_take_from_is_none() -> None:
    normal, faulty = rates([_run("....", "x...")]), rates([_run("xxxx", "x...")])
    assert (normal.far, normal.mar, normal.add, normal.cdr, normal.auroc) == (0.25, *[None] * 4)
    assert (faulty.far, faulty.mar, faulty.cdr, faulty.auprc) == (None, 0.75, 0.0, 1.0)


def test_what_needs_no_data_is_no_detector() -> None:
    runs = [_run("." * 3000 + "x" * 3000, "." * 6000)]
    found = references(runs, seed=3)
    always, random = found["always alarm"], found["random"]
    assert (always.far, always.mar, always.auroc) == (1.0, 0.0, 0.5)
    assert always.f1 == pytest.approx(2 / 3)
    assert random.auroc == pytest.approx(0.5, abs=0.03)
    assert random.far == pytest.approx(0.5, abs=0.03)
    assert references(runs, seed=3) == found
