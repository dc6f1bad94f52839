"""API keys of people and programs: made, listed, checked, revoked. Only hashes are stored.

A key reads `aimass_<id>_<secret>`. The secret has 256 random bits, so a plain SHA-256 of it is
enough: there is nothing to guess.
"""

import hashlib
import hmac
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from aimass_cloud.access.cache import Recent
from aimass_cloud.access.principal import ADMIN, SCOPES, Principal
from aimass_cloud.store import Store
from aimass_cloud.store.tables import ApiKeyRow
from aimass_shared.errors import (
    ConflictError,
    MalformedMessageError,
    NotFoundError,
    UnauthenticatedError,
)

PREFIX = "aimass_"
ADMIN_FILE = "admin.key"
_KEY = re.compile(r"aimass_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class KeyInfo(msgspec.Struct, frozen=True):
    """A key without its secret. `created` is UTC milliseconds since 1970."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created: int
    revoked: bool


class NewKey(msgspec.Struct, frozen=True):
    """A key that was just made: the only time that its text is known."""

    id: str
    name: str
    scopes: tuple[str, ...]
    key: str


class _Known(msgspec.Struct, frozen=True):
    secret_sha256: str
    principal: Principal


class Keys:
    """The API keys in the store; a revoked one stops at once here, elsewhere after `cache_s`."""

    def __init__(self, store: Store, *, cache_s: float = 5.0) -> None:
        self._store = store
        self._known: Recent[_Known] = Recent(self._load, cache_s)

    async def create(self, name: str, scopes: Iterable[str]) -> NewKey:
        """Make a key.

        Raises:
            MalformedMessageError: no name, or a scope that does not exist.
            ConflictError: another key has that name.
        """
        key = _new_key(name, scopes)
        await self._add(key)
        return key

    async def list(self) -> list[KeyInfo]:
        """All keys, oldest first, without their secrets."""
        async with self._store.reading() as session:
            rows = await session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.created))
            return [
                KeyInfo(
                    id=row.id,
                    name=row.name,
                    scopes=tuple(row.scopes),
                    created=row.created,
                    revoked=row.revoked,
                )
                for row in rows
            ]

    async def revoke(self, key_id: str) -> None:
        """End a key for ever.

        Raises:
            NotFoundError: there is no such key.
        """
        statement = update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(revoked=True)
        async with self._store.session() as session:
            found = await session.scalar(statement.returning(ApiKeyRow.id))
        self._known.forget(key_id)
        if found is None:
            raise NotFoundError(f"there is no key {key_id[:32]!r}")

    async def verify(self, text: str) -> Principal:
        """Who a key belongs to.

        Raises:
            UnauthenticatedError: it is malformed, unknown or revoked (not said which).
        """
        match = _KEY.fullmatch(text)
        known = await self._known.get(match[1]) if match else None
        if match is None or known is None:
            raise UnauthenticatedError("the API key is not valid (any more)")
        if not hmac.compare_digest(known.secret_sha256, _sha256(match[2])):
            raise UnauthenticatedError("the API key is not valid (any more)")
        return known.principal

    async def ensure_admin_key(self, data_dir: Path) -> Path:
        """On the first start, make the admin's key and write it to `admin.key` (mode 0600).

        The file comes first: a crash in between leaves a dead file that the next start replaces,
        never a key that nobody knows. A key that was revoked later does not come back.
        """
        path = data_dir / ADMIN_FILE
        async with self._store.reading() as session:
            found = await session.scalar(select(ApiKeyRow.id).where(ApiKeyRow.name == ADMIN))
        if found is None:
            key = _new_key(ADMIN, [ADMIN])
            _write_private(path, f"{key.key}\n")
            await self._add(key)
        return path

    async def _add(self, key: NewKey) -> None:
        row = ApiKeyRow(
            id=key.id,
            name=key.name,
            secret_sha256=_sha256(key.key.split("_", 2)[2]),
            scopes=list(key.scopes),
            created=time.time_ns() // 1_000_000,
        )
        try:
            async with self._store.session() as session:
                session.add(row)
        except IntegrityError as error:
            raise ConflictError(f"there is a key named {key.name!r} already") from error

    async def _load(self, key_id: str) -> _Known | None:
        async with self._store.reading() as session:
            row = await session.get(ApiKeyRow, key_id)
        if row is None or row.revoked:
            return None
        return _Known(row.secret_sha256, Principal("key", row.id, frozenset(row.scopes)))


def _new_key(name: str, scopes: Iterable[str]) -> NewKey:
    wanted = tuple(sorted(set(scopes)))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        raise MalformedMessageError(
            f"no such scope: {', '.join(unknown) or '(none given)'};"
            f" there are {', '.join(sorted(SCOPES))}"
        )
    if not 0 < len(name) <= ApiKeyRow.name.type.length:
        raise MalformedMessageError("a key needs a name of 1-64 characters")
    key_id = secrets.token_hex(6)
    return NewKey(key_id, name, wanted, f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, whole or not at all (mkstemp makes it 0600)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    Path(name).replace(path)
