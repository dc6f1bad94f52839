"""The states of installs, step by step and in any order."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_edge.update import state as states
from aimass_edge.update.state import MAX_VERDICTS, State, Trial, Verdict
from aimass_shared.errors import SelfTestFailedError, UnfitReleaseError

WHY = Verdict("unfit-release", "it was slow")


def on_trial(digest: str, attempts: int = 3, state: State | None = None) -> State:
    return states.begin_trial(state or State(), digest, attempts)


def test_trial_that_works_becomes_active_and_keeps_its_predecessor() -> None:
    first = states.commit(on_trial("a"))
    second = states.commit(on_trial("b", state=first))
    assert (second.active, second.previous, second.trial) == ("b", "a", None)
    again = states.commit(on_trial("b", state=second))
    assert (again.active, again.previous) == ("b", "a")


def test_trial_has_as_many_starts_as_attempts() -> None:
    state = on_trial("b", attempts=3, state=states.commit(on_trial("a")))
    for left in (1, 0):
        state = states.spend_attempt(state)
        assert state.trial == Trial("b", left)
    state = states.spend_attempt(state)
    assert state.trial is None
    assert state.active == "a"
    with pytest.raises(UnfitReleaseError, match="went down at each attempt"):
        states.check_not_bad(state, "b")


def test_rejected_install_gives_way_to_the_previous_one() -> None:
    state = states.commit(on_trial("b", state=states.commit(on_trial("a"))))
    state = states.condemn(state, "b", WHY)
    assert (state.active, state.previous) == ("a", "")
    assert "b" not in state.keeps()


def test_verdict_of_the_self_test_keeps_its_code() -> None:
    state = states.condemn(State(), "a", Verdict(SelfTestFailedError.code, "off by 3"))
    with pytest.raises(SelfTestFailedError, match="off by 3"):
        states.check_not_bad(state, "a")
    states.check_not_bad(state, "b")


def test_oldest_verdicts_are_forgotten_first() -> None:
    state = State()
    for number in range(MAX_VERDICTS + 5):
        state = states.condemn(state, str(number), WHY)
    assert len(state.bad) == MAX_VERDICTS
    assert "4" not in state.bad
    assert str(MAX_VERDICTS + 4) in state.bad


def test_what_stands_beside_goes_with_the_active_install() -> None:
    state = states.commit(states.begin_trial(State(), "a", 2))
    beside = states.accompany(states.begin_test(state, "n"), ("n", "m"))
    assert (beside.beside, beside.tests) == (("n", "m"), {})
    assert beside.keeps() == {"a", "n", "m"}
    tried = states.begin_trial(beside, "b", 2)
    assert tried.beside == ("n", "m"), "the device may have to go back"
    assert states.condemn(tried, "b", WHY).beside == ("n", "m")
    assert states.commit(tried).beside == ()
    assert states.condemn(beside, "n", WHY).beside == ("m",)
    assert states.condemn(beside, "a", WHY).beside == ()


STEPS: dict[str, Callable[[State, str], State]] = {
    "test": states.begin_test,
    "trial": lambda state, digest: states.begin_trial(state, digest, 2),
    "boot": lambda state, _: states.spend_attempt(state),
    "commit": lambda state, _: states.commit(state),
    "condemn": lambda state, digest: states.condemn(state, digest, WHY),
    "end": lambda state, _: states.end_trial(state),
    "accompany": lambda state, digest: states.accompany(state, (digest,)),
}
DIGESTS = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), DIGESTS), max_size=30))
def test_any_order_of_steps_leaves_a_sound_state(steps: list[tuple[str, str]]) -> None:
    state = State()
    for step, digest in steps:
        if step in {"trial", "accompany"} and digest in state.bad:
            continue  # the updater refuses it
        state = STEPS[step](state, digest)
        assert not state.keeps() & set(state.bad), "what is kept was rejected"
        assert not state.active or state.active != state.previous
        assert state.trial is None or state.trial.left >= 0
