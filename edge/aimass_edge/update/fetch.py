"""Bytes from the coordinator, bounded in size and time: small ones whole, blobs resumed.

What the bytes are worth is `metadata`'s and `slots`'s to say. Nothing is trusted here but a length
limit and, for a blob, its signed digest. Every error of the network leaves as one of ours.
"""

import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import httpx

from aimass_edge.update.fs import Fs
from aimass_shared.errors import (
    BadDigestError,
    BodyTooLargeError,
    CloudUnavailableError,
    DownloadFailedError,
)
from aimass_shared.manifest import FileRef
from aimass_shared.trust import blob_route, verify_blob

log = logging.getLogger(__name__)

SILENCE_S = 10.0  # longest wait for a connection or for the next bytes of a body
WRITE_BYTES = 1 << 20
RETRY_FIRST_S = 0.5
RETRY_MOST_S = 15.0
PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True)
class Origin:
    """Where releases come from, and the trust in it that enrolment gave.

    Attributes:
        url: of the coordinator. bearer: gives a token that is valid now.
        root: the TUF root metadata of enrolment. channel: whose releases this device takes.
        ca_file: certificate (PEM) of the coordinator's CA; "" for plain HTTP or public CAs.
    """

    url: str
    root: bytes
    channel: str
    bearer: Callable[[], str]
    ca_file: str = ""

    def client(self) -> httpx.AsyncClient:
        """A client that never waits for ever and never unpacks: sizes are those on the wire."""
        verify: ssl.SSLContext | bool = True
        if self.ca_file:
            verify = ssl.create_default_context(cafile=self.ca_file)
        return httpx.AsyncClient(
            base_url=self.url,
            verify=verify,
            timeout=SILENCE_S,
            headers={"accept-encoding": "identity"},
        )


class Answer(NamedTuple):
    """A small response, whole."""

    status: int
    body: bytes


def refused(path: str, status: int) -> DownloadFailedError:
    """The error of a status other than success, with what to do about it."""
    hints: dict[int, str] = {
        HTTPStatus.UNAUTHORIZED: ": check the device's clock, else enrol it again",
        HTTPStatus.FORBIDDEN: ": the device was revoked, or may not read this",
        HTTPStatus.NOT_FOUND: ": it was withdrawn, or is not published yet",
    }
    hint = hints.get(status, "")
    return DownloadFailedError(f"the coordinator answers {status} to {path}{hint}")


class Link:
    """Requests to one coordinator."""

    def __init__(self, client: httpx.AsyncClient, bearer: Callable[[], str]) -> None:
        self._client = client
        self._bearer = bearer

    @asynccontextmanager
    async def get(self, path: str, first_byte: int = 0) -> AsyncIterator[httpx.Response]:
        """A response whose body is not read yet.

        Raises:
            CloudUnavailableError: there is no answer.
            DownloadFailedError: the answer breaks off.
        """
        headers = {"authorization": f"Bearer {self._bearer()}"}
        if first_byte:
            headers["range"] = f"bytes={first_byte}-"
        answered = False
        try:
            async with self._client.stream("GET", path, headers=headers) as response:
                answered = True
                yield response
        except httpx.HTTPError as error:
            kind = DownloadFailedError if answered else CloudUnavailableError
            what = "broke off" if answered else "gave no answer"
            raise kind(f"{path}: the coordinator {what} ({_text(error)})") from error

    async def read(self, path: str, limit_bytes: int) -> Answer:
        """A small response, whole, whatever its status.

        Raises:
            BodyTooLargeError: it is longer than the limit.
            CloudUnavailableError, DownloadFailedError: see `get`.
        """
        body = bytearray()
        async with self.get(path) as response:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limit_bytes:
                    raise BodyTooLargeError(f"{path} has more than {limit_bytes} bytes")
        return Answer(response.status_code, bytes(body))


@asynccontextmanager
async def open_link(origin: Origin) -> AsyncIterator[Link]:
    """A link for as long as one update takes."""
    async with origin.client() as client:
        yield Link(client, origin.bearer)


class Downloads:
    """Blobs into a folder, each at `<sha256>.part` until somebody moves it away."""

    def __init__(self, link: Link, folder: Path, fs: Fs) -> None:
        self._link = link
        self._folder = folder
        self._fs = fs

    def keep_only(self, refs: Iterable[FileRef]) -> None:
        """Remove the parts of files that nobody wants any more."""
        wanted = {f"{ref.sha256}.part" for ref in refs}
        for path in self._folder.iterdir():
            if path.name not in wanted:
                self._fs.remove(path)

    async def fetch(self, ref: FileRef, *, deadline_s: float) -> Path:
        """A whole, verified, durable file; what an earlier call left is used.

        Args:
            ref: which blob.
            deadline_s: seconds for all of it, however slowly it comes.

        Raises:
            BadDigestError: what came is not what was signed.
            DownloadFailedError: it is not whole in time; what is there stays for the next call.
        """
        part = self._folder / f"{ref.sha256}.part"
        try:
            with anyio.fail_after(deadline_s):
                resumed = await self._complete(ref, part)
                try:
                    await self._check(ref, part)
                except BadDigestError:
                    # A power cut may have damaged what was resumed: that alone proves nothing.
                    if not resumed:
                        raise
                    await self._complete(ref, part)
                    await self._check(ref, part)
        except TimeoutError as error:
            raise DownloadFailedError(
                f"{ref.name} is not whole after {deadline_s:.0f} s: {_size(part)} of {ref.size}"
                " bytes are kept for the next try"
            ) from error
        return part

    async def _complete(self, ref: FileRef, part: Path) -> bool:
        """Fetch what is missing, again and again; returns whether something was there before."""
        resumed = 0 < _size(part) <= ref.size
        wait_s = RETRY_FIRST_S
        while _size(part) != ref.size:
            before = _size(part)
            await self._try(ref, part)
            wait_s = RETRY_FIRST_S if _size(part) > before else min(2 * wait_s, RETRY_MOST_S)
            if _size(part) != ref.size:
                await anyio.sleep(random.uniform(wait_s / 2, wait_s))  # noqa: S311  # jitter only
        if ref.size == 0:
            self._fs.write(part, b"")
        return resumed

    async def _try(self, ref: FileRef, part: Path) -> None:
        """One request; a broken line or a coordinator in trouble is no reason to give up."""
        route = blob_route(ref.sha256)
        try:
            status = await self._attempt(route, ref, part)
        except (DownloadFailedError, CloudUnavailableError) as error:
            log.info("%s: %s of %s bytes: %s", ref.name, _size(part), ref.size, error)
            return
        if httpx.codes.is_client_error(status) and status not in PASSING:
            raise refused(route, status)

    async def _attempt(self, route: str, ref: FileRef, part: Path) -> int:
        if _size(part) > ref.size:
            self._fs.remove(part)
        async with self._link.get(route, _size(part)) as response:
            if response.is_success:
                if not _continues(response, _size(part)):
                    self._fs.remove(part)
                await self._save(response, ref, part)
        return response.status_code

    async def _save(self, response: httpx.Response, ref: FileRef, part: Path) -> None:
        """Write as it comes: what arrived before the line broke is there."""
        have, pending = _size(part), bytearray()
        try:
            async for chunk in response.aiter_raw():
                pending += chunk
                if have + len(pending) > ref.size:
                    pending.clear()
                    self._fs.remove(part)
                    raise BadDigestError(f"{ref.name} has more than its signed {ref.size} bytes")
                if len(pending) >= WRITE_BYTES:
                    await anyio.to_thread.run_sync(self._fs.append, part, bytes(pending))
                    have += len(pending)
                    pending.clear()
        finally:
            if pending:
                self._fs.append(part, bytes(pending))

    async def _check(self, ref: FileRef, part: Path) -> None:
        """Verify, then flush; what is wrong is thrown away, since nothing could be built on it."""
        try:
            await anyio.to_thread.run_sync(_verify, ref, part)
        except BadDigestError:
            self._fs.remove(part)
            raise
        await anyio.to_thread.run_sync(self._fs.fsync, part)


def _continues(response: httpx.Response, have: int) -> bool:
    """Whether a body goes on where the part ends, rather than starting again."""
    if response.status_code != HTTPStatus.PARTIAL_CONTENT:
        return False
    told: str = response.headers.get("content-range", "")
    return told.startswith(f"bytes {have}-")


def _verify(ref: FileRef, part: Path) -> None:
    with part.open("rb") as handle:
        verify_blob(iter(lambda: handle.read(WRITE_BYTES), b""), ref)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
