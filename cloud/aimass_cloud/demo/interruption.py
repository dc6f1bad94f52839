"""Ctrl-C and SIGTERM: the first one cancels what runs, more of them change nothing.

A second Ctrl-C must not interrupt the clean-up that the first one asked for: that would leave the
processes which the person wants to be rid of.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Self, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Interruption:
    """Takes the signals of the process for as long as the `with` block lasts (main thread only).

    The handlers are Python's own and not the event loop's, so that they also hold before the loop
    starts and after it has ended, while files are removed.
    """

    def __init__(self) -> None:
        self.happened = False
        self._before: dict[signal.Signals, _Handler] = {}
        self._cancel: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        """Take the signals."""
        self._before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(self, *_error: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    async def cancels(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of some work, or None if a signal came first and the work has cleaned up."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if self.happened:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            if not self.happened:
                raise
            return None
        finally:
            self._cancel = lambda: None

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if not self.happened:
            self.happened = True
            self._cancel()
