"""Answers invitations to federated rounds: fetch, learn in a thread, leave the update, reply.

Every invitation gets a reply: a failure is one with a code and a reason, never an exception. The
same task id gets the same reply, however often the invitation comes (MQTT delivers at least once).
Only what a trainer returns leaves the device, never a row of history.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import anyio
import anyio.to_thread
import msgspec
import numpy as np

from aimass_edge.federated.blobs import Blobs
from aimass_edge.federated.trainers import Job, Trained, Trainer
from aimass_shared.errors import (
    AimassError,
    BadUpdateError,
    ConflictError,
    DeadlineExceededError,
)
from aimass_shared.messages import RoundKind, RoundReply, RoundTask
from aimass_shared.moments import Segment
from aimass_shared.updates import Update, UpdatePrecision, decode, encode, is_precision

log = logging.getLogger(__name__)

MAX_EPOCHS = 1000
MAX_SECONDS = 24 * 3600.0
KEPT_REPLIES = 256


class History(Protocol):
    """The private rows of this device."""

    @property
    def step_ms(self) -> int:
        """Time between two rows."""
        ...

    async def segments(self, sensors: Sequence[str]) -> list[Segment]:
        """Stretches of rows without a gap: values `[T, S]` in the sensors' units, mask `[T, S]`.

        Raises:
            NotFoundError: a sensor is not recorded here.
        """
        ...


class _Answer(msgspec.Struct):
    done: anyio.Event
    reply: RoundReply | None = None


class _Watch:
    """Tells a worker thread when to stop: at the deadline, or when the agent gives up on it."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def check(self) -> None:
        if self._stopped.is_set() or time.monotonic() > self._end:
            raise DeadlineExceededError("the round's deadline passed while training")


class Rounds:
    """Answers rounds, one at a time, with the trainer of each kind."""

    def __init__(
        self, *, history: History, blobs: Blobs, trainers: Mapping[RoundKind, Trainer]
    ) -> None:
        self._history = history
        self._blobs = blobs
        self._trainers = trainers
        self._one_at_a_time = anyio.Lock()
        self._answers: dict[str, _Answer] = {}

    async def answer(self, task: RoundTask) -> RoundReply:
        """The reply to an invitation; the same one for the same `task.task`."""
        while (known := self._answers.get(task.task)) is not None:
            await known.done.wait()
            if known.reply is not None:
                return known.reply
            # It was cancelled elsewhere before it was answered: this call takes over.
        answer = self._answers[task.task] = _Answer(anyio.Event())
        try:
            answer.reply = await self._reply(task)
        finally:
            answer.done.set()
            if answer.reply is None:
                del self._answers[task.task]
        self._forget_old()
        return answer.reply

    async def _reply(self, task: RoundTask) -> RoundReply:
        start = time.monotonic()
        try:
            reply = await self._within_deadline(task)
        except AimassError as error:
            log.warning("round task %s failed: %s", task.task, error)
            reply = RoundReply(task=task.task, ok=False, code=error.code, why=error.detail)
        except Exception as error:  # the edge of a request: the coordinator must hear of it
            log.exception("round task %s failed", task.task)
            why = f"unexpected {type(error).__name__}; see the device's log"
            reply = RoundReply(task=task.task, ok=False, code=AimassError.code, why=why)
        return msgspec.structs.replace(reply, seconds=time.monotonic() - start)

    async def _within_deadline(self, task: RoundTask) -> RoundReply:
        seconds = min(task.deadline / 1000 - time.time(), MAX_SECONDS)
        try:
            with anyio.fail_after(max(seconds, 0.0)):
                async with self._one_at_a_time:
                    return await self._work(task, _Watch(seconds))
        except TimeoutError as error:
            raise DeadlineExceededError(
                "the round's deadline passed; is the clock right?"
            ) from error

    async def _work(self, task: RoundTask, watch: _Watch) -> RoundReply:
        trainer = self._check(task)
        sent = await self._fetch(task)
        segments = await self._history.segments(task.sensors)
        job = Job(task=task, arrays=sent.arrays, segments=segments, check=watch.check)
        try:
            # Abandoned when cancelled: the watch then ends the thread at its next step.
            trained, raw = await anyio.to_thread.run_sync(
                _train, trainer, job, _precision(sent), abandon_on_cancel=True
            )
        finally:
            watch.stop()
        digest = await self._blobs.put(raw)
        return RoundReply(
            task=task.task,
            ok=True,
            digest=digest,
            size=len(raw),
            examples=trained.examples,
            metrics=trained.metrics,
        )

    def _check(self, task: RoundTask) -> Trainer:
        trainer = self._trainers.get(task.kind)
        if trainer is None:
            raise ConflictError(f"this device does not take part in rounds of kind {task.kind}")
        if not task.sensors:
            raise ConflictError(
                "the round names no sensors: a model that takes requests only is not trained on"
                " devices, which keep no rows of its inputs"
            )
        if task.step_ms != self._history.step_ms:
            raise ConflictError(
                f"the round's rows are {task.step_ms} ms apart, here {self._history.step_ms} ms"
            )
        if not (1 <= task.epochs <= MAX_EPOCHS and task.learning_rate > 0 and task.seed >= 0):
            raise BadUpdateError("the round's epochs, learning rate or seed are out of range")
        return trainer

    async def _fetch(self, task: RoundTask) -> Update:
        if not task.digest:
            return Update({}, {})
        raw = await self._blobs.get(task.digest, task.size)
        return await anyio.to_thread.run_sync(lambda: decode(raw, max_bytes=task.size))

    def _forget_old(self) -> None:
        finished = [task for task, answer in self._answers.items() if answer.reply is not None]
        for task in finished[: max(len(finished) - KEPT_REPLIES, 0)]:
            del self._answers[task]


def _precision(sent: Update) -> UpdatePrecision:
    """How the coordinator wants the update to travel."""
    wanted = sent.meta.get("precision", "f32")
    if not is_precision(wanted):
        raise BadUpdateError(f"the round asks for the unknown precision {wanted!r}")
    return wanted


def _train(trainer: Trainer, job: Job, precision: UpdatePrecision) -> tuple[Trained, bytes]:
    with np.errstate(all="ignore"):  # what is not finite is refused by the codec
        trained = trainer.train(job)
    return trained, encode(trained.arrays, {"task": job.task.task}, precision)
