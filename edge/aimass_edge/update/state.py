"""What the device knows about its installs, and every step from one state to the next. No I/O.

An install is named by the digest of its manifest and slice. At most three matter: the `active` one,
the `previous` one to go back to, and one on `trial`; narrower slices may stand beside the active. A
trial costs one attempt each time before it is loaded, so that a crash of the whole machine counts
too.
"""

from typing import TypeVar

import msgspec

from aimass_shared.errors import SelfTestFailedError, UnfitReleaseError
from aimass_shared.trust import Floor

MAX_VERDICTS = 64
T = TypeVar("T")


class Trial(msgspec.Struct, frozen=True):
    """An install that must still prove itself; `left` more starts are allowed."""

    digest: str
    left: int


class Verdict(msgspec.Struct, frozen=True):
    """Why an install is not taken again: an error's code and text."""

    code: str
    why: str


class State(msgspec.Struct, frozen=True):
    """All of it.

    Attributes:
        seq: grows with every save.
        active, previous: digests; "" where there is none.
        beside: narrower slices of the active release that have proved themselves, widest first.
        tests: self-tests that were begun and did not pass, by digest.
        bad: installs that are not taken again, newest last.
        floor: lowest metadata versions that are still accepted.
    """

    seq: int = 0
    active: str = ""
    previous: str = ""
    beside: tuple[str, ...] = ()
    trial: Trial | None = None
    tests: dict[str, int] = {}
    bad: dict[str, Verdict] = {}
    floor: Floor = Floor()

    def keeps(self) -> set[str]:
        """Digests whose files must stay."""
        on_trial = self.trial.digest if self.trial else ""
        return {self.active, self.previous, on_trial, *self.beside} - {""}


def check_not_bad(state: State, digest: str) -> None:
    """Refuse what has failed here before.

    Raises:
        SelfTestFailedError: its self-test failed.
        UnfitReleaseError: it failed for another reason.
    """
    verdict = state.bad.get(digest)
    if verdict is None:
        return
    kind = SelfTestFailedError if verdict.code == SelfTestFailedError.code else UnfitReleaseError
    raise kind(f"this slice has failed on this device before and is not tried again: {verdict.why}")


def begin_test(state: State, digest: str) -> State:
    """Count a self-test before it runs: one that takes the machine down must not run for ever."""
    begun = {**state.tests, digest: state.tests.get(digest, 0) + 1}
    return msgspec.structs.replace(state, tests=begun)


def begin_trial(state: State, digest: str, attempts: int) -> State:
    """Put an install on trial; its first attempt is spent, since it is loaded next."""
    return msgspec.structs.replace(
        state, trial=Trial(digest, attempts - 1), tests=_without(state.tests, digest)
    )


def spend_attempt(state: State) -> State:
    """Pay for loading the install on trial, or condemn it when nothing is left."""
    trial = state.trial
    if trial is None:
        return state
    if trial.left <= 0:
        why = "the agent or the machine went down at each attempt to run it"
        return condemn(state, trial.digest, Verdict(UnfitReleaseError.code, why))
    return msgspec.structs.replace(state, trial=Trial(trial.digest, trial.left - 1))


def end_trial(state: State) -> State:
    """Forget a trial without a verdict, as when its files were damaged on this disk."""
    return msgspec.structs.replace(state, trial=None)


def commit(state: State) -> State:
    """Make the install on trial the active one."""
    trial = state.trial
    if trial is None:
        return state
    again = state.active == trial.digest
    return msgspec.structs.replace(
        state,
        active=trial.digest,
        previous=state.previous if again else state.active,
        beside=state.beside if again else (),
        trial=None,
    )


def accompany(state: State, digests: tuple[str, ...]) -> State:
    """Have narrower slices, which have proved themselves, beside the active one."""
    tests = {name: count for name, count in state.tests.items() if name not in digests}
    return msgspec.structs.replace(state, beside=digests, tests=tests)


def condemn(state: State, digest: str, verdict: Verdict) -> State:
    """Never take an install again; if it was active, the previous one is."""
    bad = {**_without(state.bad, digest), digest: verdict}
    kept = dict(list(bad.items())[-MAX_VERDICTS:])
    was_active = state.active == digest
    trial = state.trial if state.trial and state.trial.digest != digest else None
    return msgspec.structs.replace(
        state,
        active=state.previous if was_active else state.active,
        previous="" if digest in {state.active, state.previous} else state.previous,
        beside=() if was_active else tuple(one for one in state.beside if one != digest),
        trial=trial,
        tests=_without(state.tests, digest),
        bad=kept,
    )


def raise_floor(state: State, floor: Floor) -> State:
    """Remember the metadata versions that were seen."""
    return msgspec.structs.replace(state, floor=floor)


def _without(entries: dict[str, T], key: str) -> dict[str, T]:
    return {name: value for name, value in entries.items() if name != key}
