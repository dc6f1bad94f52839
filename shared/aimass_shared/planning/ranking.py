"""Which candidate is best for a device, a link and a demand, and in words why, for each of them.

The measure is expected goodput: accuracy times the probability that an answer is there by its
deadline, at the rate that is asked for. Latency alone is not it: the fastest plan may be the least
accurate, and the most accurate one may leave no room for the next request.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from aimass_shared.planning.prediction import (
    NEVER_MS,
    Costs,
    Floats,
    Predicted,
    Prediction,
    predict,
)
from aimass_shared.planning.profiles import Backlog, Candidate, Demand, Device, Link, Profile
from aimass_shared.planning.table import beaten_by, lacks

TINY = 1e-6
TIE = 1e-3
"""Goodputs are compared in steps of this; within a step, the cheaper one comes first."""


class Ranked(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate's place in the ranking.

    Attributes:
        possible: whether device and accuracy budget allow for it at all.
        goodput: expected accuracy in time per request, the whole model's being 1.
        on_time: probability that a request of its own, behind the backlog, is in time.
        carried: share of the requests that edge, uplink and cloud can take on at this rate.
        total_ms: expected time of one request. spread_ms: its standard deviation.
        edge_ms, uplink_ms, cloud_ms: its own parts of that.
        edge_busy, uplink_busy: share of the time that each would work; over 1 is overload.
        why: what makes it win, or what it lacks, in words.
    """

    candidate: Candidate
    possible: bool
    goodput: float
    on_time: float
    carried: float
    loss: float
    total_ms: float
    spread_ms: float
    edge_ms: float
    uplink_ms: float
    cloud_ms: float
    edge_busy: float
    uplink_busy: float
    bytes_up: int
    memory_mib: float
    why: str = ""


def rank(
    profiles: Sequence[Profile],
    demand: Demand,
    *,
    device: Device,
    link: Link,
    backlog: Backlog | None = None,
) -> tuple[Ranked, ...]:
    """All candidates, best first, each with its reason.

    Candidates that the device or the accuracy budget rule out come last. Expected goodput decides;
    where that is the same to a step of `TIE`, the one that keeps edge and uplink less busy comes
    first.

    Args:
        profiles: what was measured.
        demand: deadline, accuracy budget, rate.
        device: where the edge part runs.
        link: the way to the cloud.
        backlog: what is ahead of the request; nothing by default.
    """
    costs = Costs.of(profiles)
    found = predict(
        costs,
        device.slowdown,
        link=link,
        backlog=backlog or Backlog(),
        remaining_ms=demand.deadline_ms,
    )
    carried = share_carried(costs, found, demand)
    busy = demand.rate_per_s / 1e3
    pairs = [
        (
            profile,
            _entry(
                profile,
                found.row(row),
                busy=busy,
                carried=float(carried[row]),
                why=_excluded(profile, demand, device),
            ),
        )
        for row, profile in enumerate(profiles)
    ]
    pairs.sort(key=lambda pair: _order(pair[1]))
    return _with_reasons(pairs, demand)


def share_carried(costs: Costs, found: Prediction, demand: Demand) -> Floats:
    """Share of the requests that are taken on where those that would be late are turned away.

    Edge and uplink are queues with room for as many requests as can be done by the deadline: the
    blocking probability of M/M/1/K, its room doubled for service times that hardly vary (heavy
    traffic approximation of M/G/1/K). The cloud takes what its parallel work allows.
    """
    slack_ms = np.maximum(0.0, demand.deadline_ms - found.total_ms)
    rate_ms = demand.rate_per_s / 1e3
    here = _accepted(rate_ms * found.edge_ms, slack_ms, found.edge_ms)
    up = _accepted(rate_ms * found.uplink_ms, slack_ms, found.uplink_ms)
    wanted = np.maximum(rate_ms * costs.cloud_ms / demand.cloud_parallel, 1.0)
    return np.where(costs.queues, here, 1.0) * np.where(costs.goes_up, up / wanted, 1.0)


def _accepted(busy: Floats, slack_ms: Floats, service_ms: Floats) -> Floats:
    """Share that is not blocked, from the load, and the room that is left until the deadline."""
    room = np.minimum(2.0 * (1.0 + slack_ms / np.maximum(service_ms, TINY)), 1e4)
    load = np.where(np.abs(busy - 1.0) < TINY, 1.0 + TINY, np.minimum(busy, NEVER_MS))
    low = np.minimum(load, 1.0 - TINY)
    under = (1.0 - low) * low**room / (1.0 - low ** (room + 1.0))
    high = 1.0 / np.maximum(load, 1.0 + TINY)
    over = (1.0 - high) / (1.0 - high ** (room + 1.0))  # the same, without overflow
    blocked = np.where(load < 1.0, under, over)
    return np.asarray(1.0 - np.clip(blocked, 0.0, 1.0))


def _entry(profile: Profile, found: Predicted, *, busy: float, carried: float, why: str) -> Ranked:
    """One entry; `busy` are requests a millisecond, `why` is what rules the candidate out."""
    return Ranked(
        candidate=profile.candidate,
        possible=not why,
        goodput=0.0 if why else profile.quality * found.on_time * carried,
        on_time=found.on_time,
        carried=carried,
        loss=profile.loss,
        total_ms=found.total_ms,
        spread_ms=found.spread_ms,
        edge_ms=found.edge_ms,
        uplink_ms=found.uplink_ms,
        cloud_ms=profile.cloud_ms,
        edge_busy=busy * found.edge_ms,
        uplink_busy=busy * found.uplink_ms,
        bytes_up=profile.bytes_up,
        memory_mib=profile.memory_mib,
        why=why,
    )


def _order(one: Ranked) -> tuple[bool, float, float, float, Candidate]:
    steps = round(one.goodput / TIE)
    busy = max(one.edge_busy, one.uplink_busy)
    return (not one.possible, -steps, busy, one.total_ms, one.candidate)


def _excluded(profile: Profile, demand: Demand, device: Device) -> str:
    """What rules a candidate out, or nothing."""
    lack = lacks(profile, device)
    if lack:
        return lack
    if profile.loss > demand.max_loss:
        return f"loses {_percent(profile.loss)} of accuracy, the budget is {demand.max_loss:.1%}"
    return ""


def _with_reasons(pairs: Sequence[tuple[Profile, Ranked]], demand: Demand) -> tuple[Ranked, ...]:
    """Those in their order, best first; the possible ones get their reasons."""
    possible = [(profile, one) for profile, one in pairs if one.possible]
    if not possible:
        return tuple(one for _, one in pairs)
    best, rivals = possible[0][1], [profile for profile, _ in possible]
    fastest_ms = min(one.total_ms for _, one in possible)

    def why(profile: Profile, one: Ranked) -> str:
        if one is best:
            return _wins(one, demand, fastest_ms)
        lacking = _no_link(one) or _late(one, demand) or _overloaded(one, demand)
        return lacking or _beaten(profile, rivals) or _behind(one, best)

    said = [msgspec.structs.replace(one, why=why(profile, one)) for profile, one in possible]
    return (*said, *(one for _, one in pairs[len(said) :]))


def _beaten(profile: Profile, possible: Sequence[Profile]) -> str:
    better = beaten_by(profile, possible)
    return f"beaten in everything by {better.candidate.name}" if better else ""


def _wins(one: Ranked, demand: Demand, fastest_ms: float) -> str:
    if one.goodput < TIE:
        return f"nothing is in time: the fastest takes {_ms(fastest_ms)}; shed, or answer stale"
    return (
        f"wins: done in {_ms(one.total_ms)} of {demand.deadline_ms:.0f} ms,"
        f" {_percent(one.on_time * one.carried)} in time, loses {_percent(one.loss)} of accuracy"
    )


def _no_link(one: Ranked) -> str:
    return "there is no link" if one.uplink_ms >= NEVER_MS else ""


def _late(one: Ranked, demand: Demand) -> str:
    if one.on_time >= 0.9:  # noqa: PLR2004  late for one in ten is worth a word
        return ""
    parts = {"edge": one.edge_ms}
    if one.candidate.place != "edge":
        parts |= {"uplink": one.uplink_ms, "cloud": one.cloud_ms}
    parts["waiting"] = one.total_ms - sum(parts.values())  # for round trips and what is ahead
    most = max(parts, key=lambda name: parts[name])
    late = "late" if one.total_ms > demand.deadline_ms else "often late"
    return (
        f"{late}: {_ms(one.total_ms)} of {demand.deadline_ms:.0f} ms, most of it {most}"
        f" ({_ms(parts[most])}); {_percent(one.on_time)} in time"
    )


def _overloaded(one: Ranked, demand: Demand) -> str:
    if one.carried >= 0.98:  # noqa: PLR2004  two in a hundred turned away are worth a word
        return ""
    cloud_busy = demand.rate_per_s / 1e3 * one.cloud_ms / demand.cloud_parallel
    loads = {"edge": one.edge_busy, "uplink": one.uplink_busy, "cloud": cloud_busy}
    where, busy = max(loads.items(), key=lambda load: load[1])
    return (
        f"{where} is {busy:.0%} busy at {demand.rate_per_s:g} requests/s:"
        f" takes on {_percent(one.carried)}"
    )


def _behind(one: Ranked, best: Ranked) -> str:
    if best.goodput - one.goodput < 2 * TIE:
        return f"as good, but keeps {_busier(one, best)}"
    ours, theirs = one.on_time * one.carried, best.on_time * best.carried
    if theirs - ours > one.loss - best.loss:
        return f"{_percent(ours)} in time, the best {_percent(theirs)}"
    return f"loses {_percent(one.loss)} of accuracy, the best {_percent(best.loss)}"


def _busier(one: Ranked, best: Ranked) -> str:
    if one.uplink_busy > best.uplink_busy:
        return f"the uplink busier ({one.bytes_up} bytes a request)"
    if one.edge_busy > best.edge_busy:
        return f"the edge busier ({_ms(one.edge_ms)} a request)"
    return f"the caller waiting ({_ms(one.total_ms)})"


def _ms(ms: float) -> str:
    return "no time ever" if ms >= NEVER_MS else f"{ms:.3g} ms"


def _percent(share: float) -> str:
    return f"{share:.1%}"
