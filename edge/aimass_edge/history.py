"""The device's private rows, a ring on disk: what federated rounds learn from; they never leave.

Rows are appended in batches and read as segments without gaps. Nothing here imputes: a missing
value is stored as 0 with mask 0, a missing row splits a segment. Losing the last moment of rows in
a power cut costs nothing (synchronous=NORMAL), unlike a row of the outbox.
"""

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, final

import numpy as np
from numpy.typing import NDArray

from aimass_edge.config import HistorySettings
from aimass_shared.errors import BadTensorError, NotFoundError, StorageFullError
from aimass_shared.windows import Row

_log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Segment = tuple[Floats, Floats]
_T = TypeVar("_T")

_SCHEMA = """
create table if not exists layout(key integer primary key check (key = 0), text text not null);
create table if not exists rows(time_ms integer primary key, data blob not null);
create table if not exists suspects(time_ms integer primary key);
"""
_USABLE = """
select time_ms, data from rows where time_ms not in (select time_ms from suspects) order by time_ms
"""
_FORGET_SUSPECTS = "delete from suspects where time_ms < (select min(time_ms) from rows)"
_DROP_OLDEST = """
delete from rows where time_ms in (select time_ms from rows order by time_ms limit ?)
"""

_SINCE = "select time_ms, data from rows where time_ms >= ? order by time_ms limit ?"
_LAST_BEFORE = "select time_ms, data from rows where time_ms < ? order by time_ms desc limit ?"


@final
class History:
    """Rows of `sensors` every `step_ms`. `async with` opens the file.

    A file of other sensors or another step is moved aside as `<name>.before`, as its rows have
    another meaning; so is one that SQLite cannot read.
    """

    def __init__(
        self, path: Path, sensors: Sequence[str], step_ms: int, *, settings: HistorySettings
    ) -> None:
        self.step_ms = step_ms
        self._path = path
        self._places = {name: place for place, name in enumerate(sensors)}
        self._layout = json.dumps([list(sensors), step_ms])
        self._max_rows = settings.max_rows
        self._count = 0

    async def __aenter__(self) -> "History":
        """Open or create the file.

        Raises:
            StorageFullError: it cannot be written.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aimass-history")
        try:
            await self._in_thread(self._open)
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the file."""
        await self._in_thread(self._close)
        self._thread.shutdown()

    def count(self) -> int:
        """Rows on the disk."""
        return self._count

    async def append(self, rows: Sequence[Row]) -> None:
        """Add rows; a time that is there already keeps its row; the oldest make room.

        Raises:
            BadTensorError: a row has not exactly our sensors.
            StorageFullError: the disk is full or failing; none of the rows is kept.
        """
        width = len(self._places)
        for row in rows:
            if row.values.shape != (width,) or row.mask.shape != (width,):
                raise BadTensorError(
                    f"a row of history has {width} sensors, not {row.values.shape}"
                )
        packed = [(row.time_ms, _pack(row)) for row in rows]
        await self._in_thread(lambda: self._append(packed))

    async def before(self, time_ms: int, count: int) -> list[Row]:
        """The last `count` rows before a time, oldest first; there may be gaps between them.

        Raises:
            StorageFullError: the disk is failing.
        """
        return await self._in_thread(lambda: self._before(time_ms, count))

    async def suspect(self, time_ms: int) -> None:
        """Mark the row of a time as one that nothing normal is learnt from; it stays recorded.

        Raises:
            StorageFullError: the disk is full or failing.
        """
        await self._in_thread(lambda: self._suspect(time_ms))

    async def segments(self, sensors: Sequence[str]) -> list[Segment]:
        """All rows in time order, as (values `[T, S]`, mask `[T, S]`) of the sensors asked for.

        A new segment begins where a row is missing or suspect.

        Raises:
            NotFoundError: a sensor is not recorded here.
        """
        places = self._places_of(sensors)
        return await self._in_thread(lambda: self._segments(self._all(_USABLE), places))

    async def since(self, sensors: Sequence[str], time_ms: int, count: int) -> list[Segment]:
        """The first `count` rows from a time on, suspect or not, as `segments` gives them.

        Raises:
            NotFoundError: a sensor is not recorded here.
            StorageFullError: the disk is failing.
        """
        places, asked = self._places_of(sensors), (time_ms, count)
        return await self._in_thread(lambda: self._segments(self._all(_SINCE, asked), places))

    def _places_of(self, sensors: Sequence[str]) -> NDArray[np.intp]:
        unknown = [name for name in sensors if name not in self._places]
        if unknown:
            raise NotFoundError(f"sensors {unknown} are not recorded here: see source.sensors")
        return np.array([self._places[name] for name in sensors], dtype=np.intp)

    def _open(self) -> None:
        try:
            self._db = self._connect()
            if self._read_layout() != self._layout:
                self._db.close()
                self._move_aside("its rows have other sensors or another step")
                self._db = self._connect()
        except sqlite3.OperationalError as error:
            raise StorageFullError(f"history {self._path} cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            self._move_aside(str(error))
            self._db = self._connect()
        (self._count,) = self._db.execute("select count(*) from rows").fetchone()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=30)
        try:
            db.execute("pragma journal_mode=wal")
            db.execute("pragma synchronous=normal")
            db.executescript(_SCHEMA)
            db.execute("insert or ignore into layout values(0, ?)", (self._layout,))
        except BaseException:
            db.close()
            raise
        return db

    def _read_layout(self) -> str:
        text: str = self._db.execute("select text from layout").fetchone()[0]
        return text

    def _move_aside(self, why: str) -> None:
        aside = self._path.with_name(self._path.name + ".before")
        _log.warning("history %s is moved to %s: %s", self._path, aside.name, why)
        self._path.replace(aside)

    def _close(self) -> None:
        self._db.close()

    def _append(self, packed: Sequence[tuple[int, bytes]]) -> None:
        try:
            self._db.execute("begin immediate")
            added = self._db.executemany("insert or ignore into rows values(?,?)", packed).rowcount
            excess = max(0, self._count + added - self._max_rows)
            self._db.execute(_DROP_OLDEST, (excess,))
            if excess:
                self._db.execute(_FORGET_SUSPECTS)
            self._db.execute("commit")
        except sqlite3.OperationalError as error:
            if self._db.in_transaction:
                self._db.execute("rollback")
            raise StorageFullError(f"history cannot be written: {error}") from error
        self._count += added - excess

    def _suspect(self, time_ms: int) -> None:
        try:
            self._db.execute("insert or ignore into suspects values(?)", (time_ms,))
        except sqlite3.OperationalError as error:
            raise StorageFullError(f"history cannot be written: {error}") from error

    def _all(self, query: str, asked: tuple[int, ...] = ()) -> list[tuple[int, bytes]]:
        try:
            return self._db.execute(query, asked).fetchall()
        except sqlite3.OperationalError as error:
            raise StorageFullError(f"history cannot be read: {error}") from error

    def _before(self, time_ms: int, count: int) -> list[Row]:
        found = self._all(_LAST_BEFORE, (time_ms, count))
        values, mask = self._unpack([data for _, data in found])
        times = [time for time, _ in found]
        return [Row(*row) for row in zip(times, values, mask, strict=True)][::-1]

    def _unpack(self, packed: Sequence[bytes]) -> Segment:
        """Values and mask, both [T, S], of rows as `_pack` made them."""
        width = len(self._places)
        table = np.frombuffer(b"".join(packed), dtype=np.uint8).reshape(len(packed), _bytes(width))
        values = table[:, : 4 * width].copy().view("<f4")
        bits = np.unpackbits(table[:, 4 * width :], axis=1, count=width)
        return values, bits.astype(np.float32)

    def _segments(self, rows: list[tuple[int, bytes]], places: NDArray[np.intp]) -> list[Segment]:
        if not rows:
            return []
        times = np.array([time_ms for time_ms, _ in rows], dtype=np.int64)
        values, mask = (table[:, places] for table in self._unpack([data for _, data in rows]))
        cuts = np.flatnonzero(np.diff(times) != self.step_ms) + 1
        ends = [0, *cuts.tolist(), len(rows)]
        return [(values[first:last], mask[first:last]) for first, last in pairwise(ends)]

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _bytes(width: int) -> int:
    """Size of a packed row of so many sensors."""
    return 4 * width + (width + 7) // 8


def _pack(row: Row) -> bytes:
    """Values as little-endian float32, then one bit per sensor for the mask."""
    return row.values.astype("<f4").tobytes() + np.packbits(row.mask > 0).tobytes()
