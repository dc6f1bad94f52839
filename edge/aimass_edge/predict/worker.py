"""The one worker that runs the model: a line of jobs, a thread, and the account of its time.

One at a time, because a device's cores are few and predictions of time are only good if runs do not
compete. A run that is shorter than the way to a thread and back stays on the event loop. Which job
may enter is decided before (`predictor`); which is next, by `lanes`.
"""

import logging
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
from numpy.typing import NDArray

from aimass_edge.capacity import Capacity, Ticket
from aimass_edge.predict.active import Active
from aimass_edge.predict.lanes import Lanes
from aimass_edge.runtime import Arrays, windows_of
from aimass_shared.errors import (
    AimassError,
    DeadlineExceededError,
    ModelError,
    NoActiveModelError,
)

log = logging.getLogger(__name__)

INLINE_MS = 0.4
"""Handing a run to a thread and back costs about as much (`docs/benchmarks.md`, endpoint)."""


class Job(msgspec.Struct, eq=False):
    """One run that was accepted, and what became of it."""

    active: Active
    feeds: Arrays
    ticket: Ticket
    done: anyio.Event
    outputs: dict[str, NDArray[Any]] | None = None
    error: AimassError | None = None


class Worker:
    """Runs jobs one by one in a thread. `work` is its loop; it belongs to one task."""

    def __init__(self, capacity: Capacity, clock: Callable[[], float]) -> None:
        self._capacity = capacity
        self._clock = clock
        self._lanes: Lanes[Job] = Lanes()
        self._arrived = anyio.Event()
        self._thread = anyio.CapacityLimiter(1)

    async def work(self) -> None:
        """Run jobs for ever."""
        while True:
            job = self._lanes.take()
            if job is None:
                self._arrived = anyio.Event()
                await self._arrived.wait()
            else:
                await self._run(job)

    def close(self) -> None:
        """Answer the jobs that wait: they will not run any more."""
        while (job := self._lanes.take()) is not None:
            self._settle(job, error=NoActiveModelError("the agent is stopping; ask again later"))

    async def submit(
        self, active: Active, feeds: Arrays, *, telemetry: bool, remaining_s: float | None
    ) -> dict[str, NDArray[Any]]:
        """Run a model once, when its turn comes.

        Args:
            active: what to run; it stays open until then.
            feeds: its inputs.
            telemetry: which lane to wait on.
            remaining_s: time until the answer is of no use; None waits as long as it takes.

        Raises:
            DeadlineExceededError: it did not finish in time. A run that has begun goes on, because
                a thread cannot be stopped, but nobody reads its result.
            AimassError: what the session raises.
        """
        windows = windows_of(active.session.inputs, feeds)
        job = Job(active, feeds, self._capacity.enter(active.key, windows), anyio.Event())
        self._lanes.put(job, telemetry=telemetry)
        self._arrived.set()
        with active.in_use():
            try:
                with anyio.move_on_after(remaining_s):
                    await job.done.wait()
            finally:
                if self._lanes.remove(job):
                    self._capacity.leave(job.ticket)
        return _result(job)

    async def _run(self, job: Job) -> None:
        self._capacity.start(job.ticket, self._clock())
        try:
            with job.active.in_use():
                outputs = await self._outputs(job)
        except AimassError as error:
            self._settle(job, error=error)
        except Exception as error:
            log.exception("model %s failed", job.active.key)
            self._settle(job, error=ModelError(f"{job.active.key} failed: {error!r}"))
        else:
            self._capacity.finish(job.ticket, self._clock())
            self._settle(job, outputs=outputs)
        finally:
            # Only when the agent stops while a run is under way: its caller must not wait for ever.
            if not job.done.is_set():
                self._settle(job, error=NoActiveModelError("the agent is stopping"))

    async def _outputs(self, job: Job) -> dict[str, NDArray[Any]]:
        """Run here if it is short, else in the thread; others get their turn either way."""
        run = job.active.session.run
        if job.active.takes_ms(job.ticket.windows) <= INLINE_MS:
            await anyio.lowlevel.checkpoint()
            return run(job.feeds)
        return await anyio.to_thread.run_sync(run, job.feeds, limiter=self._thread)

    def _settle(
        self,
        job: Job,
        *,
        outputs: dict[str, NDArray[Any]] | None = None,
        error: AimassError | None = None,
    ) -> None:
        job.outputs, job.error = outputs, error
        self._capacity.leave(job.ticket)
        job.done.set()


def _result(job: Job) -> dict[str, NDArray[Any]]:
    if job.error is not None:
        raise job.error
    if job.outputs is None:
        raise DeadlineExceededError("the deadline passed before the model was done")
    return job.outputs
