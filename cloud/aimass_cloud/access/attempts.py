"""Counting failed attempts per address, so that guessing is slow and loud. No I/O inside.

The address is that of the TCP peer: `X-Forwarded-For` is not trusted, so behind a proxy all
callers share one count. Successful callers are never counted.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from aimass_shared.errors import TooManyAttemptsError


class _Count(NamedTuple):
    since: float
    failures: int


class Attempts:
    """Failures per address in windows of `window_s` seconds; remembers `max_addresses` of them."""

    def __init__(
        self,
        limit: int = 20,
        window_s: float = 60.0,
        *,
        max_addresses: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._max_addresses = max_addresses
        self._clock = clock
        self._counts: dict[str, _Count] = {}

    def failed(self, address: str) -> None:
        """Count one failure; the oldest address is forgotten when there are too many."""
        count = self._current(address)
        self._counts.pop(address, None)
        self._counts[address] = count._replace(failures=count.failures + 1)
        while len(self._counts) > self._max_addresses:
            del self._counts[next(iter(self._counts))]

    def check(self, address: str) -> None:
        """Refuse an address that failed too often.

        Raises:
            TooManyAttemptsError: `limit` failures were counted in the current window.
        """
        count = self._current(address)
        if count.failures >= self._limit:
            left = count.since + self._window_s - self._clock()
            raise TooManyAttemptsError(
                f"too many failed attempts from {address or 'here'}; wait {max(1, round(left))} s"
            )

    def _current(self, address: str) -> _Count:
        now = self._clock()
        count = self._counts.get(address)
        if count is None or now - count.since >= self._window_s:
            return _Count(since=now, failures=0)
        return count
