"""The way of a message from paho's thread to the event loop: a bounded queue and a doorbell.

Hundreds of messages may arrive between two turns of the event loop; they are one wake-up.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from aimass_edge.bus.options import Inbound


class Doorbell:
    """Runs `answer` in the event loop soon after `ring` in any thread; many rings, one answer."""

    def __init__(self, answer: Callable[[], None]) -> None:
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._rung = False

    def ring(self) -> None:
        """In any thread."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is at home
                self._loop.call_soon_threadsafe(self._open)

    def _open(self) -> None:
        self._rung = False  # before the answer, so that a ring meanwhile is not lost
        self._answer()


class Letter(NamedTuple):
    """A message in the inbox; `done` tells the broker that it was handled (None at QoS 0)."""

    message: Inbound
    done: Callable[[], None] | None


class Inbox:
    """Bounded queue from paho's thread to the event loop.

    At QoS 0 the oldest message makes room. QoS 1 is acknowledged only after it was handled, so the
    broker's own window bounds it and nothing of it is dropped here.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._letters: deque[Letter] = deque()
        self._arrived = asyncio.Event()
        self._bell: Doorbell | None = None
        self._closed = False
        self.dropped = 0

    def open(self) -> None:
        """In the event loop that will read."""
        self._closed = False
        self._bell = Doorbell(self._arrived.set)

    def put(self, letter: Letter) -> None:
        """Called in paho's thread."""
        if len(self._letters) >= self._limit and letter.done is None:
            self.dropped += 1
            if not self._drop_oldest():
                return
        self._letters.append(letter)
        if self._bell is not None:
            self._bell.ring()

    def _drop_oldest(self) -> bool:
        """Whether there is room for one more message of QoS 0."""
        with contextlib.suppress(IndexError):  # the reader was faster and took it
            oldest = self._letters.popleft()
            if oldest.done is not None:
                self._letters.appendleft(oldest)
                return False
        return True

    def close(self) -> None:
        """End `batches` when what is queued has been read."""
        self._closed = True
        self._arrived.set()

    async def batches(self) -> AsyncIterator[list[Letter]]:
        """Everything that waits, each time that something does."""
        while True:
            self._arrived.clear()
            batch = self._take()
            if batch:
                yield batch
                await asyncio.sleep(0)  # a stream without end must not starve the others
            elif self._closed:
                return
            else:
                await self._arrived.wait()

    def _take(self) -> list[Letter]:
        batch: list[Letter] = []
        with contextlib.suppress(IndexError):
            while len(batch) < self._limit:
                batch.append(self._letters.popleft())
        return batch
