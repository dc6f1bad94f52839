"""A short memory for rows that every request asks for. Not shared between processes.

What another process changes is seen after `seconds`; that bounds how long a revoked credential
still works.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by name that are loaded again when they are older than `seconds`."""

    def __init__(
        self,
        load: Callable[[str], Awaitable[T | None]],
        seconds: float,
        *,
        max_entries: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._seconds = seconds
        self._max_entries = max_entries
        self._clock = clock
        self._entries: dict[str, tuple[float, T]] = {}

    async def get(self, name: str) -> T | None:
        """The value, or None if there is none; absence is not remembered."""
        entry = self._entries.get(name)
        if entry is not None and self._clock() < entry[0]:
            return entry[1]
        value = await self._load(name)
        self.forget(name)
        if value is not None:
            self._entries[name] = (self._clock() + self._seconds, value)
            self._trim()
        return value

    def forget(self, name: str) -> None:
        """Load this one again next time."""
        self._entries.pop(name, None)

    def _trim(self) -> None:
        while len(self._entries) > self._max_entries:
            del self._entries[next(iter(self._entries))]
