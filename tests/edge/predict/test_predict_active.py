"""The life of a loaded slice: tried before it answers, closed after its last user."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aimass_edge.config import BoardSettings
from aimass_edge.predict.active import Active, open_checked
from aimass_edge.runtime import open_session
from aimass_shared.errors import ModelLoadFailedError
from aimass_shared.manifest import AlarmRule, Contract, TensorSpec

Make = Callable[..., Any]
DATA = Path(__file__).parent.parent / "data"
BOARD = BoardSettings()


def test_it_closes_when_the_last_user_is_done(make_release: Make, make_pace: Make) -> None:
    release, pace = make_release(), make_pace()
    path = release.directory / "model.onnx"
    active = Active(release.manifest, release.entry, pace(path, BOARD))
    with active.in_use():
        with active.in_use():
            active.retire()
        assert pace.closed == []
    assert pace.closed == [path]


def test_it_closes_at_once_without_users(make_release: Make, make_pace: Make) -> None:
    release, pace = make_release(), make_pace()
    active = Active(release.manifest, release.entry, pace(release.directory / "model.onnx", BOARD))
    with active.in_use():
        pass
    assert pace.closed == []
    active.retire()
    assert len(pace.closed) == 1


def test_the_trial_measures_a_window(contract: Contract, make_pace: Make) -> None:
    opened = open_checked(DATA / "monitor.onnx", BOARD, contract, opener=make_pace(0.03))
    assert opened.window_ms >= 30


@pytest.mark.parametrize("file", ["other_shape.onnx", "fails.onnx"])
def test_what_fails_the_trial_is_closed(contract: Contract, make_pace: Make, file: str) -> None:
    pace = make_pace()
    with pytest.raises(ModelLoadFailedError):
        open_checked(DATA / file, BOARD, contract, opener=pace)
    assert pace.closed == [DATA / file]


def test_a_model_that_keeps_its_promise_but_does_not_run_is_refused(make_pace: Make) -> None:
    session = open_session(DATA / "fails.onnx", BOARD)
    promised = Contract("any", session.inputs, session.outputs)
    with pytest.raises(ModelLoadFailedError, match="does not run"):
        open_checked(DATA / "fails.onnx", BOARD, promised, opener=make_pace())


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (TensorSpec("quality", "FP32", (-1,)), "no output quality"),
        (TensorSpec("score", "FP32", (-1, 1)), "expected FP32"),
        (TensorSpec("score", "FP64", (-1,)), "expected FP64"),
    ],
)
def test_outputs_are_compared_as_they_come(
    contract: Contract, make_pace: Make, output: TensorSpec, told: str
) -> None:
    promised = msgspec.structs.replace(contract, outputs=(output,))
    with pytest.raises(ModelLoadFailedError, match=told):
        open_checked(DATA / "monitor.onnx", BOARD, promised, opener=make_pace())


def test_a_model_may_give_more_than_is_promised(contract: Contract, make_pace: Make) -> None:
    promised = msgspec.structs.replace(contract, outputs=contract.outputs[:1])
    open_checked(DATA / "monitor.onnx", BOARD, promised, opener=make_pace())


def test_an_alarm_rule_about_another_output_is_refused(contract: Contract, make_pace: Make) -> None:
    rule = AlarmRule("health", 10.0, "contribution")
    promised = msgspec.structs.replace(contract, alarm=rule)
    with pytest.raises(ModelLoadFailedError, match="no output health"):
        open_checked(DATA / "monitor.onnx", BOARD, promised, opener=make_pace())
