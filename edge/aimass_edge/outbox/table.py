"""The outbox's database file: plain SQLite calls, all from one thread; nothing here waits or sends.

WAL with synchronous=FULL: a committed row survives a power cut, which costs one flush per commit,
so callers commit in groups. A file that SQLite cannot read is moved aside, never deleted.
"""

import logging
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_log = logging.getLogger(__name__)

_SCHEMA = """
create table if not exists meta(key text primary key, value text not null);
create table if not exists outbox(
  id integer primary key autoincrement, stream text not null, body blob not null);
create index if not exists outbox_by_stream on outbox(stream);
"""
_DROP_OLDEST = """
delete from outbox where id in (select id from outbox where stream=? order by id limit ?)
"""


class Row(NamedTuple):
    """One row: `body` is JSON."""

    id: int
    stream: str
    body: bytes


class OutboxTable:
    """Rows of all streams, and the epoch under which their ids are unique."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.epoch = ""
        self.count = 0
        self.last_id = 0

    def open(self) -> None:
        """Open or create the file; one that is damaged is moved aside and a new epoch begins.

        Raises:
            sqlite3.OperationalError: the place cannot be written.
        """
        try:
            self._db = self._open()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            aside = self._path.with_suffix(f".damaged-{int(time.time())}")
            self._path.rename(aside)
            _log.error("outbox %s is damaged (%s); kept as %s", self._path, error, aside.name)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=30)
        try:
            db.execute("pragma journal_mode=wal")
            db.execute("pragma synchronous=full")
            db.executescript(_SCHEMA)
            db.execute("insert or ignore into meta values('epoch', ?)", (uuid.uuid4().hex,))
            self.epoch = db.execute("select value from meta where key='epoch'").fetchone()[0]
            (self.count,) = db.execute("select count(*) from outbox").fetchone()
            (self.last_id,) = db.execute(
                "select coalesce(max(seq), 0) from sqlite_sequence"
            ).fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the file; what was committed is on the disk."""
        self._db.close()

    def streams(self) -> list[str]:
        """Names of the streams that have rows."""
        return [name for (name,) in self._db.execute("select distinct stream from outbox")]

    def commit(self, rows: Sequence[Row], acked: Mapping[str, int], max_rows: int) -> Counter[str]:
        """Add rows and delete acknowledged ones in one transaction.

        Over `max_rows` the oldest rows of the streams that grew make room; returns how many.

        Raises:
            sqlite3.OperationalError: the disk is full or failing; nothing has changed.
        """
        count, dropped = self.count, Counter[str]()
        self._db.execute("begin immediate")
        try:
            for stream, upto in acked.items():
                where = "delete from outbox where stream=? and id<=?"
                count -= self._db.execute(where, (stream, upto)).rowcount
            self._db.executemany("insert into outbox(id, stream, body) values(?,?,?)", rows)
            count += len(rows)
            for stream, _ in Counter(row.stream for row in rows).most_common():
                dropped[stream] = self._drop_oldest(stream, count - max_rows)
                count -= dropped[stream]
            self._db.execute("commit")
        except BaseException:
            self._db.execute("rollback") if self._db.in_transaction else None
            raise
        self.count = count
        self.last_id = rows[-1].id if rows else self.last_id
        return +dropped

    def _drop_oldest(self, stream: str, rows: int) -> int:
        if rows <= 0:
            return 0
        return self._db.execute(_DROP_OLDEST, (stream, rows)).rowcount

    def drop(self, row_id: int) -> None:
        """Delete one row that can never be sent."""
        self.count -= self._db.execute("delete from outbox where id=?", (row_id,)).rowcount

    def read(self, stream: str, after: int, limit: int) -> list[Row]:
        """Up to `limit` rows of a stream with `id > after`, in order."""
        query = "select id, stream, body from outbox where stream=? and id>? order by id limit ?"
        return [Row(*row) for row in self._db.execute(query, (stream, after, limit))]
