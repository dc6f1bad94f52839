"""Greedy dynamic batching: whatever waits when the engine is idle goes into one run.

No timer: with an empty queue a request runs at once, and batches grow by themselves under load.
Small runs happen on the event loop, larger ones in the engine's thread. One run at a time.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import msgspec
import numpy as np

from aimass_cloud.serving.timing import RunTimes
from aimass_shared.errors import (
    AimassError,
    BadTensorError,
    DeadlineExceededError,
    ModelError,
    NoActiveModelError,
    OverloadedError,
)
from aimass_shared.inference import Tensor

log = logging.getLogger(__name__)

Run = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
# Below this a hop to a thread and back costs more than it frees the event loop.
INLINE_S = 0.0003


class BatchLimits(msgspec.Struct, frozen=True):
    """Limits of one model, in windows.

    Attributes:
        max_batch: of one run, unless a single request is larger.
        queue_limit: that may wait, and that one request may have.
        inline_s: runs that should take less than this happen on the event loop.
    """

    max_batch: int
    queue_limit: int
    inline_s: float = INLINE_S


class Done(NamedTuple):
    """The answer to one request; seconds it waited; seconds and windows of the run it was in."""

    outputs: Mapping[str, Tensor]
    queue_s: float
    run_s: float
    batch: int


class _Item:
    """A request that waits. `shape` is that of its windows: only equal ones share a run."""

    def __init__(self, inputs: Mapping[str, Tensor], windows: int, deadline: float) -> None:
        self.inputs = inputs
        self.windows = windows
        self.deadline = deadline
        self.arrived = time.monotonic()
        self.shape = tuple((name, inputs[name].shape[1:]) for name in sorted(inputs))
        self.done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()


class Batcher:
    """The queue of one model.

    Args:
        run: runs the model once; thread-safe.
        limits: of the queue and of one run.
        executor: has one thread; where larger runs happen.
        times: measured so far, and kept up from here on.
    """

    def __init__(
        self, run: Run, limits: BatchLimits, *, executor: Executor, times: RunTimes
    ) -> None:
        self._run = run
        self._limits = limits
        self._executor = executor
        self._times = times
        self._queue: deque[_Item] = deque()
        self._waiting = 0
        self._running = 0
        self._run_started = 0.0
        self._loop_task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Windows in the queue."""
        return self._waiting

    async def submit(self, inputs: Mapping[str, Tensor], windows: int, deadline_s: float) -> Done:
        """Run a model over some windows, together with whatever else waits.

        Args:
            inputs: checked tensors; the first dimension of each is `windows` if runs are shared.
            windows: in this request.
            deadline_s: from now.

        Raises:
            BadTensorError: more windows than the queue ever takes.
            OverloadedError: the queue is full, or the deadline cannot be met.
            DeadlineExceededError: the deadline passed nevertheless.
        """
        self._admit(windows, deadline_s)
        item = _Item(inputs, windows, time.monotonic() + deadline_s)
        self._queue.append(item)
        self._waiting += windows
        if self._loop_task is None:
            self._loop_task = asyncio.create_task(self._work())
        try:
            return await asyncio.wait_for(item.done, deadline_s)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"no answer within the deadline of {deadline_s * 1000:.0f} ms;"
                f" {self._waiting} windows wait"
            ) from error

    async def drain(self) -> None:
        """Take nothing more, and answer what waits: each item has a deadline, so this ends."""
        self._closed = True
        while self._loop_task is not None:
            await asyncio.wait([self._loop_task])

    def _admit(self, windows: int, deadline_s: float) -> None:
        if self._closed:
            raise NoActiveModelError("the model is being taken down; ask again")
        limit = self._limits.queue_limit
        if windows > limit:
            raise BadTensorError(f"{windows} windows in one request, the limit is {limit}")
        if self._waiting + windows > limit:
            raise OverloadedError(
                f"{self._waiting} windows wait and {windows} came, the limit is {limit}; try later",
                retry_after_s=self._expected_s(windows),
            )
        expected = self._expected_s(windows)
        # An idle engine always tries: else one slow run would refuse all that could disprove it.
        if expected > deadline_s and (self._waiting or self._running):
            raise OverloadedError(
                f"an answer would take {expected * 1000:.0f} ms, the deadline is"
                f" {deadline_s * 1000:.0f} ms; {self._waiting} windows wait"
            )

    def _expected_s(self, windows: int) -> float:
        """Time to an answer: the rest of the run at hand, then full runs of all that waits."""
        total = self._waiting + windows
        batch = max(windows, min(total, self._limits.max_batch))
        one = self._times.predict(batch) or 0.0
        rest = 0.0
        if self._running:
            passed = time.monotonic() - self._run_started
            rest = max(0.0, (self._times.predict(self._running) or 0.0) - passed)
        return rest + one * -(-total // batch)

    async def _work(self) -> None:
        try:
            while self._queue:
                items = self._take()
                if items:
                    await self._run_batch(items)
        finally:
            self._loop_task = None

    def _take(self) -> list[_Item]:
        """The next batch: at least one item, then as many as fit its size, shape and deadline."""
        items: list[_Item] = []
        windows = 0
        while self._queue:
            item = self._queue[0]
            if items and not self._fits(items, item, windows):
                break
            self._queue.popleft()
            self._waiting -= item.windows
            if not item.done.done():  # else its caller has given up
                items.append(item)
                windows += item.windows
        return items

    def _fits(self, items: Sequence[_Item], item: _Item, windows: int) -> bool:
        total = windows + item.windows
        if total > self._limits.max_batch or item.shape != items[0].shape:
            return False
        end = time.monotonic() + (self._times.predict(total) or 0.0)
        return end <= min(other.deadline for other in items)

    async def _run_batch(self, items: Sequence[_Item]) -> None:
        windows = sum(item.windows for item in items)
        self._running, self._run_started = windows, time.monotonic()
        try:
            outputs = await self._run_somewhere(_joined(items), windows)
            seconds = time.monotonic() - self._run_started
            shares = _split(outputs, [item.windows for item in items])
        except Exception as error:  # noqa: BLE001  ORT raises a dozen unrelated classes
            await self._failed(items, windows, error)
            return
        finally:
            self._running = 0
        self._times.add(windows, seconds)
        for item, share in zip(items, shares, strict=True):
            if not item.done.done():
                waited = self._run_started - item.arrived
                item.done.set_result(Done(share, waited, seconds, windows))
        await asyncio.sleep(0)  # after a run on the event loop, let requests in that came meanwhile

    async def _failed(self, items: Sequence[_Item], windows: int, error: Exception) -> None:
        """Tell the caller; of several, find out whose input it was, for the sake of the others."""
        if len(items) == 1:
            log.error("a run over %d windows failed", windows, exc_info=error)
            _fail(items, ModelError(f"the model failed on this input: {error}"))
            return
        for item in items:
            if not item.done.done():
                await self._run_batch([item])

    async def _run_somewhere(
        self, inputs: Mapping[str, Tensor], windows: int
    ) -> Mapping[str, Tensor]:
        expected = self._times.predict(windows)
        if expected is not None and expected < self._limits.inline_s:
            return self._run(inputs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._run, inputs)


def _joined(items: Sequence[_Item]) -> Mapping[str, Tensor]:
    if len(items) == 1:
        return items[0].inputs
    return {name: np.concatenate([i.inputs[name] for i in items]) for name in items[0].inputs}


def _split(outputs: Mapping[str, Tensor], sizes: Sequence[int]) -> list[Mapping[str, Tensor]]:
    """Each request's share of the outputs, as views."""
    if len(sizes) == 1:
        return [outputs]
    ends = np.cumsum(sizes)
    return [
        {name: array[end - size : end] for name, array in outputs.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]


def _fail(items: Sequence[_Item], error: AimassError) -> None:
    for item in items:
        if not item.done.done():
            item.done.set_exception(error)
