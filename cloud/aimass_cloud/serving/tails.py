"""Tails of cut slices: the part that the coordinator runs when a device ran the head.

Loaded when first asked for, a bounded number kept: a release may have many, and few are in use.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast
from weakref import WeakSet

from aimass_cloud.serving.batcher import Batcher
from aimass_cloud.serving.session import coder_from, open_graph
from aimass_shared.errors import DeadlineExceededError, ModelLoadFailedError
from aimass_shared.inference import Tensor, batch_size
from aimass_shared.manifest import Contract, Halves
from aimass_shared.vocabulary import Coder

log = logging.getLogger(__name__)


class TailFile(NamedTuple):
    """A tail on the disk. `vocabulary` is of its slice, where texts are given."""

    path: Path
    halves: Halves
    contract: Contract
    vocabulary: Path | None = None


class TailSession:
    """A tail that is ready to run; numbers of texts become texts."""

    def __init__(self, session: Any, file: TailFile, coder: Coder) -> None:  # noqa: ANN401  # ORT has no types
        self._session, self._coder = session, coder
        self.halves = file.halves
        self.outputs = outputs_of(file)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run it once on what crosses, which was checked."""
        values = cast("list[Tensor]", self._session.run(list(self.outputs), dict(inputs)))
        return self._coder.decode(dict(zip(self.outputs, values, strict=True)))


class Tail(NamedTuple):
    """A tail with its queue."""

    session: TailSession
    batcher: Batcher

    def windows(self, inputs: Mapping[str, Tensor]) -> int:
        """How much a request asks for.

        Raises:
            BadTensorError: what crosses does not agree on the batch.
        """
        return batch_size(inputs) if self.session.halves.batched else 1


def outputs_of(file: TailFile) -> tuple[str, ...]:
    """The outputs that a tail gives: all of the model but those that its head gives."""
    names = (spec.name for spec in file.contract.outputs)
    return tuple(name for name in names if name not in file.halves.early)


def open_tail(file: TailFile, threads: int) -> TailSession:
    """Open a tail and compare it with what its release says.

    Raises:
        ModelLoadFailedError: the runtime refuses it, or it takes or gives something else.
    """
    session = open_graph(file.path, threads)
    takes = {node.name for node in session.get_inputs()}
    gives = {node.name for node in session.get_outputs()}
    wanted = {spec.name for spec in file.halves.crossing}
    if takes != wanted or not set(outputs_of(file)) <= gives:
        raise ModelLoadFailedError(
            f"the tail takes {sorted(takes)} and gives {sorted(gives)}; its release says"
            f" {sorted(wanted)} and {list(outputs_of(file))}: release it again"
        )
    return TailSession(session, file, coder_from(file.contract, file.vocabulary))


Key = tuple[str, str, str]
"""Model, release and slice."""


class Tails:
    """The tails in memory. It belongs to one event loop.

    Args:
        most: that are kept; the one that was not asked for the longest goes.
        opened: opens a tail; blocks.
        queued: gives it a queue.
    """

    def __init__(
        self,
        most: int,
        *,
        opened: Callable[[TailFile], TailSession],
        queued: Callable[[TailSession], Batcher],
    ) -> None:
        self._most, self._opened, self._queued = most, opened, queued
        self._tails: OrderedDict[Key, asyncio.Task[Tail]] = OrderedDict()
        self._alive: WeakSet[Batcher] = WeakSet()
        self._one = asyncio.Lock()

    @property
    def loaded(self) -> list[Key]:
        """Those in memory, the one that was asked for last at the end."""
        return list(self._tails)

    async def get(self, key: Key, file: TailFile, deadline_s: float) -> Tail:
        """A tail, loaded if need be; loading goes on where the deadline passes.

        Raises:
            ModelLoadFailedError: it cannot be loaded.
            DeadlineExceededError: it is not loaded yet.
        """
        task = self._tails.get(key)
        if task is None:
            task = self._tails[key] = asyncio.create_task(self._load(key, file))
            task.add_done_callback(_noticed)
            self._shrink()
        self._tails.move_to_end(key)
        try:
            return await asyncio.wait_for(asyncio.shield(task), deadline_s)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"the tail of {key[2]} is being loaded for the first time: ask again"
            ) from error

    def unload(self, model: str, *, but: str = "") -> None:
        """Let the tails of a model go when the last request for them is answered.

        Args:
            model: its name.
            but: the release whose tails stay.
        """
        for key in [key for key in self._tails if key[0] == model and key[1] != but]:
            del self._tails[key]

    async def close(self) -> None:
        """Answer what waits, and let all go."""
        await asyncio.gather(*self._tails.values(), return_exceptions=True)
        self._tails.clear()
        for batcher in list(self._alive):
            await batcher.drain()

    async def _load(self, key: Key, file: TailFile) -> Tail:
        try:
            async with self._one:
                session = await asyncio.to_thread(self._opened, file)
        except BaseException:
            if self._tails.get(key) is asyncio.current_task():
                del self._tails[key]  # the next request tries again
            raise
        log.info("serving the tail of %s of %s", key[2], key[1])
        batcher = self._queued(session)
        self._alive.add(batcher)
        return Tail(session, batcher)

    def _shrink(self) -> None:
        """Forget the oldest: whoever has it is still answered, and then it is gone."""
        while len(self._tails) > self._most:
            self._tails.popitem(last=False)


def _noticed(task: "asyncio.Task[Tail]") -> None:
    """Whoever waited has the error; where nobody waits any more, nobody is to be told."""
    if not task.cancelled():
        task.exception()
