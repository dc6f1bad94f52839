"""Rings of what was worked out of rows: read from files, filled, and never mixed up."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimass_shared.errors import MalformedMessageError
from aimass_shared.streaming import Part, Ring, Streamer, StreamForm, read

WINDOW, SENSORS = 6, 2
Arrays = Mapping[str, NDArray[Any]]
FORM = StreamForm(WINDOW, 2, (Ring("seen", (SENSORS, WINDOW * 3), 1, 3), Ring("moved", (5, 1), 0)))


def whole(feeds: Arrays) -> dict[str, NDArray[Any]]:
    """What a model may make of rows: three numbers of each, and what changed; of both, all."""
    x = feeds["x"][0]
    return {"y": np.concatenate([np.tile(x, 3).reshape(-1), np.diff(x[:, 0]), x[-1]])}


def step(feeds: Arrays) -> dict[str, NDArray[Any]]:
    x = feeds["x"][0]
    return {
        "seen": np.tile(x[-1].reshape(SENSORS, 1), 3),
        "moved": np.diff(x[:, 0]).reshape(1, 1),
    }


def rest(feeds: Arrays) -> dict[str, NDArray[Any]]:
    seen = feeds["seen"].reshape(SENSORS, WINDOW, 3).transpose(1, 2, 0)
    return {"y": np.concatenate([seen.reshape(-1), feeds["moved"][:, 0], feeds["x"][0, -1]])}


def streamer() -> Streamer:
    return Streamer(FORM, ["x"], step=Part(["x"], step), rest=Part(["x", "seen", "moved"], rest))


@given(jumps=st.lists(st.sampled_from([1, 1, 1, 1, 0, 2, 9]), min_size=1, max_size=40))
def test_answers_are_those_of_whole_windows_whatever_comes_next(jumps: list[int]) -> None:
    rows = np.random.default_rng(0).normal(size=(1, 500, SENSORS))
    one, at, answered = streamer(), 0, 0
    for jump in jumps:
        at += jump
        feeds = {"x": rows[:, at : at + WINDOW]}
        found = one.answer(feeds)
        if found is not None:
            answered += 1
            assert np.array_equal(found["y"], whole(feeds)["y"])
    steps = sum(jump == 1 for jump in jumps[1:])
    assert answered >= steps


def test_a_window_that_was_changed_in_place_is_no_window_before() -> None:
    one, rows = streamer(), np.random.default_rng(0).normal(size=(1, 9, SENSORS))
    given_rows = rows[:, :WINDOW].copy()
    assert one.answer({"x": given_rows}) is None
    given_rows[:] = 0
    assert one.answer({"x": rows[:, 1 : 1 + WINDOW]}) is not None
    one.forget()
    assert one.answer({"x": rows[:, 2 : 2 + WINDOW]}) is None


def test_a_form_is_read_as_it_was_written() -> None:
    assert read(msgspec.json.encode(FORM).decode()) == FORM


@pytest.mark.parametrize(
    "change",
    [
        {"rings": []},
        {"rows": 0},
        {"rows": WINDOW + 1},
        {"rings": [{"name": "a", "shape": [2, 3], "axis": 2}]},
        {"rings": [{"name": "a", "shape": [7, 3], "axis": 0}]},
        {"rings": [{"name": "a", "shape": [6, 0], "axis": 0}]},
        {"rings": [{"name": "a", "shape": [6], "axis": 0, "each": 4}]},
        {"rings": [{"name": "a", "shape": [], "axis": 0}]},
        {"window": "six"},
        {"window": 1, "rows": 1, "rings": [{"name": "a", "shape": [1], "axis": 0}]},
    ],
)
def test_a_form_whose_sizes_do_not_fit_is_refused(change: dict[str, object]) -> None:
    text = msgspec.json.encode({**msgspec.to_builtins(FORM), **change}).decode()
    with pytest.raises(MalformedMessageError):
        read(text)


def test_no_form_is_refused() -> None:
    with pytest.raises(MalformedMessageError):
        read("")
