"""Long work beside the API: start it, watch it, and never lose how it ended.

One process runs its jobs as tasks on the event loop; heavy computation belongs in a thread or a
child process that the work itself starts. This is no queue: a job that ran when the coordinator
stopped is marked as failed, and is not started again.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Literal, NamedTuple, Self

import msgspec
from sqlalchemy import Update, select, update

from aimass_cloud.store import Store
from aimass_cloud.store.tables import JobRow
from aimass_shared.errors import AimassError, JobInterruptedError, NotFoundError

logger = logging.getLogger(__name__)

Progress = Callable[[float, str], None]
"""Report progress: share done (0 to 1) and what is being done. From any thread, never blocks."""
Work = Callable[[Progress], Awaitable[Mapping[str, object]]]
"""What a job does; its result must be JSON."""
State = Literal["running", "succeeded", "failed"]


class Job(msgspec.Struct, frozen=True):
    """A job as callers see it. Times are UTC milliseconds since 1970, 0 = not yet.

    Attributes:
        message: what is being done, or why it failed.
        code: of the error that ended it ("" otherwise).
    """

    id: str
    kind: str
    state: State
    progress: float
    message: str
    result: dict[str, object]
    code: str
    created: int
    finished: int


class _Step(NamedTuple):
    progress: float
    message: str


class _End(NamedTuple):
    state: State
    message: str = ""
    code: str = ""
    result: Mapping[str, object] = {}


class Jobs:
    """The jobs of this process. `async with` fails what an earlier process left running."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._steps: dict[str, _Step] = {}

    async def __aenter__(self) -> Self:
        """Mark what was running when an earlier process ended as failed."""
        running = select(JobRow.id).where(JobRow.state == "running")
        async with self._store.session() as session:
            for job in (await session.scalars(running)).all():
                await session.execute(_ending(job, _interrupted(0.0)))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel what runs and record that it did not end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for job in list(self._tasks):  # cancelled before its first step
            await self._finish(job, _interrupted(0.0))

    async def start(self, kind: str, work: Work) -> str:
        """Start work; returns the job's id once the job is in the database."""
        job = f"{kind}-{secrets.token_hex(6)}"
        row = JobRow(id=job, kind=kind, state="running", created=_now_ms())
        async with self._store.session() as session:
            session.add(row)
        self._steps[job] = _Step(0.0, "")
        self._tasks[job] = asyncio.create_task(self._run(job, work), name=job)
        return job

    async def get(self, job: str) -> Job:
        """A job as it is now.

        Raises:
            NotFoundError: there is no such job.
        """
        step = self._steps.get(job)
        async with self._store.reading() as session:
            row = await session.get(JobRow, job)
        if row is None:
            raise NotFoundError(f"there is no job {job[:64]!r}")
        return _job(row, step if row.state == "running" else None)

    async def wait(self, job: str) -> Job:
        """A job when it has ended.

        Raises:
            NotFoundError: there is no such job.
        """
        task = self._tasks.get(job)
        if task is not None:
            await asyncio.wait([task])
        return await self.get(job)

    async def _run(self, job: str, work: Work) -> None:
        """The life of one job; the edge at which any error becomes its result."""

        def report(progress: float, message: str) -> None:
            self._steps[job] = _Step(min(max(progress, 0.0), 1.0), message)

        try:
            end = await _end_of(job, work, report)
        except asyncio.CancelledError:
            await asyncio.shield(self._finish(job, _interrupted(self._steps[job].progress)))
            raise
        await self._finish(job, end)

    async def _finish(self, job: str, end: _End) -> None:
        try:
            async with self._store.session() as session:
                await session.execute(_ending(job, end))
        finally:
            self._tasks.pop(job, None)
            self._steps.pop(job, None)


async def _end_of(job: str, work: Work, report: Progress) -> _End:
    try:
        result = await work(report)
        return _End("succeeded", result=msgspec.to_builtins(dict(result)))
    except AimassError as error:
        logger.warning("job %s failed: %s", job, error)
        return _End("failed", error.detail, error.code)
    except Exception:
        logger.exception("job %s failed", job)
        return _End("failed", "a defect of aimass: see the coordinator's log", AimassError.code)


def _interrupted(progress: float) -> _End:
    at = f" at {progress:.0%}" if progress else ""
    message = f"the coordinator stopped while this ran{at}: start it again"
    return _End("failed", message, JobInterruptedError.code)


def _ending(job: str, end: _End) -> Update:
    values = {
        "state": end.state,
        "message": end.message,
        "code": end.code,
        "result": dict(end.result),
        "finished": _now_ms(),
    }
    if end.state == "succeeded":
        values["progress"] = 1.0
    return update(JobRow).where(JobRow.id == job).values(values)


def _job(row: JobRow, step: _Step | None) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        state=msgspec.convert(row.state, State),
        progress=step.progress if step else row.progress,
        message=step.message if step else row.message,
        result=row.result,
        code=row.code,
        created=row.created,
        finished=row.finished,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
