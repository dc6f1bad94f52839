"""Figures of detection at a plant, on scores whose answer is known."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from numpy.typing import NDArray

from aimass_cloud.recipes import tep
from aimass_cloud.recipes.detection import measured

WINDOW = 16


def test_detection_counts_windows_and_the_alarm_waits_for_three() -> None:
    data = tep.load()

    def score(rows: NDArray[np.float32]) -> NDArray[np.floating]:
        """1 in normal operation, 9 in two spells of the fault that is asked about."""
        scores = np.ones(len(rows) - WINDOW + 1)
        if len(rows) > 480:
            first = data.fault_start - WINDOW + 1
            scores[[*range(first, first + 2), *range(first + 10, first + 90)]] = 9.0
        return scores

    one = replace(data, faults=MappingProxyType({4: data.faults[4]}))
    found = measured(score, one, WINDOW, level=1.05)
    assert (found["threshold"], found["far"]) == (1.05, 0.0)
    assert found["mar"] == pytest.approx(1 - 82 / 800)
    assert found["faults"]["4"]["detection_rate"] == pytest.approx(82 / 800)
    # Two in a row are no alarm; the third window of the second spell is row 12 of the fault.
    assert found["faults"]["4"]["delay_samples"] == found["add"] == 12


def test_a_fault_that_is_never_found_has_no_delay() -> None:
    found = measured(lambda rows: np.ones(len(rows) - WINDOW + 1), tep.load(), WINDOW, level=2.0)
    assert found["faults"]["1"] == {"detection_rate": 0.0, "delay_samples": None}
    assert (found["add"], found["cdr"]) == (None, 0.0)
