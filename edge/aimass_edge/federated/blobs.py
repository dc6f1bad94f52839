"""Moves the arrays of a round: content-addressed blobs over HTTPS, small enough for memory.

Releases have their own resuming downloader (`aimass_edge.update`); this one is for updates, which
live for one round and are fetched again from the start when a connection breaks.
"""

import hashlib
import random
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, TypeVar, final

import anyio
import httpx
import msgspec

from aimass_shared.errors import (
    AimassError,
    BadDigestError,
    BodyTooLargeError,
    CloudUnavailableError,
    DownloadFailedError,
    ForbiddenError,
    NotFoundError,
    UnauthenticatedError,
)

T = TypeVar("T")

_REFUSALS: dict[int, type[AimassError]] = {
    HTTPStatus.UNAUTHORIZED: UnauthenticatedError,
    HTTPStatus.FORBIDDEN: ForbiddenError,
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: BodyTooLargeError,
    HTTPStatus.TOO_MANY_REQUESTS: CloudUnavailableError,
}
_JITTER = random.SystemRandom()


class Blobs(Protocol):
    """Where the arrays of a round are fetched from and left."""

    async def get(self, digest: str, size: int) -> bytes:
        """The blob with a SHA-256, whose size in bytes was announced; checked against both."""
        ...

    async def put(self, data: bytes) -> str:
        """Leave a blob for the coordinator; returns its SHA-256."""
        ...


class BlobLimits(msgspec.Struct, frozen=True):
    """Limits of one transfer.

    Attributes:
        max_bytes: largest blob either way.
        deadline_s: for one try. attempts: tries while the coordinator cannot be reached.
        pause_s: before the second try; doubles with each further one, with jitter.
    """

    max_bytes: int = 64 << 20
    deadline_s: float = 60.0
    attempts: int = 4
    pause_s: float = 0.25


@final
class HttpBlobs:
    """Blobs at `{base_url}/blobs/{sha256}`, with a fresh bearer token for each request.

    Args:
        base_url: of the coordinator. bearer: gives the token of this moment.
        verify: as httpx takes it: the TLS context that trusts the coordinator's CA.
    """

    def __init__(
        self,
        base_url: str,
        bearer: Callable[[], str],
        *,
        verify: ssl.SSLContext | bool = True,
        limits: BlobLimits | None = None,
    ) -> None:
        self._base_url = base_url
        self._bearer = bearer
        self._verify = verify
        self._limits = limits or BlobLimits()
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> "HttpBlobs":
        """Open the connection pool; connections are made when they are needed."""
        self._client = httpx.AsyncClient(
            base_url=self._base_url, verify=self._verify, timeout=self._limits.deadline_s
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get(self, digest: str, size: int) -> bytes:
        """Fetch a blob; see `Blobs.get`.

        Raises:
            BodyTooLargeError: it is over `BlobLimits.max_bytes`.
            BadDigestError: the bytes are not those that were announced.
            CloudUnavailableError: the coordinator did not answer in any of the attempts.
            NotFoundError, UnauthenticatedError, ForbiddenError: it refused.
        """
        self._check_size(size)
        data = await self._persist(lambda: self._get_once(digest, size))
        if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
            raise BadDigestError(f"blob {digest[:12]} came as {len(data)} other bytes")
        return data

    async def put(self, data: bytes) -> str:
        """Leave a blob; see `Blobs.put`. Raises what `get` does, except BadDigestError."""
        self._check_size(len(data))
        digest = hashlib.sha256(data).hexdigest()
        await self._persist(lambda: self._put_once(digest, data))
        return digest

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= self._limits.max_bytes:
            raise BodyTooLargeError(
                f"the blob has {size} bytes, the limit is {self._limits.max_bytes}"
            )

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again while the coordinator cannot be reached: both transfers are idempotent."""
        for number in range(self._limits.attempts - 1):
            with suppress(CloudUnavailableError):
                return await _translated(attempt, self._limits.deadline_s)
            await anyio.sleep(self._limits.pause_s * 2**number * _JITTER.uniform(0.5, 1.5))
        return await _translated(attempt, self._limits.deadline_s)

    async def _get_once(self, digest: str, size: int) -> bytes:
        data = bytearray()
        request = self._open().stream("GET", f"/blobs/{digest}", headers=self._headers())
        async with request as response:
            _check_status(response.status_code, f"GET of blob {digest[:12]}")
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > size:
                    raise BadDigestError(f"blob {digest[:12]} is longer than its {size} bytes")
        return bytes(data)

    async def _put_once(self, digest: str, data: bytes) -> None:
        headers = self._headers() | {"content-type": "application/octet-stream"}
        response = await self._open().put(f"/blobs/{digest}", content=data, headers=headers)
        _check_status(response.status_code, f"PUT of blob {digest[:12]}")

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            raise CloudUnavailableError("the blob client is closed: enter it with `async with`")
        return self._client

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._bearer()}"}


async def _translated(attempt: Callable[[], Awaitable[T]], deadline_s: float) -> T:
    """Run one try within its deadline, with httpx's errors as ours."""
    try:
        with anyio.fail_after(deadline_s):
            return await attempt()
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise CloudUnavailableError(f"the coordinator does not answer: {reason}") from error


def _check_status(status: int, what: str) -> None:
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise CloudUnavailableError(f"{what}: the coordinator answered {status}")
    raise _REFUSALS.get(status, DownloadFailedError)(f"{what}: the coordinator answered {status}")
