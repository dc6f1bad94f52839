"""The round loop: play, evaluate, checkpoint, record; and go on after a crash where it ended.

Flower's own `start()` begins at round 1 again and returns empty arrays as if nothing had happened
when every client failed; neither happens here. Jobs, models and releases are the application's.
"""

import asyncio
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from aimass_cloud.federation.checkpoints import Checkpoints
from aimass_cloud.federation.plans import (
    Arrays,
    Nesting,
    RoundRecord,
    StatisticsPlan,
    StatisticsResult,
    TrainingPlan,
    TrainingResult,
)
from aimass_cloud.federation.transport import Transport
from aimass_cloud.store import Store
from aimass_cloud.store.tables import RoundRow
from aimass_shared.errors import ConflictError, MalformedMessageError, NoClientsError
from aimass_shared.topics import check_segment

if TYPE_CHECKING:
    from aimass_cloud.federation.engine import Engine

log = logging.getLogger(__name__)

MAX_ROUNDS = 10_000
SHOWN_REASONS = 5

T = TypeVar("T")
Progress = Callable[[float, str], None]
Evaluate = Callable[[Arrays], dict[str, float]]


class Rounds:
    """Federated runs over the fleet.

    Args:
        store: where records of rounds are kept. transport: reaches the devices.
        directory: of the checkpoints, one folder for each run.
    """

    def __init__(self, store: Store, transport: Transport, directory: Path) -> None:
        self._store = store
        self._transport = transport
        self._directory = directory
        self._running: set[str] = set()

    async def run_statistics(self, plan: StatisticsPlan, progress: Progress) -> StatisticsResult:
        """Ask the devices for the moments of their history and sum them.

        Raises:
            NoClientsError: no device gave any rows.
            ConflictError: a run of that name is under way.
        """
        with _Claim(self._running, plan.run):
            progress(0.0, f"asking {len(plan.devices)} devices")
            engine = await self._engine(plan.run)
            result = await _in_thread(engine, lambda: engine.statistics(plan))
            await self._keep(result.record)
            if result.moments.n == 0:
                raise _no_clients(result.record)
            progress(1.0, f"{result.moments.n} rows of {_good(result.record)} devices")
            return result

    async def run_training(
        self,
        plan: TrainingPlan,
        arrays: Arrays,
        *,
        nesting: Nesting,
        evaluate: Evaluate,
        progress: Progress,
    ) -> TrainingResult:
        """Train over the devices, from `arrays` or from the last checkpoint of the run.

        Args:
            plan: what to do.
            arrays: parameters of the model at full width.
            nesting: which part of a parameter a width holds.
            evaluate: figures of new arrays on data that no site trained on; called in a thread.
            progress: told the fraction done, and a line for people.

        Raises:
            NoClientsError: too few devices gave an update; the arrays of the last good round stay
                in the checkpoint, and the same plan can be run again.
            ConflictError: a run of that name is under way, or was of another model.
        """
        _check_plan(plan)
        with _Claim(self._running, plan.run):
            checkpoints = Checkpoints(self._directory / plan.run)
            done = await asyncio.to_thread(_resume, checkpoints, plan, arrays)
            for record in done.records:
                await self._keep(record)
            engine = await self._engine(plan.run)
            for number in range(len(done.records) + 1, plan.rounds + 1):
                progress((number - 1) / plan.rounds, f"round {number} of {plan.rounds}")
                done = await self._round(engine, plan, done, nesting=nesting, evaluate=evaluate)
                await asyncio.to_thread(checkpoints.save, plan.model, done.arrays, done.records)
                await self._keep(done.records[-1])
            progress(1.0, f"{len(done.records)} rounds done")
            return done

    async def records(self, run: str = "") -> list[RoundRecord]:
        """Rounds of a run, or of all runs, oldest first."""
        query = select(RoundRow).order_by(RoundRow.created, RoundRow.run, RoundRow.number)
        if run:
            query = query.where(RoundRow.run == run)
        async with self._store.reading() as session:
            return [_record(row) for row in (await session.scalars(query)).all()]

    async def _round(
        self,
        engine: "Engine",
        plan: TrainingPlan,
        done: TrainingResult,
        *,
        nesting: Nesting,
        evaluate: Evaluate,
    ) -> TrainingResult:
        number = len(done.records) + 1
        played = await _in_thread(
            engine, lambda: engine.train(plan, number, arrays=done.arrays, nesting=nesting)
        )
        if played.arrays is None or _good(played.record) < plan.min_clients:
            await self._keep(played.record)
            raise _no_clients(played.record)
        new = played.arrays
        figures = await asyncio.to_thread(evaluate, new)
        record = msgspec.structs.replace(played.record, metrics=played.record.metrics | figures)
        return TrainingResult(arrays=new, records=(*done.records, record))

    async def _engine(self, run: str) -> "Engine":
        # flwr takes half a second to import, which `aimass serve` shall not wait for.
        module: Any = await asyncio.to_thread(
            importlib.import_module, "aimass_cloud.federation.engine"
        )
        engine: Engine = module.Engine(self._transport, run)
        return engine

    async def _keep(self, record: RoundRecord) -> None:
        """Write a record; the same round again replaces it."""
        async with self._store.session() as session:
            await _merge(session, record)


class _Claim:
    """Keeps a second run of the same name out while one is under way."""

    def __init__(self, running: set[str], run: str) -> None:
        check_segment(run, "run id")
        self._running = running
        self._run = run

    def __enter__(self) -> None:
        if self._run in self._running:
            raise ConflictError(f"run {self._run} is under way")
        self._running.add(self._run)

    def __exit__(self, *error: object) -> None:
        self._running.discard(self._run)


async def _in_thread(engine: "Engine", work: Callable[[], T]) -> T:
    """Play in a worker thread; if this task is cancelled, the thread ends as well."""
    try:
        return await asyncio.to_thread(work)
    except asyncio.CancelledError:
        engine.close()
        raise


def _check_plan(plan: TrainingPlan) -> None:
    if not 1 <= plan.rounds <= MAX_ROUNDS:
        raise MalformedMessageError(f"rounds must be 1 to {MAX_ROUNDS}, got {plan.rounds}")
    if not plan.clients:
        raise NoClientsError("a training run needs at least one device that runs the model")
    for device, client in plan.clients.items():
        if not 0 < client.width <= 1:
            raise MalformedMessageError(f"width of {device} must be over 0 and at most 1")


def _resume(checkpoints: Checkpoints, plan: TrainingPlan, arrays: Arrays) -> TrainingResult:
    found = checkpoints.load()
    if found is None:
        return TrainingResult(arrays=arrays, records=())
    state, kept = found
    shapes, wanted = (
        {name: array.shape for name, array in some.items()} for some in (kept, arrays)
    )
    if state.model != plan.model or shapes != wanted:
        raise ConflictError(
            f"run {plan.run} trained model {state.model}: choose another run id for {plan.model}"
        )
    log.info("run %s goes on after round %d", plan.run, state.number)
    return TrainingResult(arrays=kept, records=state.records)


def _good(record: RoundRecord) -> int:
    return sum(client.ok for client in record.clients)


def _no_clients(record: RoundRecord) -> NoClientsError:
    reasons = [f"{c.device}: {c.why} [{c.code}]" for c in record.clients if not c.ok]
    shown = "; ".join(reasons[:SHOWN_REASONS]) or "no device was asked"
    return NoClientsError(
        f"round {record.number} of run {record.run} got {_good(record)} usable updates: {shown}"
    )


async def _merge(session: AsyncSession, record: RoundRecord) -> None:
    fields: dict[str, Any] = msgspec.to_builtins(record)
    await session.merge(RoundRow(**fields))


def _record(row: RoundRow) -> RoundRecord:
    return msgspec.convert(row, RoundRecord, from_attributes=True)
