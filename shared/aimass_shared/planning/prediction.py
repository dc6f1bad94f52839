"""When each candidate would be done, and how likely that is in time. All candidates at once.

The edge is one server and the uplink one queue, both first come, first served; the cloud works on
several requests at once, and packing what goes up whole does not wait for the edge's queue. So a
candidate's time is that of its parts behind what is ahead of each (an additive model: beside real
sockets it left about 2 % unexplained, docs/benchmarks.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aimass_shared.planning.profiles import Backlog, Link, Profile

Floats = NDArray[np.float64]

PACKET_BYTES = 1400
DRIFT_PER_S = 0.05
"""Variance that the logarithm of a bandwidth gains in a second in which nobody looks."""
JITTER = 0.1
"""Standard deviation of a round trip, as a share of it."""
LEAST_SPREAD = 0.02
UNKNOWN = 0.06
"""Standard deviation of what the model leaves out, as a share of the time until the answer."""
LEAST_MBIT_S = 1e-6
NEVER_MS = 1e9
"""What takes for ever; finite, so that it can be multiplied by 0."""


@dataclass(frozen=True, eq=False)
class Costs:
    """Profiles as columns `[candidates]`, in their order; times in ms, sizes in bytes.

    Attributes:
        queues: whether a candidate waits for the edge. goes_up: whether anything goes up.
    """

    edge_ms: Floats
    edge_spread: Floats
    bytes_up: Floats
    cloud_ms: Floats
    cloud_spread: Floats
    quality: Floats
    queues: NDArray[np.bool_]
    goes_up: NDArray[np.bool_]

    @classmethod
    def of(cls, profiles: Sequence[Profile]) -> "Costs":
        """The columns of some profiles."""
        return cls(
            edge_ms=np.array([one.edge_ms for one in profiles]),
            edge_spread=np.array([max(one.edge_spread, LEAST_SPREAD) for one in profiles]),
            bytes_up=np.array([float(one.bytes_up) for one in profiles]),
            cloud_ms=np.array([one.cloud_ms for one in profiles]),
            cloud_spread=np.array([max(one.cloud_spread, LEAST_SPREAD) for one in profiles]),
            quality=np.array([one.quality for one in profiles]),
            queues=np.array([one.candidate.place != "cloud" for one in profiles]),
            goes_up=np.array([one.candidate.place != "edge" for one in profiles]),
        )


@dataclass(frozen=True)
class Predicted:
    """What is expected of one candidate; see `Prediction`."""

    edge_ms: float
    uplink_ms: float
    total_ms: float
    spread_ms: float
    on_time: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is expected of each candidate `[candidates]`, in ms.

    Attributes:
        edge_ms: its own time here. uplink_ms: its own time on the uplink.
        total_ms: from now to its answer. spread_ms: standard deviation of that.
        on_time: probability that the answer is there by the deadline.
    """

    edge_ms: Floats
    uplink_ms: Floats
    total_ms: Floats
    spread_ms: Floats
    on_time: Floats

    def row(self, row: int) -> "Predicted":
        """What is expected of one candidate."""
        return Predicted(
            edge_ms=float(self.edge_ms[row]),
            uplink_ms=float(self.uplink_ms[row]),
            total_ms=float(self.total_ms[row]),
            spread_ms=float(self.spread_ms[row]),
            on_time=float(self.on_time[row]),
        )


def predict(
    costs: Costs, slowdown: Floats | float, *, link: Link, backlog: Backlog, remaining_ms: float
) -> Prediction:
    """What is expected of each candidate.

    Args:
        costs: of the candidates.
        slowdown: how many times longer than in its profile each takes here.
        link: the uplink as last seen.
        backlog: what is ahead.
        remaining_ms: time until the deadline.
    """
    edge_ms = costs.edge_ms * slowdown
    up_ms = uplink_ms(costs, link)
    ready_ms = edge_ms + costs.queues * backlog.edge_ms
    queued_ms = np.maximum(0.0, backlog.uplink_ms - ready_ms)
    away_ms = queued_ms + up_ms + _round_trip_ms(costs.bytes_up, link) + costs.cloud_ms
    total_ms = np.where(costs.goes_up, ready_ms + away_ms, ready_ms)
    variance = (edge_ms * costs.edge_spread) ** 2 + edge_ms * backlog.edge_ms * (
        costs.edge_spread**2 * costs.queues
    )
    variance = variance + costs.goes_up * _away_variance(costs, link, queued_ms + up_ms)
    spread_ms = np.sqrt(variance) + UNKNOWN * total_ms
    on_time = _below((remaining_ms - total_ms) / np.where(spread_ms > 0, spread_ms, 1.0))
    exposed_s = link.age_s + away_ms / 1e3
    holds = np.where(costs.goes_up, np.exp(-link.hazard_per_s * exposed_s), 1.0)
    return Prediction(edge_ms, up_ms, total_ms, spread_ms, on_time * holds)


def uplink_ms(costs: Costs, link: Link) -> Floats:
    """Time of each on the uplink, lost packets sent again; `NEVER_MS` where there is no link."""
    if link.bandwidth_mbit_s < LEAST_MBIT_S:
        return np.where(costs.goes_up, NEVER_MS, 0.0)
    ms = costs.bytes_up * (8e-3 / (link.bandwidth_mbit_s * (1.0 - link.loss)))
    return np.minimum(ms, NEVER_MS)


def _round_trip_ms(sent_bytes: Floats, link: Link) -> Floats | float:
    """A round trip, and one more where a packet is lost."""
    if link.loss <= 0:
        return link.rtt_ms
    some_lost = 1.0 - (1.0 - link.loss) ** np.ceil(sent_bytes / PACKET_BYTES)
    return np.asarray(link.rtt_ms * (1.0 + some_lost))


def _away_variance(costs: Costs, link: Link, on_link_ms: Floats) -> Floats:
    """Of what happens on the link and in the cloud, in ms squared."""
    bandwidth = link.spread**2 + DRIFT_PER_S * link.age_s
    return (
        on_link_ms**2 * bandwidth
        + (costs.cloud_ms * costs.cloud_spread) ** 2
        + (JITTER * link.rtt_ms) ** 2
    )


def _below(z: Floats) -> Floats:
    """Normal distribution function, within 0.0005 (Hendrycks and Gimpel, 2016)."""
    z = np.clip(z, -6.0, 6.0)
    return 0.5 * (1.0 + np.tanh(0.7978845608 * (z + 0.044715 * z**3)))
