"""What a release must pass before it may run: versions, digests, and whether it fits a device.

Pure rules, used on both sides: the coordinator signs by these names, the device checks by them.
Signatures and delegations are checked by python-tuf; this module adds what TUF leaves open: a
memory of versions that survives damaged metadata (TUF specification 1.0, section 5.1 asks for
it), the check of a blob against the signed manifest, and the contract with the device. No I/O.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping

import msgspec

from aimass_shared.errors import (
    BadDigestError,
    MalformedMessageError,
    ReleaseRollbackError,
    UnfitReleaseError,
)
from aimass_shared.manifest import FileRef, Manifest, SliceEntry
from aimass_shared.slices import Board, fits
from aimass_shared.topics import check_segment

ROOT = "root"
TARGETS = "targets"
SNAPSHOT = "snapshot"
TIMESTAMP = "timestamp"
TOP_ROLES = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)

METADATA_ROUTE = "/tuf/metadata"
TARGETS_ROUTE = "/tuf/targets"
BLOBS_ROUTE = "/blobs"

# A field of our own in the signed timestamp: when it was signed, UTC ms. TUF metadata says only
# when it ends, and a device without a clock battery needs to know that it is at least this late.
SIGNED_AT_FIELD = "aimass_signed_at"

_DIGEST = re.compile(r"[0-9a-f]{64}")


def channel_role(channel: str) -> str:
    """Name of the delegated role that signs the releases of a channel."""
    return f"channel-{check_segment(channel, 'channel')}"


def channel_pattern(channel: str) -> str:
    """Target paths that a channel's role may sign: `<channel>/<model>/<release>.json`."""
    return f"{check_segment(channel, 'channel')}/*/*"


def check_channel(channel: str, path: str) -> None:
    """Check that a target path belongs to a channel and to nothing above or beside it.

    Raises:
        UnfitReleaseError: the path is of another channel, or is no path of a release.
    """
    parts = path.split("/")
    try:
        for part in parts:
            check_segment(part, "part of a target path")
    except MalformedMessageError as error:
        raise UnfitReleaseError(f"{path!r} is no path of a release: {error.detail}") from error
    if len(parts) != len(channel_pattern(channel).split("/")) or parts[0] != channel:
        raise UnfitReleaseError(
            f"{path!r} is not of channel {channel}: a device takes releases of its channel only"
        )


def check_digest(text: str) -> str:
    """Return `text` if it is a SHA-256 in lower-case hex, and so may stand in a path.

    Raises:
        BadDigestError: it is not.
    """
    if not _DIGEST.fullmatch(text):
        raise BadDigestError(f"{text[:80]!r} is no SHA-256 in 64 lower-case hex digits")
    return text


def blob_route(sha256: str) -> str:
    """Route of a blob on the coordinator."""
    return f"{BLOBS_ROUTE}/{check_digest(sha256)}"


class Floor(msgspec.Struct, frozen=True):
    """The lowest metadata versions that a device still accepts: the highest that it has seen.

    Attributes:
        anchor: SHA-256 of the root metadata that the device was enrolled with. Enrolment elsewhere
            is a new trust decision, so a floor counts only for its own anchor.
        versions: highest version seen, by role.
        time_ms: latest time that a signature vouches for, UTC ms.
    """

    anchor: str = ""
    versions: dict[str, int] = {}
    time_ms: int = 0


def check_floor(floor: Floor, seen: Floor) -> Floor:
    """Compare verified metadata with the floor; returns the floor from now on.

    Raises:
        ReleaseRollbackError: a role is older than this device has already seen.
    """
    if floor.anchor != seen.anchor:
        return seen
    for role, version in seen.versions.items():
        if version < floor.versions.get(role, 0):
            raise ReleaseRollbackError(
                f"{role} metadata has version {version}, this device has already seen"
                f" {floor.versions[role]}: someone replays old metadata, or the coordinator was"
                " restored from a backup (then enrol the device again)"
            )
    return Floor(
        anchor=floor.anchor,
        versions=_highest(floor.versions, seen.versions),
        time_ms=max(floor.time_ms, seen.time_ms),
    )


def _highest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {
        role: max(one.get(role, 0), other.get(role, 0)) for role in sorted({*one.keys(), *other})
    }


def latest_time_ms(clock_ms: int, *vouched_ms: int) -> int:
    """The time to judge expiry by: a clock may be behind (no battery), signatures are not."""
    return max(clock_ms, *vouched_ms, 0)


class DigestCheck:
    """Compares a stream of bytes with a signed length and SHA-256, without keeping it."""

    def __init__(self, ref: FileRef) -> None:
        self._ref = ref
        self._hash = hashlib.sha256()
        self._size = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            BadDigestError: there are more than the signed length.
        """
        self._size += len(chunk)
        if self._size > self._ref.size:
            raise BadDigestError(
                f"{self._ref.name} has more than its signed {self._ref.size} bytes"
            )
        self._hash.update(chunk)

    def finish(self) -> None:
        """Judge the whole.

        Raises:
            BadDigestError: the length or the SHA-256 is not the signed one.
        """
        if self._size != self._ref.size:
            raise BadDigestError(
                f"{self._ref.name} has {self._size} bytes, signed are {self._ref.size}"
            )
        found = self._hash.hexdigest()
        if found != self._ref.sha256:
            raise BadDigestError(
                f"{self._ref.name} has SHA-256 {found}, signed is {self._ref.sha256}"
            )


def verify_blob(chunks: Iterable[bytes], ref: FileRef) -> None:
    """Check a whole file, in pieces or in one, against its signed length and SHA-256.

    Raises:
        BadDigestError: it is not the signed file.
    """
    check = DigestCheck(ref)
    for chunk in chunks:
        check.update(chunk)
    check.finish()


def check_fit(
    manifest: Manifest, name: str, board: Board, *, sensors: Collection[str] | None
) -> SliceEntry:
    """The slice with a name, if this device can run it.

    Args:
        manifest: of the release.
        name: of the slice.
        board: what the device gives to models.
        sensors: names of the channels that the device records; None where it records none of its
            own and only answers requests, which bring their own values.

    Raises:
        UnfitReleaseError: the slice does not exist, lacks a file, does not fit the board, or needs
            a sensor that the device does not record.
    """
    try:
        entry = manifest.entry(name)
        for ref in (*map(entry.file, manifest.contract.needs), *entry.files):
            check_digest(ref.sha256)
    except (MalformedMessageError, BadDigestError) as error:
        raise UnfitReleaseError(f"release {manifest.release}: {error.detail}") from error
    _check_board(entry, board)
    _check_sensors(manifest, sensors)
    return entry


def _check_board(entry: SliceEntry, board: Board) -> None:
    if fits(board, entry.spec, entry.cost):
        return
    raise UnfitReleaseError(
        f"slice {entry.spec.name} does not fit {board.name}: it needs"
        f" {entry.cost.memory_mib:.0f} MiB and {entry.spec.precision}; the board gives"
        f" {board.memory_mib:.0f} MiB and {' or '.join(board.precisions)}"
    )


def _check_sensors(manifest: Manifest, sensors: Collection[str] | None) -> None:
    if sensors is None:
        return
    missing = [sensor.name for sensor in manifest.contract.sensors if sensor.name not in sensors]
    if missing:
        raise UnfitReleaseError(
            f"release {manifest.release} needs {len(missing)} sensors that this device does not"
            f" record, such as {', '.join(missing[:3])}: add them to source.sensors"
        )
