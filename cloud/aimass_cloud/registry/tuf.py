"""The TUF repository on the disk (TUF specification 1.0): who may sign what, and the publishing.

Roles root, targets, snapshot, timestamp, and one terminating delegated role a channel, which may
sign `<channel>/*/*` only. Snapshots are consistent: every file but `timestamp.json` has its version
or digest in its name and never changes, so replacing `timestamp.json` is the commit of a change.
Built on tuf.api.metadata; `tuf.repository` is not stable API. Transport is `api`'s.
"""

import copy
import re
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from aimass_cloud.config import TrustSettings
from aimass_cloud.models.files import write_whole
from aimass_cloud.registry.keys import SigningKeys
from aimass_shared.errors import ConflictError, NotFoundError, StateCorruptError
from aimass_shared.trust import (
    ROOT,
    SIGNED_AT_FIELD,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    TOP_ROLES,
    channel_pattern,
    channel_role,
    check_channel,
)

Roles = dict[str, Metadata[Any]]
Clock = Callable[[], datetime]

_METADATA_NAME = re.compile(r"(?:[1-9][0-9]*\.)?[A-Za-z0-9][A-Za-z0-9_.-]*\.json")
_TARGET_PATH = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.-]*/){2}[0-9a-f]{64}\.[A-Za-z0-9_.-]+")


def system_clock() -> datetime:
    """Now, in whole seconds as TUF wants it."""
    return datetime.now(UTC).replace(microsecond=0)


class TufRepository:
    """Signed metadata and the manifests that it names. Blocks on the disk; safe in threads."""

    def __init__(
        self, folder: Path, keys: SigningKeys, trust: TrustSettings, *, clock: Clock = system_clock
    ) -> None:
        self._metadata = folder / "metadata"
        self._targets = folder / "targets"
        self._keys = keys
        self._clock = clock
        self._lives = {
            ROOT: timedelta(days=trust.root_days),
            SNAPSHOT: timedelta(days=trust.snapshot_days),
            TIMESTAMP: timedelta(hours=trust.timestamp_hours),
        }
        self._targets_life = timedelta(days=trust.targets_days)
        self._roles: Roles = {}
        self._lock = threading.Lock()

    def open(self) -> None:
        """Load what is there, or make it; re-sign what has become old. May run any number of times.

        Raises:
            StateCorruptError: a file or a key is damaged or gone.
        """
        with self._lock:
            self._roles = self._load() if self._path(TIMESTAMP).exists() else self._create()
        self.refresh_timestamp()

    def root(self) -> bytes:
        """The root metadata that a device is enrolled with."""
        return self._path(ROOT, self._roles[ROOT].signed.version).read_bytes()

    def publish(self, channel: str, path: str, data: bytes) -> None:
        """Sign a manifest for a channel, and publish it durably.

        Raises:
            UnfitReleaseError: the path is not of the channel.
            ConflictError: the path is taken: releases never change.
        """
        check_channel(channel, path)
        role = channel_role(channel)
        with self._lock:
            roles = copy.deepcopy(self._roles)
            changed = self._delegate(roles, channel)
            if path in roles[role].signed.targets:
                raise ConflictError(f"{path} is published already, and releases never change")
            target = TargetFile.from_data(path, data, ["sha256"])
            folder, _, name = path.rpartition("/")
            write_whole(self._targets / folder / f"{target.hashes['sha256']}.{name}", data)
            roles[role].signed.targets[path] = target
            self._commit(roles, {*changed, role})

    def refresh_timestamp(self) -> list[str]:
        """Sign again what has lived for half of its life; returns those roles. Cheap if none has.

        The timestamp is due most often, but without the others devices would stop a week later.
        """
        with self._lock:
            due = [role for role in self._roles if self._is_due(role)]
            if due:
                roles = copy.deepcopy(self._roles)
                if ROOT in due:
                    self._sign(roles, ROOT)
                self._commit(roles, due)
            return due

    def metadata(self, name: str) -> bytes:
        """A metadata file, such as `timestamp.json` or `3.targets.json`.

        Raises:
            NotFoundError: there is none of that name.
        """
        return _read(self._metadata, name, _METADATA_NAME)

    def target(self, path: str) -> bytes:
        """A manifest by `<channel>/<model>/<sha256>.<release>.json`.

        Raises:
            NotFoundError: there is none of that path.
        """
        return _read(self._targets, path, _TARGET_PATH)

    def _create(self) -> Roles:
        """The first version of everything; what a crash left of an earlier try is used."""
        roles: Roles = {
            TARGETS: _unsigned(Targets()),
            SNAPSHOT: _unsigned(Snapshot()),
            TIMESTAMP: _unsigned(Timestamp()),
        }
        if self._path(ROOT, 1).exists():
            roles[ROOT] = _parse(self._path(ROOT, 1))
        else:
            root = Root(consistent_snapshot=True)
            for role in TOP_ROLES:
                root.add_key(self._keys.create(role).public_key, role)
            roles[ROOT] = _unsigned(root)
            self._sign(roles, ROOT)
        self._commit(roles, [TARGETS])
        return roles

    def _load(self) -> Roles:
        timestamp = _parse(self._path(TIMESTAMP))
        snapshot = _parse(self._path(SNAPSHOT, timestamp.signed.snapshot_meta.version))
        roles: Roles = {TIMESTAMP: timestamp, SNAPSHOT: snapshot}
        for name, meta in snapshot.signed.meta.items():
            role = name.removesuffix(".json")
            roles[role] = _parse(self._path(role, meta.version))
        version = 1
        while self._path(ROOT, version + 1).exists():
            version += 1
        roles[ROOT] = _parse(self._path(ROOT, version))
        for role in roles:
            self._keys.load(role)
        return roles

    def _delegate(self, roles: Roles, channel: str) -> set[str]:
        """Let a channel's own role sign its paths; returns the roles that this changed."""
        role = channel_role(channel)
        if role in roles:
            return set()
        targets = roles[TARGETS].signed
        if targets.delegations is None:
            targets.delegations = Delegations({}, {})
        rule = DelegatedRole(role, [], 1, terminating=True, paths=[channel_pattern(channel)])
        targets.delegations.roles[role] = rule
        targets.add_key(self._keys.create(role).public_key, role)
        roles[role] = _unsigned(Targets())
        return {TARGETS, role}

    def _commit(self, roles: Roles, changed: Iterable[str]) -> None:
        """Sign and write what changed, then what vouches for it, the timestamp last.

        Memory follows the disk: after a failure both are as before, and the files of the failed
        try, which nothing names, are written over by the next.
        """
        snapshot = roles[SNAPSHOT].signed
        documents = [role for role in changed if role not in {ROOT, SNAPSHOT, TIMESTAMP}]
        for role in sorted(documents):
            data = self._sign(roles, role)
            snapshot.meta[f"{role}.json"] = _meta(roles[role], data)
        if documents or SNAPSHOT in changed or not snapshot.version:
            data = self._sign(roles, SNAPSHOT)
            roles[TIMESTAMP].signed.snapshot_meta = _meta(roles[SNAPSHOT], data)
        self._sign(roles, TIMESTAMP)
        self._roles = roles

    def _sign(self, roles: Roles, role: str) -> bytes:
        """Write the next version of a role's metadata; returns its bytes."""
        metadata, now = roles[role], self._clock()
        metadata.signed.version += 1
        metadata.signed.expires = now + self._life(role)
        if role == TIMESTAMP:
            stamp_ms = int(now.timestamp() * 1000)
            metadata.signed.unrecognized_fields[SIGNED_AT_FIELD] = stamp_ms
        metadata.signatures.clear()
        metadata.sign(self._keys.load(role))
        data = metadata.to_bytes(JSONSerializer(compact=True))
        write_whole(self._path(role, metadata.signed.version), data)
        return data

    def _is_due(self, role: str) -> bool:
        left: timedelta = self._roles[role].signed.expires - self._clock()
        return left < self._life(role) / 2

    def _life(self, role: str) -> timedelta:
        return self._lives.get(role, self._targets_life)

    def _path(self, role: str, version: int = 0) -> Path:
        name = f"{role}.json" if role == TIMESTAMP else f"{version}.{role}.json"
        return self._metadata / name


def _unsigned(signed: Root | Targets | Snapshot | Timestamp) -> Metadata[Any]:
    """Metadata before its first version: signing makes it version 1."""
    signed.version = 0
    return Metadata(signed)


def _parse(path: Path) -> Metadata[Any]:
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    except (OSError, RepositoryError) as error:
        raise StateCorruptError(
            f"the signed metadata {path} cannot be read ({error}): restore data_dir from its backup"
        ) from error
    return metadata


def _meta(metadata: Metadata[Any], data: bytes) -> MetaFile:
    return MetaFile.from_data(metadata.signed.version, data, ["sha256"])


def _read(folder: Path, name: str, pattern: re.Pattern[str]) -> bytes:
    """A file below `folder`; the pattern leaves no way out of it."""
    try:
        if pattern.fullmatch(name):
            return (folder / name).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        pass
    raise NotFoundError(f"there is nothing signed of the name {name[:200]!r}")
