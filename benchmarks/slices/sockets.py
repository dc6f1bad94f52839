"""The same policies in real time: real sockets over loopback, and a proxy that shapes the uplink.

The device sleeps for the time of its part (a profile times its slowdown), one request at a time,
and sends frames over one TCP connection to a proxy. The proxy lets their bytes through a token
bucket whose rate follows the world's uplink, tells the sender when a frame has left (as a device
sees it in the queue of its own interface), and delivers it half a round trip later. The cloud
acknowledges a frame, works for its time, a few at once, and answers over the same way back.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.slices.simulator import PROBE, SHED, Job, Outcome, Policy
from benchmarks.slices.world import World

HEAD = struct.Struct("<iIf")
"""Number of the request, bytes of the payload, milliseconds of work in the cloud."""
NOTE = struct.Struct("<Bi")
LEFT, ARRIVED, ANSWERED = 1, 2, 3
PIECE = 512
SLEEP_EARLY_S = 0.001
TICK_S = 0.05


@dataclass(eq=False)
class Clock:
    """Seconds since the start of a run."""

    started: float = field(default_factory=time.perf_counter)

    def now(self) -> float:
        return time.perf_counter() - self.started

    async def until(self, when: float) -> None:
        """Sleep, exactly: the loop's timers are a millisecond coarse."""
        left = when - self.now()
        if left > SLEEP_EARLY_S:
            await asyncio.sleep(left - SLEEP_EARLY_S)
        while self.now() < when:  # noqa: ASYNC110  nothing happens but time
            await asyncio.sleep(0)


@dataclass(eq=False)
class Tasks:
    """Background work that is ended with the run; what failed of it fails the run."""

    running: set["asyncio.Task[None]"] = field(default_factory=set)
    failed: list[BaseException] = field(default_factory=list)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self.running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed.append(error)

    def check(self) -> None:
        """Raise what the first that failed raised."""
        if self.failed:
            raise self.failed[0]

    def end(self) -> None:
        for task in self.running:
            task.cancel()


@dataclass(eq=False)
class Cloud:
    """Answers frames, some at once."""

    world: World
    clock: Clock
    tasks: Tasks

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        free = asyncio.Semaphore(self.world.cloud_parallel)
        while head := await _head(reader):
            number, size, work_ms = HEAD.unpack(head)
            await reader.readexactly(size)
            writer.write(NOTE.pack(ARRIVED, number))
            if number != PROBE:
                self.tasks.start(self._work(free, work_ms, NOTE.pack(ANSWERED, number), writer))
        writer.close()

    async def _work(
        self,
        free: asyncio.Semaphore,
        work_ms: float,
        answer: bytes,
        writer: asyncio.StreamWriter,
    ) -> None:
        async with free:
            await self.clock.until(self.clock.now() + work_ms / 1e3)
        writer.write(answer)


@dataclass(eq=False)
class Proxy:
    """Shapes what goes up, delays both ways by half a round trip."""

    world: World
    clock: Clock
    tasks: Tasks
    cloud_port: int

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # the run has ended; the server would log it
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far, up = await asyncio.open_connection("127.0.0.1", self.cloud_port)
        self.tasks.start(self._back(far, writer))
        ready = self.clock.now()
        while head := await _head(reader):
            number, size, _ = HEAD.unpack(head)
            ready = max(ready, self.clock.now())
            payload = bytearray()
            while len(payload) < size:
                piece = await reader.readexactly(min(PIECE, size - len(payload)))
                payload += piece
                ready = float(self.world.uplink.done_at(ready, len(piece)))
                await self.clock.until(ready)
            writer.write(NOTE.pack(LEFT, number))
            self.tasks.start(self._later(up, head + payload))
        up.close()
        writer.close()

    async def _back(self, far: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while note := await _head(far, NOTE.size):
            self.tasks.start(self._later(writer, note))

    async def _later(self, writer: asyncio.StreamWriter, content: bytes) -> None:
        await self.clock.until(self.clock.now() + self.world.rtt_ms / 2e3)
        writer.write(content)


async def _head(reader: asyncio.StreamReader, size: int = HEAD.size) -> bytes:
    try:
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    except asyncio.CancelledError:  # the run has ended; the server would log a traceback
        return b""


@dataclass(eq=False)
class Device:
    """Runs a policy in real time; the counterpart of `simulator.Simulation`."""

    world: World
    policy: Policy
    clock: Clock
    tasks: Tasks
    waiting_bytes: int = 0

    def __post_init__(self) -> None:
        self.costs = self.world.costs
        self.outcome = Outcome.nothing_yet(len(self.world.arrivals_s))
        self._edge: deque[Job] = deque()
        self._up: deque[Job] = deque()
        self._running: tuple[Job, float] | None = None
        self._work, self._send, self._left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._sending = False
        self._away: dict[int, Job] = {}
        self._flights: deque[tuple[int, float]] = deque()

    async def run(self, port: int) -> Outcome:
        """Let all requests come; what is not answered two deadlines after the last one is late."""
        reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        for work in (self._edge_loop(), self._uplink_loop(), self._listen(reader), self._probe()):
            self.tasks.start(work)
        for number, at in enumerate(self.world.arrivals_s.tolist()):
            await self.clock.until(at)
            self._arrives(number, at)
        end = self.clock.now() + 2 * self.world.deadline_ms / 1e3
        while (  # answers come one by one
            self.clock.now() < end and np.isinf(self.outcome.latency_ms).any()
        ):
            self.tasks.check()
            await asyncio.sleep(TICK_S)
        self.tasks.check()
        return self.outcome

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def edge_backlog_ms(self, now: float) -> float:
        left = sum(job.edge_ms for job in self._edge)
        if self._running is not None:
            job, since = self._running
            left += max(0.0, job.edge_ms - (now - since) * 1e3)
        return left

    def _arrives(self, number: int, at: float) -> None:
        left_ms = self.world.deadline_ms - (self.clock.now() - at) * 1e3
        pick = self.policy.choose(left_ms, self, self.clock.now())
        if pick.row == SHED:
            return
        deadline = at + self.world.deadline_ms / 1e3
        job = Job(number, pick.row, deadline, pick.edge_ms, int(self.costs.bytes_up[pick.row]))
        if self.costs.queues[pick.row]:
            self._edge.append(job)
            self._work.set()
        else:
            self.tasks.start(self._pack(job))

    async def _pack(self, job: Job) -> None:
        ms = float(self.world.edge_ms[job.number, job.row])
        await self.clock.until(self.clock.now() + ms / 1e3)
        self._enqueue(job)

    async def _edge_loop(self) -> None:
        while True:
            await self._work.wait()
            while self._edge:
                await self._on_edge(self._edge.popleft())
            self._work.clear()

    async def _on_edge(self, job: Job) -> None:
        now = self.clock.now()
        if self.policy.drops_late and now >= job.deadline_s:
            return
        if not self.costs.goes_up[job.row]:
            pick = self.policy.again(job, (job.deadline_s - now) * 1e3, now)
            job.row, job.edge_ms = pick.row, pick.edge_ms
            if job.row == SHED:
                return
        self._running = (job, now)
        await self.clock.until(now + float(self.world.edge_ms[job.number, job.row]) / 1e3)
        self._running = None
        self.policy.ran(job.row, (self.clock.now() - now) * 1e3)
        if self.costs.goes_up[job.row]:
            self._enqueue(job)
        else:
            self._answered(job)

    def _enqueue(self, job: Job) -> None:
        self._up.append(job)
        self.waiting_bytes += job.sent_bytes
        self._send.set()

    async def _uplink_loop(self) -> None:
        while True:
            await self._send.wait()
            while self._up:
                await self._on_uplink(self._up.popleft())
            self._send.clear()

    async def _on_uplink(self, job: Job) -> None:
        self.waiting_bytes -= job.sent_bytes
        now = self.clock.now()
        if self.policy.drops_late and now >= job.deadline_s:
            return
        work_ms = 0.0 if job.row == PROBE else float(self.world.cloud_ms[job.number, job.row])
        self._away[job.number] = job
        self._left.clear()
        self._sending = True
        self.policy.sending(job.sent_bytes, now)
        self._writer.write(HEAD.pack(job.number, job.sent_bytes, work_ms) + bytes(job.sent_bytes))
        await self._left.wait()
        self._sending = False
        self.policy.drained()
        self.outcome.sent_bytes += job.sent_bytes
        self._flights.append((job.sent_bytes, (self.clock.now() - now) * 1e3))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while note := await _head(reader, NOTE.size):
            kind, number = NOTE.unpack(note)
            if kind == LEFT:
                self._left.set()
            elif kind == ARRIVED and self._flights:
                sent_bytes, took_ms = self._flights.popleft()
                self.policy.arrived(sent_bytes, took_ms, self.clock.now())
            elif kind == ANSWERED:
                self._answered(self._away.pop(number))

    async def _probe(self) -> None:
        while True:
            size = 0 if self._sending or self._up else self.policy.probe_due(self.clock.now())
            if size:
                self._enqueue(Job(PROBE, PROBE, np.inf, sent_bytes=size))
            await asyncio.sleep(TICK_S)

    def _answered(self, job: Job) -> None:
        latency_ms = (self.clock.now() - self.world.arrivals_s[job.number]) * 1e3
        self.outcome.answered(job.number, latency_ms, self.costs.quality[job.row])


async def _run(world: World, policy: Policy) -> Outcome:
    clock, tasks = Clock(), Tasks()
    cloud = await asyncio.start_server(Cloud(world, clock, tasks).serve, "127.0.0.1", 0)
    port = cloud.sockets[0].getsockname()[1]
    proxy = await asyncio.start_server(
        Proxy(world, clock, tasks, port).serve, "127.0.0.1", 0, limit=PIECE
    )
    clock.started = time.perf_counter()
    device = Device(world, policy, clock, tasks)
    try:
        return await device.run(proxy.sockets[0].getsockname()[1])
    finally:
        device.close()
        tasks.end()
        proxy.close()
        cloud.close()
        await asyncio.sleep(0.02)  # all sides see that the others are gone


def replayed(world: World, policy: Policy) -> Outcome:
    """Run a policy through a world in real time."""
    return asyncio.run(_run(world, policy))
