"""What a millisecond of edge or uplink is worth to the requests that come after.

Between two arrivals there is so much time of each resource, a little more while its queue is short
and a little less while it is long. Sharing it out among the plans of many requests is a linear
program; its dual has two variables, the prices, and is convex:

    minimise over a, b >= 0:  max(0, max over c of worth[c] - a edge[c] - b uplink[c]) + a A + b B

It is solved on a grid of powers and then on a finer one around the best point: some tens of
microseconds, no iteration that may not end. Without load both prices are 0.
"""

import math
from typing import NamedTuple

import numpy as np

from aimass_shared.planning.prediction import Floats

HORIZON = 4.0
"""Deadlines that are looked ahead."""
LEFT = 0.5
"""Backlog that may be left at the end of the horizon, in deadlines."""
LEAST_SHARE = 0.05
LEAN = 1.0
"""How far a queue moves its price around the program's, which is the same for many loads."""
MOST_MS = 1e6
COARSE = np.concatenate(([0.0], np.geomspace(1e-6, 1.0, 15)))
"""Goodput for a millisecond."""
FINE = np.geomspace(1 / 2.5, 2.5, 7)


class Prices(NamedTuple):
    """Expected goodput that a millisecond of each costs others."""

    edge: float
    uplink: float


FREE = Prices(0.0, 0.0)


def given_ms(gap_ms: float, backlog_ms: float, *, deadline_ms: float, busy: float) -> float:
    """Time of a resource for each request: over the horizon, its queue taken off.

    Args:
        gap_ms: between two arrivals.
        backlog_ms: time until the resource is free.
        deadline_ms: of a request.
        busy: share of its time that is aimed at.
    """
    horizon_ms = HORIZON * deadline_ms
    share = busy + (LEFT * deadline_ms - backlog_ms) / horizon_ms
    return gap_ms * max(LEAST_SHARE, share)


def leant(price: float, backlog_ms: float, deadline_ms: float) -> float:
    """A price, higher the longer its queue is, so that plans of about that price are mixed."""
    return price * math.exp(LEAN * (min(backlog_ms / deadline_ms, 1.0) - LEFT))


def cost(price: float, backlog_ms: float, takes_ms: Floats, *, deadline_ms: float) -> Floats:
    """What the time of a resource costs others: its leant price, over all of that time.

    A request makes the queue longer by what it takes, and the price with it. So a long one on a
    free resource costs more than its time at the price of now: those that come meanwhile wait.

    Args:
        price: of the program.
        backlog_ms: time until the resource is free.
        takes_ms: `[candidates]`, of it.
        deadline_ms: of a request.
    """
    return price * (
        _area(backlog_ms + takes_ms, deadline_ms) - _area(np.asarray(backlog_ms), deadline_ms)
    )


def _area(until_ms: Floats, deadline_ms: float) -> Floats:
    """Integral of `leant(1, ...)` over a queue, but for a constant."""
    within = np.minimum(until_ms, deadline_ms)
    grown = np.exp(LEAN * (within / deadline_ms - LEFT)) * (deadline_ms / LEAN)
    over: Floats = grown + (until_ms - within) * math.exp(LEAN * (1.0 - LEFT))
    return over


def prices(worth: Floats, takes_ms: Floats, given: Floats) -> Prices:
    """Prices at which requests together take what is given.

    Args:
        worth: `[candidates]`, expected goodput of each with nothing ahead of it.
        takes_ms: `[2, candidates]`, what each takes of edge and uplink.
        given: `[2]`, ms of each for a request.
    """
    takes = np.minimum(takes_ms, MOST_MS)
    if (takes[:, int(worth.argmax())] <= given).all():
        return FREE
    coarse = _least(worth, takes, given=given, grid=(COARSE, COARSE))
    return Prices(*_least(worth, takes, given=given, grid=(coarse[0] * FINE, coarse[1] * FINE)))


def _least(
    worth: Floats, takes: Floats, *, given: Floats, grid: tuple[Floats, Floats]
) -> tuple[float, float]:
    """The point of a grid at which the dual is least."""
    edge, uplink = grid
    paid = (worth - edge[:, None] * takes[0])[:, None, :] - (uplink[:, None] * takes[1])[None]
    dual = np.maximum(paid.max(axis=2), 0.0)
    dual += (edge * given[0])[:, None] + uplink * given[1]
    row, column = divmod(int(dual.argmin()), len(uplink))
    return float(edge[row]), float(uplink[column])
