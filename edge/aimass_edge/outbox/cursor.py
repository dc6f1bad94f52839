"""What of one stream to send next: the sender's rule, without clock, disk or network.

A PUBACK proves nothing (a broker that dies forgets what it has acknowledged), and a stream of
acknowledgements that do not advance is no progress either. So only the cloud's `upto` moves the
confirmed end, and without such progress for `rewind_ms` everything unconfirmed is sent again.
"""

from collections import deque
from typing import NamedTuple


class Want(NamedTuple):
    """Read up to `rows` rows with `id > position`; say in the batch that they follow `after`."""

    position: int
    after: int
    rows: int


class _Sent(NamedTuple):
    last: int
    rows: int


class Cursor:
    """The position in one stream. Times are milliseconds of any clock that only grows."""

    def __init__(self, *, window_rows: int, batch_rows: int, rewind_ms: int) -> None:
        self._window_rows = window_rows
        self._batch_rows = batch_rows
        self._rewind_ms = rewind_ms
        self._position = 0
        self._flying: deque[_Sent] = deque()
        self._progress_ms = 0.0
        self.confirmed = 0
        self.rewinds = 0

    @property
    def in_flight(self) -> int:
        """Rows that were sent and are not confirmed."""
        return sum(sent.rows for sent in self._flying)

    def want(self, now_ms: float) -> Want | None:
        """What to read and send now; None while the window is full."""
        self._rewind_if_stuck(now_ms)
        room = min(self._batch_rows, self._window_rows - self.in_flight)
        if room <= 0:
            return None
        # With nothing in flight all earlier rows are confirmed or gone: a fresh start for the peer.
        return Want(self._position, self._position if self._flying else 0, room)

    def sent(self, last: int, rows: int, now_ms: float) -> None:
        """`rows` rows, the last with id `last`, are with the broker."""
        if last <= self._position:
            return  # they were confirmed while they were being sent
        if not self._flying:
            self._progress_ms = now_ms
        self._flying.append(_Sent(last, rows))
        self._position = last

    def acked(self, upto: int, now_ms: float) -> bool:
        """The cloud has stored every row with `id <= upto`. Whether that is news."""
        if upto <= self.confirmed:
            return False
        self.confirmed = upto
        self._progress_ms = now_ms
        while self._flying and self._flying[0].last <= upto:
            self._flying.popleft()
        self._position = max(self._position, upto)
        return True

    def idle_until(self) -> float | None:
        """When it will rewind if nothing happens; None with nothing in flight."""
        return self._progress_ms + self._rewind_ms if self._flying else None

    def _rewind_if_stuck(self, now_ms: float) -> None:
        until = self.idle_until()
        if until is not None and now_ms >= until:
            self._position = self.confirmed
            self._flying.clear()
            self.rewinds += 1
