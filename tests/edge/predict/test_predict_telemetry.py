"""From windows to inputs and from outputs to predictions, without a session."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimass_edge.predict.telemetry import AlarmState, judge, model_input, select
from aimass_shared.errors import BadTensorError, ModelError
from aimass_shared.manifest import AlarmRule, Contract
from aimass_shared.windows import Window


def outputs(score: float, contribution: list[float]) -> dict[str, NDArray[Any]]:
    return {
        "score": np.array([score], np.float32),
        "contribution": np.array([contribution], np.float32),
        "forecast": np.array([[[1.0, 2.0, np.nan], [4.0, 5.0, 6.0]]], np.float32),
    }


def test_sensors_are_found_by_name(contract: Contract, make_window: Callable[..., Window]) -> None:
    window = make_window([30.0, 99.0, 10.0, 20.0])
    taken = model_input(contract, window, select(contract, ("C", "other", "A", "B")))
    np.testing.assert_array_equal(taken.feeds["values"][0, 0], [10.0, 20.0, 30.0])
    assert taken.feeds["values"].shape == (1, 4, 3)
    assert taken.coverage == 1.0


def test_a_sensor_that_is_not_there_is_missing_values(
    contract: Contract, make_window: Callable[..., Window]
) -> None:
    selection = select(contract, ("A", "C"))
    taken = model_input(contract, make_window([10.0, 30.0]), selection)
    assert selection.missing == 1
    np.testing.assert_array_equal(taken.feeds["mask"][0, 0], [1, 0, 1])
    np.testing.assert_array_equal(taken.feeds["values"][0, 0], [10.0, 0.0, 30.0])
    assert taken.coverage == pytest.approx(2 / 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_missing(
    contract: Contract, make_window: Callable[..., Window], bad: float
) -> None:
    window = make_window([1.0, 2.0, 3.0])
    window.values[1, 2] = bad
    taken = model_input(contract, window, select(contract, ("A", "B", "C")))
    assert taken.feeds["mask"][0, 1, 2] == 0
    assert np.isfinite(taken.feeds["values"]).all()
    assert np.isnan(window.values[1, 2]) == np.isnan(bad), "the window itself is left alone"


@pytest.mark.parametrize("rows", [3, 5])
def test_a_window_of_another_length_is_refused(
    contract: Contract, make_window: Callable[..., Window], rows: int
) -> None:
    window = make_window([1.0, 2.0, 3.0], rows=rows)
    with pytest.raises(BadTensorError, match=f"has {rows} rows, tiny takes 4"):
        model_input(contract, window, select(contract, ("A", "B", "C")))


def test_the_worst_sensors_are_blamed_worst_first(contract: Contract) -> None:
    judged = judge(contract, outputs(12.5, [1.0, 7.0, 4.0]))
    assert judged.score == 12.5
    assert judged.top_sensors == ("B", "C")
    assert judged.forecast == (1.0, 2.0, 0.0)


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_an_error_of_the_model(
    contract: Contract, score: float
) -> None:
    with pytest.raises(ModelError, match="tiny gave the score"):
        judge(contract, outputs(score, [1.0, 1.0, 1.0]))


def test_the_alarm_needs_windows_in_a_row() -> None:
    state = AlarmState(AlarmRule("score", 10.0, "contribution", consecutive=3))
    scores = [11.0, 11.0, 10.0, 11.0, 11.0, 11.0, 11.0, 9.0, 11.0]
    assert [state.step(score) for score in scores] == [False] * 5 + [True, True, False, False]


@given(st.lists(st.booleans(), max_size=50), st.integers(1, 5))
def test_the_alarm_is_the_rule_as_written(over: list[bool], consecutive: int) -> None:
    state = AlarmState(AlarmRule("score", 1.0, "contribution", consecutive=consecutive))
    for index, high in enumerate(over):
        last = over[max(0, index + 1 - consecutive) : index + 1]
        assert state.step(2.0 if high else 0.5) == (len(last) == consecutive and all(last))
