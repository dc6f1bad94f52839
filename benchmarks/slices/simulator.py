"""Event-driven simulation of one device, one uplink and one cloud under a policy.

The edge runs one thing at a time, first come, first served; so does the uplink; the cloud runs
`cloud_parallel` requests at once. A policy sees what a device would see: its own queues, how long
its runs took, when bytes had left, and what came back. It never sees the world's arrays.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.slices.world import World

TICK_S = 0.05
PROBE = -2
SHED = -1


@dataclass(eq=False)
class Job:
    """A request on its way. `edge_ms` is what the policy expects of its edge part."""

    number: int
    row: int
    deadline_s: float
    edge_ms: float = 0.0
    sent_bytes: int = 0


class Queues(Protocol):
    """What a policy may ask about what is ahead."""

    def edge_backlog_ms(self, now: float) -> float:
        """By the policy's own expectations."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait for the uplink, behind what is being sent."""
        ...


@dataclass(frozen=True)
class Pick:
    """A row of the profiles, or `SHED`, and the edge time that is expected of it."""

    row: int
    edge_ms: float = 0.0


class Policy(Protocol):
    """What decides. `drops_late`: whether work that is already late is thrown away unstarted."""

    drops_late: bool

    def choose(self, remaining_ms: float, queues: Queues, now: float) -> Pick: ...
    def again(self, job: Job, remaining_ms: float, now: float) -> Pick: ...
    def ran(self, row: int, took_ms: float) -> None: ...
    def sending(self, sent_bytes: int, now: float) -> None: ...
    def drained(self) -> None: ...
    def arrived(self, sent_bytes: int, took_ms: float, now: float) -> None: ...
    def given_up(self, now: float) -> None: ...
    def probe_due(self, now: float) -> int: ...


@dataclass(eq=False)
class Outcome:
    """What became of the requests.

    Attributes:
        latency_ms: `[requests]`, `inf` for those that were never answered.
        quality: `[requests]`, of the answers. sent_bytes: all that went up, probes included.
    """

    latency_ms: NDArray[np.float64]
    quality: NDArray[np.float64]
    sent_bytes: int = 0

    @classmethod
    def nothing_yet(cls, requests: int) -> "Outcome":
        """Of a run that begins."""
        return cls(np.full(requests, np.inf), np.zeros(requests))

    def answered(self, number: int, latency_ms: float, quality: float) -> None:
        """A request has its answer."""
        self.latency_ms[number] = latency_ms
        self.quality[number] = quality

    def goodput(self, deadline_ms: float) -> float:
        """Mean of quality times in time."""
        return float(np.mean(self.quality * (self.latency_ms <= deadline_ms)))


@dataclass(eq=False)
class Simulation:
    """One run of a policy through a world."""

    world: World
    policy: Policy
    _events: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    _order: "count[int]" = field(default_factory=count)
    _edge: "deque[Job]" = field(default_factory=deque)
    _running: tuple[Job, float] | None = None
    _queued_ms: float = 0.0
    _up: "deque[Job]" = field(default_factory=deque)
    _sending: Job | None = None
    waiting_bytes: int = 0
    _cloud: list[float] = field(default_factory=list)

    def run(self) -> Outcome:
        """Let all requests come and all work end."""
        n = len(self.world.arrivals_s)
        self._costs = self.world.costs
        self._outcome = Outcome.nothing_yet(n)
        self._cloud = [0.0] * self.world.cloud_parallel
        for number, at in enumerate(self.world.arrivals_s.tolist()):
            self._at(at, partial(self._arrives, number))
        self._last = float(self.world.arrivals_s[-1]) if n else 0.0
        self._at(0.0, self._tick)
        while self._events:
            now, _, what = heapq.heappop(self._events)
            what(now)
        return self._outcome

    def edge_backlog_ms(self, now: float) -> float:
        """Expected time until the edge is free."""
        left = 0.0
        if self._running is not None:
            job, since = self._running
            left = max(0.0, job.edge_ms - (now - since) * 1e3)
        return left + self._queued_ms

    def _at(self, when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def _tick(self, now: float) -> None:
        self._probe(now)
        if now < self._last:
            self._at(now + TICK_S, self._tick)

    def _probe(self, now: float) -> None:
        if self._sending is None and (size := self.policy.probe_due(now)):
            self._enqueue_up(Job(PROBE, PROBE, np.inf, sent_bytes=size), now)

    def _arrives(self, number: int, now: float) -> None:
        pick = self.policy.choose(self.world.deadline_ms, self, now)
        if pick.row == SHED:
            return
        deadline = now + self.world.deadline_ms / 1e3
        job = Job(number, pick.row, deadline, pick.edge_ms, int(self._costs.bytes_up[pick.row]))
        if self._costs.queues[pick.row]:
            self._edge.append(job)
            self._queued_ms += job.edge_ms
            self._next_on_edge(now)
        else:  # packing does not wait for the edge
            ready = now + self.world.edge_ms[number, pick.row] / 1e3
            self._at(ready, lambda then: self._enqueue_up(job, then))

    def _next_on_edge(self, now: float) -> None:
        while self._running is None and self._edge:
            job = self._edge.popleft()
            self._queued_ms = max(0.0, self._queued_ms - job.edge_ms) if self._edge else 0.0
            if self.policy.drops_late and now >= job.deadline_s:
                continue
            if not self._costs.goes_up[job.row]:
                pick = self.policy.again(job, (job.deadline_s - now) * 1e3, now)
                job.row, job.edge_ms = pick.row, pick.edge_ms
                if job.row == SHED:
                    continue
            self._running = (job, now)
            took = self.world.edge_ms[job.number, job.row]
            self._at(now + took / 1e3, partial(self._ran, job, float(took)))

    def _ran(self, job: Job, took_ms: float, now: float) -> None:
        self._running = None
        self.policy.ran(job.row, took_ms)
        if self._costs.goes_up[job.row]:
            self._enqueue_up(job, now)
        else:
            self._answered(job, now)
        self._next_on_edge(now)

    def _enqueue_up(self, job: Job, now: float) -> None:
        self._up.append(job)
        self.waiting_bytes += job.sent_bytes
        self._next_on_uplink(now)

    def _next_on_uplink(self, now: float) -> None:
        while self._sending is None and self._up:
            job = self._up.popleft()
            self.waiting_bytes -= job.sent_bytes
            if self.policy.drops_late and now >= job.deadline_s:
                continue
            self._send(job, now)

    def _send(self, job: Job, now: float) -> None:
        self._sending = job
        self.policy.sending(job.sent_bytes, now)
        done = float(self.world.uplink.done_at(now, job.sent_bytes))
        if self.policy.drops_late and done > job.deadline_s:
            self._at(job.deadline_s, lambda then: self._gives_up(job, since=now, now=then))
        else:
            self._at(done, lambda then: self._drains(job, since=now, now=then))

    def _gives_up(self, job: Job, *, since: float, now: float) -> None:
        carried = float(self.world.uplink.carried(now) - self.world.uplink.carried(since))
        self._outcome.sent_bytes += min(int(carried), job.sent_bytes)
        self._sending = None
        self.policy.given_up(now)
        self._next_on_uplink(now)

    def _drains(self, job: Job, *, since: float, now: float) -> None:
        self._outcome.sent_bytes += job.sent_bytes
        self._sending = None
        self.policy.drained()
        took_ms = (now - since) * 1e3
        back = now + self.world.rtt_ms / 1e3
        self._at(back, lambda then: self._acknowledged(job.sent_bytes, took_ms, then))
        if job.row != PROBE:
            self._at(now + self.world.rtt_ms / 2e3, lambda then: self._in_cloud(job, then))
        self._next_on_uplink(now)

    def _acknowledged(self, sent_bytes: int, took_ms: float, now: float) -> None:
        self.policy.arrived(sent_bytes, took_ms, now)
        self._probe(now)

    def _in_cloud(self, job: Job, now: float) -> None:
        free = heapq.heappop(self._cloud)
        done = max(now, free) + self.world.cloud_ms[job.number, job.row] / 1e3
        heapq.heappush(self._cloud, done)
        self._at(done + self.world.rtt_ms / 2e3, lambda then: self._answered(job, then))

    def _answered(self, job: Job, now: float) -> None:
        latency_ms = (now - self.world.arrivals_s[job.number]) * 1e3
        self._outcome.answered(job.number, latency_ms, self._costs.quality[job.row])
