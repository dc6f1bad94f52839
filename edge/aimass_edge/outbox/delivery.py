"""The outbox in the event loop: rows in, groups to disk, batches to the broker, acks to deletion.

A row is deleted only when the cloud says that it has stored it (`StreamAck` of our epoch). What it
does not do: decide which rows are worth keeping, or connect; it sends through any `Publisher`.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, final

import msgspec

from aimass_edge.config import OutboxSettings
from aimass_edge.outbox.cursor import Cursor, Want
from aimass_edge.outbox.table import OutboxTable, Row
from aimass_shared import messages, topics
from aimass_shared.errors import (
    BodyTooLargeError,
    BrokerUnavailableError,
    MalformedMessageError,
    StorageFullError,
)
from aimass_shared.messages import StreamBatch

_log = logging.getLogger(__name__)

MAX_BATCH_BYTES = 256 << 10
MAX_BODY_BYTES = 240 << 10
_ROW_BYTES = 32  # JSON around one body
_HEAD_BYTES = 1 << 10  # epoch, topic, headers
_RETRY_S = 1.0
_T = TypeVar("_T")


class Publisher(Protocol):
    """What the outbox needs of a bus."""

    def on_connect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call `callback` after each connect."""

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False
    ) -> None:
        """Send; at QoS 1 return after the PUBACK. Raises BrokerUnavailableError."""


class _Waiting(NamedTuple):
    row: Row
    committed: asyncio.Future[int] | None


@final
class Outbox:
    """Durable rows on their way to the cloud. `async with` opens the file and the writer."""

    def __init__(self, path: Path, settings: OutboxSettings) -> None:
        self._settings = settings
        self._table = OutboxTable(path)
        self._cursors: dict[str, Cursor] = {}
        self._waiting: deque[_Waiting] = deque()
        self._committing = 0
        self._began: float | None = None
        self._batch_bytes = MAX_BATCH_BYTES
        self._acked: dict[str, int] = {}
        self._next_id = 1
        self._todo = asyncio.Event()
        self._news = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self.dropped: Counter[str] = Counter()

    async def __aenter__(self) -> "Outbox":
        """Open the file; rows of an earlier life are sent first.

        Raises:
            StorageFullError: the file cannot be written.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aimass-outbox")
        try:
            await self._in_thread(self._table.open)
            streams = await self._in_thread(self._table.streams)
        except sqlite3.OperationalError as error:
            self._thread.shutdown()
            raise StorageFullError(f"outbox cannot be opened, check its folder: {error}") from error
        self._next_id = self._table.last_id + 1
        for stream in streams:
            self._cursor(stream)
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Commit what waits, and close."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait({self._writer})
        await self._commit()
        await self._in_thread(self._table.close)
        self._thread.shutdown()

    @property
    def epoch(self) -> str:
        """Name of this database; ids are unique within it."""
        return self._table.epoch

    @property
    def rewinds(self) -> int:
        """How often unacknowledged rows were sent again for lack of progress."""
        return sum(cursor.rewinds for cursor in self._cursors.values())

    def pending(self) -> int:
        """Rows that the cloud has not acknowledged."""
        return self._table.count + self._committing + len(self._waiting)

    def committing_s(self) -> float:
        """How long the commit that is under way has taken; 0 where none is."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    async def put(self, stream: str, body: bytes) -> int:
        """Add a row of JSON; returns its id when it is on the disk.

        Raises:
            BodyTooLargeError, MalformedMessageError: the body can never be sent.
            StorageFullError: the disk is full or failing; the row is not kept.
        """
        committed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._add(stream, body, committed)
        return await committed

    def put_nowait(self, stream: str, body: bytes) -> int:
        """Add a row of JSON; it is on the disk after at most `commit_ms` and a flush.

        Raises:
            BodyTooLargeError, MalformedMessageError: the body can never be sent.
        """
        return self._add(stream, body, None)

    def on_ack(self, ack: messages.StreamAck, stream: str = "predictions") -> None:
        """The cloud has stored the rows of a stream up to `ack.upto`: they may go."""
        cursor = self._cursors.get(stream)
        if ack.epoch != self.epoch or cursor is None or ack.upto > self._table.last_id:
            _log.debug("ack of %s up to %d is not ours", stream, ack.upto)
            return
        if cursor.acked(ack.upto, _now_ms()):
            self._acked[stream] = ack.upto
            self._todo.set()
        self._news.set()

    async def run(self, bus: Publisher, device: str) -> None:
        """Send for ever. Cancel it to stop; nothing is lost by that."""
        bus.on_connect(self._wake)
        while True:
            self._news.clear()
            try:
                busy = [await self._send_one(bus, device, name) for name in list(self._cursors)]
            except BrokerUnavailableError:
                await self._wait(_RETRY_S)
            else:
                if not any(busy):
                    await self._wait(self._quiet_s())

    async def _wake(self) -> None:
        self._news.set()

    async def _wait(self, seconds: float | None) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)

    def _quiet_s(self) -> float | None:
        """How long nothing needs to be done unless rows or acks come; None = for ever."""
        ends = [
            end for cursor in self._cursors.values() if (end := cursor.idle_until()) is not None
        ]
        return max(0.0, min(ends) - _now_ms()) / 1000 if ends else None

    async def _send_one(self, bus: Publisher, device: str, stream: str) -> bool:
        """Send one batch of a stream; False if there is none to send now."""
        cursor = self._cursors[stream]
        want = cursor.want(_now_ms())
        if want is None:
            return False
        rows = await self._in_thread(lambda: self._table.read(stream, want.position, want.rows))
        rows = _fitting(rows, self._batch_bytes)
        if not rows:
            return False
        try:
            await self._publish(bus, topics.stream(device, stream), (want, rows))
        except BodyTooLargeError as error:
            await self._shrink(rows, error)
        else:
            cursor.sent(rows[-1].id, len(rows), _now_ms())
        return True

    async def _shrink(self, rows: list[Row], error: BodyTooLargeError) -> None:
        """The broker takes less than we thought: smaller batches; a row that never fits goes."""
        if len(rows) > 1:
            self._batch_bytes //= 2
            return
        _log.error("a row of %s can never be sent and goes: %s", rows[0].stream, error)
        self.dropped[rows[0].stream] += 1
        await self._in_thread(lambda: self._table.drop(rows[0].id))

    async def _publish(self, bus: Publisher, topic: str, batch: tuple[Want, list[Row]]) -> None:
        want, rows = batch
        items = tuple(messages.StreamItem(row.id, msgspec.Raw(row.body)) for row in rows)
        message = StreamBatch(epoch=self.epoch, items=items, after=want.after)
        await bus.publish(topic, messages.encode(message), qos=1)

    def _cursor(self, stream: str) -> Cursor:
        settings = self._settings
        return self._cursors.setdefault(
            stream,
            Cursor(
                window_rows=settings.window_rows,
                batch_rows=settings.batch_rows,
                rewind_ms=settings.rewind_ms,
            ),
        )

    def _add(self, stream: str, body: bytes, committed: "asyncio.Future[int] | None") -> int:
        _check(stream, body)
        row = Row(self._next_id, stream, body)
        self._next_id += 1
        if len(self._waiting) >= self._settings.max_rows:
            self._refuse(self._waiting.popleft(), "the disk is slower than the rows come")
        self._waiting.append(_Waiting(row, committed))
        self._todo.set()
        return row.id

    async def _write(self) -> None:
        """Group commit: whoever comes within `commit_ms` shares one flush."""
        while True:
            await self._todo.wait()
            await asyncio.sleep(self._settings.commit_ms / 1000)
            await asyncio.shield(self._commit())

    async def _commit(self) -> None:
        self._todo.clear()
        group, self._waiting = self._waiting, deque()
        acked, self._acked = self._acked, {}
        self._committing, self._began = len(group), time.monotonic()
        try:
            dropped = await self._in_thread(lambda: self._store(group, acked))
        except sqlite3.OperationalError as error:
            _log.error("outbox cannot be written, %d rows are lost: %s", len(group), error)
            self._acked = {**acked, **self._acked}
            for waiting in group:
                self._refuse(waiting, str(error))
        else:
            self._committed(group, dropped)
        finally:
            self._committing, self._began = 0, None

    def _store(self, group: "deque[_Waiting]", acked: Mapping[str, int]) -> "Counter[str]":
        rows = [waiting.row for waiting in group]
        return self._table.commit(rows, acked, self._settings.max_rows)

    def _committed(self, group: "deque[_Waiting]", dropped: "Counter[str]") -> None:
        if dropped and not self.dropped:
            _log.error("outbox is full (%d rows): the oldest rows go", self._settings.max_rows)
        self.dropped += dropped
        for row, committed in group:
            self._cursor(row.stream)
            if committed is not None and not committed.done():
                committed.set_result(row.id)
        self._news.set()

    def _refuse(self, waiting: _Waiting, why: str) -> None:
        self.dropped[waiting.row.stream] += 1
        if waiting.committed is not None and not waiting.committed.done():
            waiting.committed.set_exception(StorageFullError(f"outbox row is not kept: {why}"))

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _check(stream: str, body: bytes) -> None:
    """Refuse at the door what would make every batch that holds it unreadable."""
    topics.check_segment(stream, "stream")
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLargeError(f"row of {stream} has {len(body)} bytes, limit {MAX_BODY_BYTES}")
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        raise MalformedMessageError(f"row of {stream} is not JSON: {error}") from error


def _fitting(rows: list[Row], most: int) -> list[Row]:
    """As many of the first rows as one message of `most` bytes may hold; at least one."""
    sizes = accumulate(len(row.body) + _ROW_BYTES for row in rows)
    return rows[: max(1, sum(size < most - _HEAD_BYTES for size in sizes))]


def _now_ms() -> float:
    return time.monotonic() * 1000
