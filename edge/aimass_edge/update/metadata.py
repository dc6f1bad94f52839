"""Which manifest is the signed one: python-tuf's client, with what it leaves open added.

python-tuf checks signatures, thresholds, delegations and expiry (TUF specification 1.0, section
5). Added are: a total deadline and size limits on its requests (its own fetcher limits only the
gap between two bytes), a version floor that survives a power cut (its files are not flushed), and
a clock that may be wrong (no battery). Its target download is not used: not atomic, not resumable.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import anyio.from_thread
import anyio.to_thread
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import (
    Metadata,
    Signed,
    Snapshot,
    TargetFile,
)
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from aimass_edge.update.fetch import Link, Origin, refused
from aimass_shared import trust
from aimass_shared.errors import (
    BadDigestError,
    BadSignatureError,
    BodyTooLargeError,
    DownloadFailedError,
    ReleaseRollbackError,
)
from aimass_shared.manifest import MAX_MANIFEST_BYTES
from aimass_shared.trust import Floor, check_channel, check_floor, latest_time_ms

DEADLINE_S = 60.0
Clock = Callable[[], int]


def system_clock_ms() -> int:
    """The machine's time, UTC ms."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Trusted:
    """Bytes of a manifest that a channel's role signed, and the floor from now on."""

    manifest: bytes
    floor: Floor


class MetadataClient:
    """Signed metadata of one coordinator, cached below `folder`."""

    def __init__(self, folder: Path, origin: Origin, clock: Clock = system_clock_ms) -> None:
        self._anchor = hashlib.sha256(origin.root).hexdigest()
        # Another root of trust is another repository: its versions must not meet.
        self._folder = folder / self._anchor[:16]
        self._origin = origin
        self._clock = clock

    async def manifest(self, link: Link, path: str, floor: Floor) -> Trusted:
        """Fetch the manifest at a target path.

        Args:
            link: to the coordinator.
            path: `<channel>/<model>/<release>.json`.
            floor: versions that were seen before.

        Raises:
            BadSignatureError: metadata is altered, signed by another key, expired, or does not
                name the path.
            BadDigestError: the manifest is not the signed one.
            ReleaseRollbackError: metadata is older than what was seen before.
            UnfitReleaseError: the path is of another channel.
            LinkError: the coordinator does not answer, or not in time.
        """
        check_channel(self._origin.channel, path)
        try:
            with anyio.fail_after(DEADLINE_S):
                target = await anyio.to_thread.run_sync(self._refresh, link, path)
                risen = self._check_seen(floor)
                return Trusted(await _read_target(link, target), risen)
        except TimeoutError as error:
            raise DownloadFailedError(f"metadata is not whole after {DEADLINE_S:.0f} s") from error

    def _refresh(self, link: Link, path: str) -> TargetFile:
        """Run python-tuf, which blocks: in a worker thread of the event loop that has `link`."""
        try:
            target = self._updater(link).get_targetinfo(path)
        except tuf_errors.BadVersionNumberError as error:
            raise ReleaseRollbackError(f"metadata goes back in time: {error}") from error
        except tuf_errors.ExpiredMetadataError as error:
            now = _iso(self._clock())
            raise BadSignatureError(f"{error}; the device's clock says {now}") from error
        except (tuf_errors.RepositoryError, BodyTooLargeError) as error:
            raise BadSignatureError(f"metadata is not what the keys signed: {error}") from error
        except tuf_errors.DownloadHTTPError as error:
            raise DownloadFailedError(str(error)) from error
        if target is None:
            raise BadSignatureError(f"{path} is not signed: it was withdrawn, or never released")
        return target

    def _updater(self, link: Link) -> Updater:
        self._folder.mkdir(parents=True, exist_ok=True)
        return Updater(
            str(self._folder),
            metadata_base_url=trust.METADATA_ROUTE,
            fetcher=_Fetcher(link),
            bootstrap=self._origin.root,
        )

    def _check_seen(self, floor: Floor) -> Floor:
        """Judge what python-tuf has just verified and kept by our own floor and clock."""
        seen = _Seen(self._folder, trust.channel_role(self._origin.channel))
        risen = check_floor(floor, seen.floor(self._anchor))
        now_ms = latest_time_ms(self._clock(), risen.time_ms)
        for role, signed in seen.signed.items():
            if signed.is_expired(datetime.fromtimestamp(now_ms / 1000, timezone.utc)):
                raise BadSignatureError(
                    f"{role} metadata is expired at {_iso(now_ms)}, the latest time that is known"
                    f" here (the device's clock says {_iso(self._clock())})"
                )
        return risen


class _Seen:
    """The metadata that python-tuf has verified in this run; it has no public door to it."""

    def __init__(self, folder: Path, role: str) -> None:
        self.signed = {
            name: _read_signed(folder / f"{name}.json") for name in (*trust.TOP_ROLES, role)
        }

    def floor(self, anchor: str) -> Floor:
        """Versions and the time that they stand for."""
        stamp = self.signed[trust.TIMESTAMP].unrecognized_fields.get(trust.SIGNED_AT_FIELD, 0)
        snapshot = cast("Snapshot", self.signed[trust.SNAPSHOT])
        versions = {name: signed.version for name, signed in self.signed.items()}
        listed = {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}
        return Floor(anchor, listed | versions, int(stamp))


class _Fetcher(FetcherInterface):
    """python-tuf's requests, run in the event loop so that deadlines cut them at once."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A whole body of at most `max_length` bytes."""
        answer = anyio.from_thread.run(self._link.read, url, max_length)
        if answer.status != HTTPStatus.OK:
            # python-tuf asks for the next root until it hears 404.
            raise tuf_errors.DownloadHTTPError(refused(url, answer.status).detail, answer.status)
        return answer.body

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, MAX_MANIFEST_BYTES)


async def _read_target(link: Link, target: TargetFile) -> bytes:
    """The signed bytes; names carry the digest, so that a mix of two releases cannot be served."""
    folder, _, name = target.path.rpartition("/")
    route = f"{trust.TARGETS_ROUTE}/{folder}/{target.hashes['sha256']}.{name}"
    try:
        answer = await link.read(route, min(target.length, MAX_MANIFEST_BYTES))
        if answer.status != HTTPStatus.OK:
            raise refused(route, answer.status)
        target.verify_length_and_hashes(answer.body)
    except (tuf_errors.LengthOrHashMismatchError, BodyTooLargeError) as error:
        raise BadDigestError(f"manifest {target.path} is not the signed one: {error}") from error
    return answer.body


def _read_signed(path: Path) -> Signed:
    metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    signed: Signed = metadata.signed
    return signed


def _iso(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms / 1000, timezone.utc)
    return moment.isoformat(timespec="seconds")
