"""Connections and transactions of the coordinator's database; no tables, no queries.

SQLite on its own disk is the default, Postgres (asyncpg) a URL away: nothing here but the connect
hook and the writers' lock knows which one it is.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from aimass_shared.errors import OverloadedError

logger = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 10.0
_READ_ONLY = "aimass_read_only"
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    # A device deletes what we acknowledge: a commit must survive a power cut.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}",
)


class Store:
    """The database behind `url`, such as `sqlite+aiosqlite:////var/lib/aimass/aimass.db`.

    `session()` is for work that writes, `reading()` for work that only reads. Keep both short:
    no network, no training inside. Never open one `session()` inside another.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._engine = create_async_engine(self._url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        if self._sqlite:
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(self._engine.sync_engine, "begin", _begin_sqlite)
        self._writing = async_sessionmaker(self._engine, expire_on_commit=False)
        self._reading = async_sessionmaker(
            self._engine.execution_options(**{_READ_ONLY: True}), expire_on_commit=False
        )
        self._writer = asyncio.Lock()
        self._owner: asyncio.Task[object] | None = None

    async def __aenter__(self) -> Self:
        """Make the directory of a SQLite file; connections open when they are needed."""
        if self._sqlite and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """One transaction that may write: commits at the end, rolls back on any error.

        Raises:
            OverloadedError: another writer held the database for longer than `BUSY_SECONDS`.
        """
        async with self._turn(), self._writing() as session, session.begin():
            yield session

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """One consistent view for reading, beside any writer; what it changed is thrown away."""
        async with self._reading() as session:
            yield session

    async def migrate(self) -> None:
        """Bring the tables to the version of this code; all of it or nothing."""
        async with self._turn(), self._engine.begin() as connection:
            await connection.run_sync(_upgrade)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Let SQLite's writers queue here, in order: its own lock is polled and unfair."""
        if not self._sqlite:
            yield
            return
        await self._take_turn()
        try:
            yield
        finally:
            self._owner = None
            self._writer.release()

    async def _take_turn(self) -> None:
        task = asyncio.current_task()
        if self._owner is not None and self._owner is task:
            raise RuntimeError("a session() inside a session() would wait for itself: pass it on")
        try:
            async with asyncio.timeout(BUSY_SECONDS):
                await self._writer.acquire()
        except TimeoutError as error:
            raise OverloadedError(
                f"the database was busy for {BUSY_SECONDS:.0f} s; try again"
            ) from error
        self._owner = task


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Durable and concurrent settings; the driver must not begin transactions by itself."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock first: a reader that turns writer later could only fail."""
    reading = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
