"""An upper bound on the goodput of any policy, clairvoyant ones included.

A linear program over shares `x[i, c]` of request `i` that plan `c` answers in time:

    maximise    sum of quality[c] * x[i, c] over all i and c, divided by the number of requests
    subject to  sum over c of x[i, c] <= 1 for each i,
                work that must be done within [s, t] <= what edge or uplink can do in [s, t].

Why it dominates: take any schedule, of a policy that knows the future or not. Set x[i, c] = 1 where
request i was answered in time by plan c and 0 elsewhere. Its goodput is the objective. A request is
answered once, so the first constraint holds. If it was answered in time by c, then its edge part
ran wholly within W = [arrival, deadline - the rest of c at its fastest], and its bytes went up
wholly within V = [arrival + its edge part, deadline - round trip - cloud part]: parts follow each
other, and each takes at least its own true time. So for every interval [s, t] the edge worked in
[s, t] at least the sum of the edge parts of those with W inside [s, t]; it does one thing at a
time, hence that sum is at most t - s. Likewise the bytes of those with V inside [s, t] are at most
what the uplink could carry from s to t. So the schedule is a point of the program, and its maximum
is no less. Plans with an empty window cannot be in time and are left out; a plan of which another
one of the same request has the same place and is nowhere worse can be exchanged for it. Only some
intervals are written down: fewer constraints leave a larger maximum. Limits of the cloud, probes
and work thrown away are left out too, which can only favour the bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog  # type: ignore[import-untyped]
from scipy.sparse import coo_array, vstack  # type: ignore[import-untyped]

from aimass_shared.errors import AimassError
from benchmarks.slices.world import Floats, World

LENGTHS = (0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 65.0)
"""Of the intervals, in deadlines; the whole run comes on top."""
STARTS = 8
"""Intervals of a length overlap: each starts an eighth of it after the one before."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Options:
    """What could be in time, one entry for a request and a plan: columns of the program.

    Attributes:
        request: which. quality: what it is worth.
        edge_ms: work of the edge, to be done within `edge_from` and `edge_to` (s).
        up_bytes: to be sent within `up_from` and `up_to` (s).
    """

    request: Ints
    quality: Floats
    edge_ms: Floats
    edge_from: Floats
    edge_to: Floats
    up_bytes: Floats
    up_from: Floats
    up_to: Floats


def bound(world: World) -> float:
    """The largest goodput that any policy can have in a world.

    Raises:
        AimassError: the solver found none.
    """
    columns = options(world)
    if not len(columns.request):
        return 0.0
    once = coo_array(
        (np.ones(len(columns.request)), (columns.request, np.arange(len(columns.request))))
    )
    blocks, limits = [once], [np.ones(once.shape[0])]
    for matrix, limit in _resources(world, columns):
        blocks.append(matrix)
        limits.append(limit)
    solved = linprog(
        -columns.quality,
        A_ub=vstack(blocks).tocsr(),
        b_ub=np.concatenate(limits),
        bounds=(0, 1),
        method="highs",
    )
    if solved.status != 0:
        raise AimassError(f"the bound was not found: {solved.message}")
    return float(-solved.fun / len(world.arrivals_s))


def options(world: World) -> Options:
    """All plans of all requests that could be in time if nothing else were there."""
    costs = world.costs
    shape = world.edge_ms.shape
    arrival = np.broadcast_to(world.arrivals_s[:, None], shape)
    deadline = arrival + world.deadline_ms / 1e3
    up_from = arrival + world.edge_ms / 1e3
    away = costs.goes_up[None, :]
    up_to = deadline - np.where(away, world.rtt_ms + world.cloud_ms, 0.0) / 1e3
    sent = np.broadcast_to(costs.bytes_up[None, :], shape)
    done = world.uplink.done_at(up_from.ravel(), sent.ravel()).reshape(shape)
    possible = np.where(away, done, up_from) <= up_to
    possible &= ~_exchanged(world, possible)
    request, row = np.nonzero(possible)
    queues = costs.queues[row]
    return Options(
        request=request,
        quality=costs.quality[row],
        edge_ms=world.edge_ms[possible] * queues,
        edge_from=arrival[possible],
        edge_to=up_to[possible],
        up_bytes=sent[possible],
        up_from=up_from[possible],
        up_to=up_to[possible],
    )


def _exchanged(world: World, possible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Plans that another possible one of the same place can stand in for."""
    costs = world.costs
    out = np.zeros_like(possible)
    places = [one.candidate.place for one in world.profiles]
    for mine in range(len(places)):
        for other in range(len(places)):
            if mine == other or places[mine] != places[other]:
                continue
            nowhere_worse = (
                (costs.quality[other] >= costs.quality[mine])
                & (costs.bytes_up[other] <= costs.bytes_up[mine])
                & (world.edge_ms[:, other] <= world.edge_ms[:, mine])
                & (world.cloud_ms[:, other] <= world.cloud_ms[:, mine])
            )
            out[:, mine] |= nowhere_worse & possible[:, other] & ~out[:, other]
    return out


def _resources(world: World, columns: Options) -> Iterator[tuple[coo_array, Floats]]:
    """Constraints of edge and uplink over the intervals of each length."""
    end = float(world.arrivals_s[-1]) + world.deadline_ms / 1e3
    for length in (*(deadlines * world.deadline_ms / 1e3 for deadlines in LENGTHS), end):
        starts = np.arange(0.0, max(end - length, 0.0) + length / STARTS, length / STARTS)
        inside = _Inside(starts, length)
        yield (
            inside.matrix(columns.edge_ms / 1e3, columns.edge_from, columns.edge_to),
            np.full(len(starts), length),
        )
        carried = world.uplink.carried(starts + length) - world.uplink.carried(starts)
        # In kB, so that all constraints are of one size.
        yield inside.matrix(columns.up_bytes / 1e3, columns.up_from, columns.up_to), carried / 1e3


@dataclass(frozen=True, eq=False)
class _Inside:
    """Intervals of one length, by their evenly spaced starts (s)."""

    starts: Floats
    length: float

    def matrix(self, work: Floats, since: Floats, until: Floats) -> coo_array:
        """`[intervals, options]`: the work of those whose window lies inside an interval."""
        last = np.searchsorted(self.starts, since, side="right") - 1
        first = np.searchsorted(self.starts, until - self.length, side="left")
        counts = np.where(work > 0, np.maximum(last - first + 1, 0), 0)
        column = np.repeat(np.arange(len(work)), counts)
        offset = np.arange(len(column)) - np.repeat(np.cumsum(counts) - counts, counts)
        interval = first[column] + offset
        shape = (len(self.starts), len(work))
        return coo_array((work[column], (interval, column)), shape=shape)
