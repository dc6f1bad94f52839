"""The waiting line before the worker: telemetry first, but never only telemetry.

Pure. Two first-in-first-out lanes; a burst on one of them cannot starve the other.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")
TELEMETRY_IN_A_ROW = 4


class Lanes(Generic[T]):
    """Two lanes with one exit: at most four of telemetry in a row while a request waits."""

    def __init__(self) -> None:
        self._telemetry: deque[T] = deque()
        self._requests: deque[T] = deque()
        self._in_a_row = 0

    def __len__(self) -> int:
        """Items that wait on both lanes."""
        return len(self._telemetry) + len(self._requests)

    def put(self, item: T, *, telemetry: bool) -> None:
        """Queue an item at the end of its lane."""
        (self._telemetry if telemetry else self._requests).append(item)

    def take(self) -> T | None:
        """The item whose turn it is; None when nothing waits."""
        yields = bool(self._requests) and self._in_a_row >= TELEMETRY_IN_A_ROW
        if self._telemetry and not yields:
            self._in_a_row += 1
            return self._telemetry.popleft()
        self._in_a_row = 0
        return self._requests.popleft() if self._requests else None

    def remove(self, item: T) -> bool:
        """Take an item out of line; False if it is not there any more."""
        for lane in (self._telemetry, self._requests):
            if item in lane:
                lane.remove(item)
                return True
        return False
