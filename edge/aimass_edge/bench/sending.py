"""Tells the coordinator what was measured, over HTTPS with the device's own token.

The coordinator keeps the newest of each slice, so sending again does no harm. What it has not
answered for is kept in a file and goes with the next report: nothing is lost, and the agent's
outbox, which belongs to its process, is not touched.
"""

from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path

import httpx
import msgspec

from aimass_edge.durable import replace_durably
from aimass_edge.enroll import Identity
from aimass_edge.update.fetch import Origin
from aimass_shared.errors import CloudUnavailableError, ForbiddenError, StorageError
from aimass_shared.messages import Measurements, SliceMeasured, encode

FILE = "measurements.json"
MOST_SENT = 256
MOST_KEPT = 1000
REASON_CHARS = 200


def origin_of(identity: Identity) -> Origin:
    """Where this device's coordinator is, and how it is spoken to."""
    https = identity.cloud_url.startswith("https")
    return Origin(
        url=identity.cloud_url,
        root=identity.tuf_root(),
        channel=identity.channel,
        bearer=identity.bearer,
        ca_file=identity.tls_files().ca if https else "",
    )


class Reporter:
    """Sends measurements of one device; `data_dir` has those that wait."""

    def __init__(self, identity: Identity, data_dir: Path) -> None:
        self._device = identity.device
        self._origin = origin_of(identity)
        self._waiting = data_dir / FILE

    async def send(self, measured: Iterable[SliceMeasured]) -> int:
        """Send these and those that wait; gives how many the coordinator has now.

        Raises:
            CloudUnavailableError: it does not answer; all wait for the next call.
            ForbiddenError: it does not take them from this device; they wait too.
            StorageError: they cannot be kept.
        """
        rows = _newest([*self._kept(), *measured])
        self._keep(rows)
        async with self._origin.client() as client:
            for at in range(0, len(rows), MOST_SENT):
                await self._post(client, rows[at : at + MOST_SENT])
        self._waiting.unlink(missing_ok=True)
        return len(rows)

    async def _post(self, client: httpx.AsyncClient, rows: list[SliceMeasured]) -> None:
        route = f"/api/v1/devices/{self._device}/measurements"
        headers = {
            "authorization": f"Bearer {self._origin.bearer()}",
            "content-type": "application/json",
        }
        body = encode(Measurements(measured=tuple(rows)))
        try:
            answer = await client.post(route, content=body, headers=headers)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise CloudUnavailableError(f"{self._origin.url} gave no answer: {why}") from error
        if answer.is_success:
            return
        refused = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        kind = ForbiddenError if answer.status_code in refused else CloudUnavailableError
        told = answer.text[:REASON_CHARS]
        raise kind(f"{self._origin.url} answers {answer.status_code} to measurements: {told}")

    def _kept(self) -> list[SliceMeasured]:
        """What an earlier report left; a damaged file has nothing in it."""
        try:
            return msgspec.json.decode(self._waiting.read_bytes(), type=list[SliceMeasured])
        except (OSError, msgspec.DecodeError):
            return []

    def _keep(self, rows: list[SliceMeasured]) -> None:
        try:
            replace_durably(self._waiting, msgspec.json.encode(rows))
        except OSError as error:
            raise StorageError(f"{self._waiting} cannot be written: {error.strerror}") from error


def _newest(rows: list[SliceMeasured]) -> list[SliceMeasured]:
    """The newest of each slice and batch, the latest measured last."""
    ordered = sorted(rows, key=lambda row: row.at)
    newest = {(row.release, row.slice, row.batch): row for row in ordered}
    return sorted(newest.values(), key=lambda row: row.at)[-MOST_KEPT:]
