"""What a policy is let loose on: arrivals, an uplink that comes and goes, and true service times.

Everything is drawn beforehand from one seed, so that all policies and the bound meet the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aimass_shared.planning import Profile
from aimass_shared.planning.prediction import Costs

Floats = NDArray[np.float64]

STATES_MBIT_S: Final = (0.0, 0.5, 4.0, 20.0, 60.0)
"""Of the uplink: 0 is a dead spell."""
DWELL_S: Final = 4.0
SLOWDOWN: Final = 10.0
UNEVEN: Final = 0.1
"""How unevenly the device is slower: deviation of the logarithm between candidates."""


@dataclass(frozen=True, eq=False)
class Uplink:
    """A bandwidth that changes in steps: `mbit_s[k]` from `since_s[k]` on."""

    since_s: Floats
    mbit_s: Floats

    def __post_init__(self) -> None:
        lengths = np.diff(self.since_s)
        sent = np.concatenate(([0.0], np.cumsum(lengths * self.mbit_s[:-1] * 1e6 / 8)))
        object.__setattr__(self, "_sent", sent)

    def carried(self, until_s: float | Floats) -> Floats:
        """Bytes that it can carry from 0 to some times."""
        sent: Floats = self._sent  # type: ignore[attr-defined]  # set once, see __post_init__
        k = np.searchsorted(self.since_s, until_s, side="right") - 1
        rest = (until_s - self.since_s[k]) * self.mbit_s[k] * 1e6 / 8
        return np.asarray(sent[k] + rest)

    def done_at(self, start_s: Floats | float, sent_bytes: Floats | float) -> Floats:
        """When some bytes are through that start at some time; `inf` for never."""
        sent: Floats = self._sent  # type: ignore[attr-defined]
        target = self.carried(np.asarray(start_s)) + sent_bytes
        k = np.searchsorted(sent, target, side="left") - 1
        k = np.maximum(k, 0)
        rate = self.mbit_s[k] * 1e6 / 8
        missing = target - sent[k]
        with np.errstate(divide="ignore", invalid="ignore"):
            at = self.since_s[k] + np.where(missing > 0, missing / rate, 0.0)
        done: Floats = np.maximum(np.asarray(start_s), np.where(np.isnan(at), np.inf, at))
        return done


@dataclass(frozen=True, eq=False)
class World:
    """One run.

    Attributes:
        profiles: candidates, as the policies know them.
        arrivals_s: of the requests. deadline_ms: of each, from its arrival.
        edge_ms, cloud_ms: `[requests, candidates]`, what each would really take.
        uplink: the link. rtt_ms: its round trip. cloud_parallel: requests that the cloud does at
            once. slowdown: of the device, in the mean.
    """

    profiles: tuple[Profile, ...]
    arrivals_s: Floats
    edge_ms: Floats
    cloud_ms: Floats
    uplink: Uplink
    deadline_ms: float = 150.0
    rtt_ms: float = 30.0
    cloud_parallel: int = 4
    slowdown: float = SLOWDOWN

    @property
    def costs(self) -> Costs:
        """The profiles as columns."""
        return Costs.of(self.profiles)


def drawn(profiles: Sequence[Profile], *, rate_per_s: float, seconds: float, seed: int) -> World:
    """A run: Poisson arrivals, a Markov uplink, log-normal service times."""
    random = np.random.default_rng((seed, round(rate_per_s * 1000)))
    count = int(random.poisson(rate_per_s * seconds))
    arrivals = np.sort(random.uniform(0.0, seconds, count))
    costs = Costs.of(profiles)
    uneven = np.exp(UNEVEN * random.standard_normal(len(profiles)))
    here, there = random.standard_normal((2, count, 1))
    return World(
        profiles=tuple(profiles),
        arrivals_s=arrivals,
        edge_ms=costs.edge_ms * SLOWDOWN * uneven * np.exp(costs.edge_spread * here),
        cloud_ms=costs.cloud_ms * np.exp(costs.cloud_spread * there),
        uplink=_markov(np.random.default_rng(seed), seconds),
    )


def _markov(random: np.random.Generator, seconds: float) -> Uplink:
    """States that last about `DWELL_S` each and are followed by any other one."""
    since, states = [0.0], [3]
    while since[-1] < seconds:
        since.append(since[-1] + random.exponential(DWELL_S))
        others = [state for state in range(len(STATES_MBIT_S)) if state != states[-1]]
        states.append(int(random.choice(others)))
    # After the end it carries whatever is left, so that everything comes to an end.
    return Uplink(
        np.array([*since, since[-1] + 1e6]),
        np.array([*(STATES_MBIT_S[state] for state in states), 1.0]),
    )
