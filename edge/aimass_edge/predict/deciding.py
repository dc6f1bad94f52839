"""Where a request goes: here, to a narrower slice here, to the cloud, or nowhere. Pure.

What is asked of whom first is a policy of the site; what is common to all: nothing is begun that is
expected to be late, because a late answer costs the same work and delays all that come after it
(that is how a queue collapses), and a hand-off leaves the time that an answer from here needs, so
that a cloud which refuses, hangs or drips costs no answer.
"""

from typing import Literal

import msgspec

from aimass_edge.config import Policy

Place = Literal["local", "cloud", "refuse"]
Choice = Literal["fits", "narrower", "hand-off", "unhedged"]
Refusal = Literal["queue-full", "would-be-late", "budget-too-short", "cloud-too-slow"]
NONE = -1


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision looks at.

    Attributes:
        remaining_ms: time until the request's deadline.
        queued: requests that wait. backlog_ms: predicted time of all that is ahead.
        services_ms: predicted time of the request's own run by each slice, widest first.
        cloud_ready: hand-off is set up, allowed for this request, and its breaker lets it through.
        cloud_ms: expected round trip of a hand-off.
    """

    remaining_ms: float
    queued: int
    backlog_ms: float
    services_ms: tuple[float, ...]
    cloud_ready: bool = False
    cloud_ms: float = 0.0


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a decision; see `CapacitySettings` and `HandoffSettings` of the configuration.

    Attributes:
        safety: factor on predictions of local work.
        min_budget_ms: time below which a hand-off is not tried.
        reserve_ms: time that a hand-off leaves beyond what an answer from here needs: whoever waits
            for a cloud that says nothing wakes up a little late on a busy device.
    """

    policy: Policy
    queue_limit: int
    safety: float
    min_budget_ms: float
    reserve_ms: float = 0.0


class Decision(msgspec.Struct, frozen=True):
    """Where a request goes and why.

    Attributes:
        rung: the slice that answers here, 0 the widest; of a hand-off, the one that answers if the
            cloud has not by then; -1 for none.
        predicted_ms: when the widest slice would be done here.
        budget_ms: time that the cloud gets; 0 where it is not asked.
    """

    place: Place
    reason: Choice | Refusal
    rung: int
    predicted_ms: float
    budget_ms: float = 0.0


def decide(load: Load, rules: Rules) -> Decision:
    """Choose between the slices here, the cloud, and an honest no."""
    needs = [(load.backlog_ms + service) * rules.safety for service in load.services_ms]
    full = load.queued >= rules.queue_limit
    here = NONE if full else _widest(needs, load.remaining_ms)
    may_ask = load.cloud_ready and rules.policy != "never-leave-site"
    local = _local(here, needs[0])
    if local is not None and (not may_ask or (here == 0 and rules.policy != "cloud-first")):
        return local
    if may_ask and load.remaining_ms >= rules.min_budget_ms:
        asked = _asked(load, rules, [] if full else needs)
        if asked is not None and not (local and asked.rung == NONE):
            return msgspec.structs.replace(asked, predicted_ms=needs[0])
    return local or Decision("refuse", _why_not(load, rules, full=full), NONE, needs[0])


def _local(rung: int, predicted_ms: float) -> Decision | None:
    if rung == NONE:
        return None
    return Decision("local", "narrower" if rung else "fits", rung, predicted_ms)


def _asked(load: Load, rules: Rules, needs: list[float]) -> Decision | None:
    """A hand-off that leaves time for as wide a slice as it can, or, if need be, for none."""
    least = max(load.cloud_ms, rules.min_budget_ms)
    spare_ms = load.remaining_ms - rules.reserve_ms
    hedge = _widest(needs, spare_ms - least)
    if hedge != NONE:
        return Decision("cloud", "hand-off", hedge, 0.0, spare_ms - needs[hedge])
    if load.cloud_ms <= load.remaining_ms:
        return Decision("cloud", "unhedged", NONE, 0.0, load.remaining_ms)
    return None


def _widest(needs: list[float], within_ms: float) -> int:
    """The first slice that is done in time; -1 for none."""
    return next((rung for rung, need in enumerate(needs) if need <= within_ms), NONE)


def _why_not(load: Load, rules: Rules, *, full: bool) -> Refusal:
    if not load.cloud_ready or rules.policy == "never-leave-site":
        return "queue-full" if full else "would-be-late"
    return "budget-too-short" if load.remaining_ms < rules.min_budget_ms else "cloud-too-slow"
