"""When a candidate is due, what an update that comes late still weighs, and what is refused.

Pure functions of a policy; asynchronous updates as in Xie et al., Asynchronous Federated
Optimization (2019): the weight of an update falls with the versions that it is behind.
"""

from typing import Annotated, Literal

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

Reason = Literal["schedule", "drift"]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a learner goes on.

    Attributes:
        publish_every_s: a candidate is due when so much time has passed since the last one.
        drift: or when the error on the newest shard is this many times what it was at first.
        least_gain: share by which a candidate must lower the held-back error to be published.
        max_staleness: an update of sites that is more published versions behind is refused.
        mixing: share of an update that is taken when it is not behind at all.
        newest: share of each batch that comes from the newest shard, the rest from all others.
        held_back: share of each shard, its end, that is not learnt from but judged on.
        max_rows: of all shards in memory; the oldest are forgotten first.
        steps: of the optimizer between two looks into the inbox.
        rate: of learning. batch: windows in a step.
        abnormal: share of windows over the model's own alarm limit from which on a shard is set
            aside for a person to look at; such windows of other shards are not learnt from.
    """

    publish_every_s: Positive = 3600.0
    drift: Positive = 1.25
    least_gain: Share = 0.002
    max_staleness: Annotated[int, msgspec.Meta(ge=0)] = 4
    mixing: Share = 0.6
    newest: Share = 0.5
    held_back: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    max_rows: Count = 200_000
    steps: Count = 50
    rate: Positive = 1e-3
    batch: Count = 32
    abnormal: Share = 0.5


def share_of(policy: Policy, staleness: int) -> float:
    """How much of an update is taken: less, the more versions it is behind; 0 is refused."""
    if staleness > policy.max_staleness:
        return 0.0
    return float(policy.mixing / (1 + staleness) ** 0.5)


def due(policy: Policy, *, seconds: float, drift: float, has_learnt: bool) -> Reason | None:
    """Why a candidate is due, if one is.

    Args:
        policy: of the learner.
        seconds: since the last candidate.
        drift: error on the newest shard as a multiple of what it was at first.
        has_learnt: whether anything came in since the last candidate.
    """
    if not has_learnt:
        return None
    if drift >= policy.drift:
        return "drift"
    return "schedule" if seconds >= policy.publish_every_s else None


def is_better(policy: Policy, *, candidate: float, published: float) -> bool:
    """Whether a candidate's held-back error is low enough to replace what is published."""
    return candidate <= published * (1 - policy.least_gain)
