import stat
from pathlib import Path

import pytest
from sqlalchemy import select

from aimass_cloud.access import Keys
from aimass_cloud.store import Store
from aimass_cloud.store.tables import ApiKeyRow
from aimass_shared.errors import (
    ConflictError,
    MalformedMessageError,
    NotFoundError,
    UnauthenticatedError,
)


@pytest.fixture
def keys(store: Store) -> Keys:
    return Keys(store)


async def test_a_key_is_who_it_was_made_for(keys: Keys) -> None:
    new = await keys.create("dashboard", ["fleet:read", "model:read"])
    principal = await keys.verify(new.key)
    assert (principal.kind, principal.id) == ("key", new.id)
    assert principal.allows("fleet:read")
    assert not principal.allows("fleet:write")


async def test_the_secret_is_nowhere_in_the_store(keys: Keys, store: Store) -> None:
    new = await keys.create("dashboard", ["infer"])
    secret = new.key.split("_", 2)[2]
    async with store.reading() as session:
        row = (await session.scalars(select(ApiKeyRow))).one()
    assert secret not in str(vars(row))
    assert secret not in str(await keys.list())


def _swap_end(text: str) -> str:
    return text[:-1] + ("A" if text[-1] != "A" else "B")


async def test_what_is_no_key_is_refused_alike(keys: Keys) -> None:
    new = await keys.create("dashboard", ["infer"])
    unknown = f"aimass_{'0' * 12}_{new.key.split('_', 2)[2]}"
    said = set()
    for text in ("aimass_", "aimass_x_y", unknown, _swap_end(new.key), new.key + "x"):
        with pytest.raises(UnauthenticatedError) as caught:
            await keys.verify(text)
        said.add(caught.value.detail)
    assert len(said) == 1


async def test_a_revoked_key_ends_at_once(keys: Keys) -> None:
    new = await keys.create("dashboard", ["infer"])
    await keys.verify(new.key)
    await keys.revoke(new.id)
    with pytest.raises(UnauthenticatedError):
        await keys.verify(new.key)
    assert [(key.id, key.revoked) for key in await keys.list()] == [(new.id, True)]


async def test_wrong_orders_are_refused(keys: Keys) -> None:
    await keys.create("dashboard", ["infer"])
    with pytest.raises(ConflictError, match="dashboard"):
        await keys.create("dashboard", ["infer"])
    with pytest.raises(MalformedMessageError, match="fleet:fly"):
        await keys.create("other", ["fleet:fly"])
    with pytest.raises(MalformedMessageError, match="none given"):
        await keys.create("other", [])
    for name in ("", "x" * 65):
        with pytest.raises(MalformedMessageError, match="name"):
            await keys.create(name, ["infer"])
    with pytest.raises(NotFoundError):
        await keys.revoke("nobody")


async def test_the_first_start_writes_the_admin_key_once(keys: Keys, tmp_path: Path) -> None:
    path = await keys.ensure_admin_key(tmp_path / "data")
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await keys.verify(text.strip())).allows("rollout:write")
    assert await keys.ensure_admin_key(tmp_path / "data") == path
    assert path.read_text() == text
    assert [entry.name for entry in path.parent.iterdir()] == ["admin.key"]


async def test_an_admin_key_that_a_crash_left_without_its_row_is_replaced(
    keys: Keys, tmp_path: Path
) -> None:
    (tmp_path / "admin.key").write_text("aimass_of_another_life")
    path = await keys.ensure_admin_key(tmp_path)
    assert (await keys.verify(path.read_text().strip())).allows("admin")


async def test_a_revoked_admin_key_does_not_come_back(keys: Keys, tmp_path: Path) -> None:
    path = await keys.ensure_admin_key(tmp_path)
    principal = await keys.verify(path.read_text().strip())
    await keys.revoke(principal.id)
    path.unlink()
    await keys.ensure_admin_key(tmp_path)
    assert not path.exists()
