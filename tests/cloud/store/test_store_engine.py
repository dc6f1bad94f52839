import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text, update
from sqlalchemy.exc import IntegrityError

from aimass_cloud.store import Store, engine
from aimass_cloud.store.tables import JobRow, StreamRow, Table
from aimass_shared.errors import OverloadedError


def _job(name: str) -> JobRow:
    return JobRow(id=name, kind="train", state="running", created=1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite+aiosqlite:///{tmp_path}/deep/aimass.db") as opened:
        await opened.migrate()
        yield opened


async def test_migrations_make_the_tables_of_the_code(store: Store) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), Table.metadata))

    async with store.reading() as session:
        connection = await session.connection()
        assert await connection.run_sync(differences) == []


async def test_migrating_again_keeps_the_rows(store: Store) -> None:
    async with store.session() as session:
        session.add(_job("a"))
    await store.migrate()
    async with store.reading() as session:
        assert await session.get(JobRow, "a") is not None


BROKEN_REVISION = """
from alembic import op
import sqlalchemy as sa
revision, down_revision = "r9999", "r0002"
def upgrade():
    op.create_table("half", sa.Column("id", sa.Integer))
    raise ZeroDivisionError
"""


async def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tables(connection: Connection) -> list[str]:
        return inspect(connection).get_table_names()

    scripts = tmp_path / "migrations"
    shutil.copytree(engine.MIGRATIONS, scripts)
    (scripts / "versions" / "r9999_broken.py").write_text(BROKEN_REVISION)
    async with Store(f"sqlite+aiosqlite:///{tmp_path}/aimass.db") as store:
        monkeypatch.setattr(engine, "MIGRATIONS", scripts)
        with pytest.raises(ZeroDivisionError):
            await store.migrate()
        async with store.reading() as session:
            assert await (await session.connection()).run_sync(tables) == []
        monkeypatch.undo()
        await store.migrate()


async def test_sqlite_is_set_up_for_durability_and_concurrency(store: Store) -> None:
    async with store.reading() as session:
        found = {
            name: (await session.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 10_000,
    }


async def test_an_error_rolls_everything_back(store: Store) -> None:
    async def fail() -> None:
        async with store.session() as session:
            session.add(_job("a"))
            await session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with store.reading() as session:
        assert await session.get(JobRow, "a") is None


async def test_reading_changes_nothing(store: Store) -> None:
    async with store.reading() as session:
        session.add(_job("a"))
        await session.flush()
    async with store.reading() as session:
        assert await session.get(JobRow, "a") is None


async def test_rows_stay_readable_after_their_session(store: Store) -> None:
    async with store.session() as session:
        session.add(_job("a"))
    async with store.reading() as session:
        read = await session.get_one(JobRow, "a")
    async with store.session() as session:
        written = await session.get_one(JobRow, "a")
        written.message = "changed"
    assert (read.message, written.message) == ("", "changed")


async def test_a_row_for_an_unknown_device_is_refused(store: Store) -> None:
    with pytest.raises(IntegrityError):
        async with store.session() as session:
            session.add(StreamRow(device="nobody", stream="predictions", epoch="e", upto=1))


async def test_readers_see_a_consistent_view_beside_a_writer(store: Store) -> None:
    async with store.session() as session:
        session.add(_job("a"))
    async with store.reading() as before:
        assert (await before.get_one(JobRow, "a")).progress == 0.0
        async with store.session() as writer:
            await writer.execute(update(JobRow).values(progress=1.0))
        before.expire_all()
        assert (await before.get_one(JobRow, "a")).progress == 0.0
    async with store.reading() as after:
        assert (await after.get_one(JobRow, "a")).progress == 1.0


async def test_no_update_is_lost_among_concurrent_read_modify_writes(store: Store) -> None:
    async with store.session() as session:
        session.add(_job("a"))

    async def add_one() -> None:
        async with store.session() as session:
            row = await session.get_one(JobRow, "a")
            row.progress = row.progress + 1

    await asyncio.gather(*(add_one() for _ in range(100)))
    async with store.reading() as session:
        assert (await session.get_one(JobRow, "a")).progress == 100


async def test_two_processes_worth_of_stores_share_one_file(store: Store, tmp_path: Path) -> None:
    async with Store(f"sqlite+aiosqlite:///{tmp_path}/deep/aimass.db") as other:

        async def add(where: Store, name: str) -> None:
            async with where.session() as session:
                session.add(_job(name))

        names = [f"{number}" for number in range(20)]
        await asyncio.gather(*(add(store, f"a{n}") for n in names), *(add(other, n) for n in names))
        async with other.reading() as session:
            count = (await session.execute(text("SELECT count(*) FROM jobs"))).scalar_one()
    assert count == 40


async def test_a_session_inside_a_session_is_refused_at_once(store: Store) -> None:
    async with store.session():
        with pytest.raises(RuntimeError, match="inside"):
            async with store.session():
                pass
    async with store.session() as session:  # and the outer one let go
        session.add(_job("a"))


async def test_a_writer_that_never_ends_is_an_error_for_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.05)

    async def wait() -> None:
        async with store.session():
            pass

    async with store.session():
        with pytest.raises(OverloadedError, match="busy"):
            await asyncio.create_task(wait())
