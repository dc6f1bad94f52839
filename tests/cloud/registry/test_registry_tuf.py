"""The signed repository on the disk: who signs what, crashes, ageing, and what is served."""

import json
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import pytest
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

from aimass_cloud.models import files
from aimass_cloud.registry import SigningKeys, TufRepository
from aimass_cloud.registry import keys as keys_module
from aimass_cloud.registry import tuf as tuf_module
from aimass_shared.errors import (
    ConflictError,
    NotFoundError,
    StateCorruptError,
    StorageFullError,
    UnfitReleaseError,
)
from aimass_shared.trust import SIGNED_AT_FIELD

OpenTuf = Callable[[], TufRepository]


class Clock(Protocol):
    now: datetime

    def advance(self, **amount: float) -> None: ...


PATH = "stable/tep-monitor/r1.json"


def read(tuf: TufRepository, name: str) -> Metadata[Any]:
    metadata: Metadata[Any] = Metadata.from_bytes(tuf.metadata(name))
    return metadata


def versions(tuf: TufRepository) -> dict[str, int]:
    """Version of each role, followed from the timestamp as a client does, digests checked."""
    timestamp = read(tuf, "timestamp.json").signed
    found = {"timestamp": timestamp.version, "snapshot": timestamp.snapshot_meta.version}
    raw = tuf.metadata(f"{found['snapshot']}.snapshot.json")
    timestamp.snapshot_meta.verify_length_and_hashes(raw)
    for name, meta in read(tuf, f"{found['snapshot']}.snapshot.json").signed.meta.items():
        meta.verify_length_and_hashes(tuf.metadata(f"{meta.version}.{name}"))
        found[name.removesuffix(".json")] = meta.version
    return found


def test_first_start_makes_all_roles(open_tuf: OpenTuf) -> None:
    tuf = open_tuf()
    assert versions(tuf) == {"timestamp": 1, "snapshot": 1, "targets": 1}
    root = read(tuf, "1.root.json")
    assert tuf.root() == tuf.metadata("1.root.json")
    assert root.signed.consistent_snapshot
    assert len({role.keyids[0] for role in root.signed.roles.values()}) == 4, "a key a role"
    for role in ("root", "targets", "snapshot", "timestamp"):
        name = "timestamp.json" if role == "timestamp" else f"1.{role}.json"
        document = read(tuf, name)
        root.signed.verify_delegate(role, document.signed_bytes, document.signatures)


def test_keys_are_readable_by_us_only(open_tuf: OpenTuf, tmp_path: Path) -> None:
    open_tuf().publish("stable", PATH, b"{}")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "keys").iterdir()}
    names = ("channel-stable", "root", "snapshot", "targets", "timestamp")
    assert modes == {f"{name}.pem": 0o600 for name in names}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_release_is_signed_by_its_channel_only(open_tuf: OpenTuf) -> None:
    tuf = open_tuf()
    tuf.publish("stable", PATH, b'{"a": 1}')
    tuf.publish("beta", "beta/tep-monitor/r1.json", b'{"b": 1}')
    assert versions(tuf)["channel-stable"] == 1
    targets = read(tuf, f"{versions(tuf)['targets']}.targets.json").signed
    rule = targets.delegations.roles["channel-stable"]
    assert (rule.terminating, rule.paths) == (True, ["stable/*/*"])
    stable = read(tuf, "1.channel-stable.json")
    targets.verify_delegate("channel-stable", stable.signed_bytes, stable.signatures)
    with pytest.raises(UnsignedMetadataError):
        targets.verify_delegate("channel-beta", stable.signed_bytes, stable.signatures)
    info = stable.signed.targets[PATH]
    body = tuf.target(f"stable/tep-monitor/{info.hashes['sha256']}.r1.json")
    info.verify_length_and_hashes(body)
    assert body == b'{"a": 1}'


@pytest.mark.parametrize("path", ["beta/tep-monitor/r1.json", "stable/r1.json", "stable/a/../b"])
def test_path_of_another_channel_is_not_signed(open_tuf: OpenTuf, path: str) -> None:
    tuf = open_tuf()
    before = versions(tuf)
    with pytest.raises(UnfitReleaseError):
        tuf.publish("stable", path, b"{}")
    assert versions(tuf) == before


def test_release_never_changes(open_tuf: OpenTuf) -> None:
    tuf = open_tuf()
    tuf.publish("stable", PATH, b"{}")
    with pytest.raises(ConflictError):
        tuf.publish("stable", PATH, b'{"other": 1}')


def test_restart_goes_on_where_it_was(open_tuf: OpenTuf) -> None:
    tuf = open_tuf()
    tuf.publish("stable", PATH, b"{}")
    before = versions(tuf)
    again = open_tuf()
    assert versions(again) == before
    assert again.root() == tuf.root()
    again.publish("stable", "stable/tep-monitor/r2.json", b"{}")
    after = versions(again)
    assert after["channel-stable"] == before["channel-stable"] + 1
    assert after["targets"] == before["targets"]
    assert after["timestamp"] == before["timestamp"] + 1


class CrashError(Exception):
    """The process is gone."""


@pytest.mark.parametrize("survives", range(16))
def test_crash_at_any_write_of_a_start_or_release(
    open_tuf: OpenTuf, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    left = survives
    real = files.write_whole

    def write(path: Path, data: bytes) -> None:
        nonlocal left
        if left == 0:
            raise CrashError
        left -= 1
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(tuf_module, "write_whole", write)
        patch.setattr(keys_module, "write_whole", write)
        try:
            open_tuf().publish("stable", PATH, b"{}")
            crashed = False
        except CrashError:
            crashed = True
    assert crashed == (survives < 14), "4 keys, 4 roles; 1 key, 4 roles, 1 manifest"
    tuf = open_tuf()
    if "channel-stable" not in versions(tuf):
        tuf.publish("stable", PATH, b"{}")
    assert (
        PATH in read(tuf, f"{versions(tuf)['channel-stable']}.channel-stable.json").signed.targets
    )


def test_full_disk_changes_nothing(open_tuf: OpenTuf, monkeypatch: pytest.MonkeyPatch) -> None:
    tuf = open_tuf()
    before = versions(tuf)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFullError):
            tuf.publish("stable", PATH, b"{}")
    assert versions(tuf) == before
    tuf.publish("stable", PATH, b"{}")
    assert versions(tuf)["channel-stable"] == 1


def test_lost_key_is_said_and_not_replaced(open_tuf: OpenTuf, tmp_path: Path) -> None:
    open_tuf()
    (tmp_path / "keys" / "snapshot.pem").unlink()
    with pytest.raises(StateCorruptError, match="restore it from the backup"):
        open_tuf()
    assert not (tmp_path / "keys" / "snapshot.pem").exists()


def test_damaged_metadata_is_said(open_tuf: OpenTuf, tmp_path: Path) -> None:
    open_tuf()
    (tmp_path / "tuf" / "metadata" / "1.targets.json").write_bytes(b"{")
    with pytest.raises(StateCorruptError, match=r"1\.targets\.json"):
        open_tuf()


def test_key_file_is_made_once(tmp_path: Path) -> None:
    keys = SigningKeys(tmp_path / "keys")
    first = keys.create("root").public_key.keyid
    assert keys.create("root").public_key.keyid == first == keys.load("root").public_key.keyid


def test_timestamp_is_signed_again_at_half_of_its_life(open_tuf: OpenTuf, clock: Clock) -> None:
    tuf = open_tuf()
    clock.advance(hours=11)
    assert tuf.refresh_timestamp() == []
    clock.advance(hours=2)
    assert tuf.refresh_timestamp() == ["timestamp"]
    assert versions(tuf) == {"timestamp": 2, "snapshot": 1, "targets": 1}
    stamp = read(tuf, "timestamp.json").signed
    assert stamp.unrecognized_fields[SIGNED_AT_FIELD] == clock.now.timestamp() * 1000
    assert tuf.refresh_timestamp() == []


def test_coordinator_that_was_off_for_long_comes_back_whole(
    open_tuf: OpenTuf, clock: Clock
) -> None:
    tuf = open_tuf()
    tuf.publish("stable", PATH, b"{}")
    before = versions(tuf)
    clock.advance(days=300)
    tuf = open_tuf()
    after = versions(tuf)
    assert after == {role: version + 1 for role, version in before.items()}
    for role, version in after.items():
        name = "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
        assert not read(tuf, name).signed.is_expired(clock.now)
    new, old = read(tuf, "2.root.json"), read(tuf, "1.root.json")
    old.signed.verify_delegate("root", new.signed_bytes, new.signatures)
    assert tuf.root() == tuf.metadata("2.root.json")
    assert versions(open_tuf()) == after


@pytest.mark.parametrize(
    "name",
    ["", "2.root.json", "../keys/root.pem", "root.pem", ".hidden.json", "a/b.json", "x" * 300],
)
def test_nothing_but_metadata_is_served(open_tuf: OpenTuf, name: str) -> None:
    with pytest.raises(NotFoundError):
        open_tuf().metadata(name)


@pytest.mark.parametrize(
    "path",
    ["stable/tep-monitor/r1.json", "../../keys/root.pem", "stable/../" + "0" * 64 + ".r1.json"],
)
def test_nothing_but_targets_is_served(open_tuf: OpenTuf, path: str) -> None:
    tuf = open_tuf()
    tuf.publish("stable", PATH, b"{}")
    with pytest.raises(NotFoundError):
        tuf.target(path)


def test_metadata_is_compact(open_tuf: OpenTuf) -> None:
    tuf = open_tuf()
    raw = tuf.metadata("timestamp.json")
    assert len(raw) < 600
    assert json.loads(raw)["signed"]["_type"] == "timestamp"
