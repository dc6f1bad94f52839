"""Routes that devices fetch from: signed metadata, manifests, and blobs with ranges (RFC 9110, 14).

What the bytes mean is nobody's business here. Needs the dependencies `tuf` and `blobs`; the largest
blob is `app.state.max_blob_bytes`, else the default of the settings.
"""

import asyncio
import re
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
from litestar import Controller, MediaType, Request, Response, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream

from aimass_cloud.access import requires
from aimass_cloud.config import HttpSettings
from aimass_cloud.registry.tuf import TufRepository
from aimass_cloud.store import Blobs
from aimass_shared.errors import BodyTooLargeError
from aimass_shared.trust import BLOBS_ROUTE, METADATA_ROUTE, TARGETS_ROUTE

FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
NEVER = {"cache-control": "no-cache"}
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")

AnyRequest = Request[Any, Any, Any]


class Span(NamedTuple):
    """Bytes `start` to `stop` (exclusive) of a blob."""

    start: int
    stop: int


def parse_range(header: str, size: int) -> Span | None:
    """The single range that a request asks for, or None for the whole.

    As RFC 9110 allows, what is no single byte range is ignored. An empty span says that the range
    starts beyond the end.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return Span(max(0, size - int(suffix)), size)
    stop = min(int(last) + 1, size) if last else size
    if last and int(last) < int(first):
        return None
    return Span(min(int(first), size), stop)


class BlobReceipt(msgspec.Struct, frozen=True):
    """What was kept."""

    sha256: str
    size: int


class TufController(Controller):
    """Signed metadata and manifests."""

    guards = (requires("tuf:read"),)
    tags = ("releases",)

    @get(f"{METADATA_ROUTE}/{{name:str}}")
    async def metadata(
        self, tuf: NamedDependency[TufRepository], name: FromPath[str]
    ) -> Response[bytes]:
        """A file of signed metadata."""
        body = await asyncio.to_thread(tuf.metadata, name)
        headers = FOREVER if name[0].isdigit() else NEVER
        return Response(body, media_type=MediaType.JSON, headers=headers)

    @get(f"{TARGETS_ROUTE}/{{target:path}}")
    async def target(
        self, tuf: NamedDependency[TufRepository], target: FromPath[str]
    ) -> Response[bytes]:
        """A manifest, by the path that its signature gives it."""
        body = await asyncio.to_thread(tuf.target, str(target).removeprefix("/"))
        return Response(body, media_type=MediaType.JSON, headers=FOREVER)


class BlobsController(Controller):
    """Files by content."""

    path = BLOBS_ROUTE
    tags = ("blobs",)

    @get("/{sha256:str}", guards=[requires("blob:read")])
    async def download(
        self, request: AnyRequest, blobs: NamedDependency[Blobs], sha256: FromPath[str]
    ) -> Response[Any]:
        """A blob, or the range of it that is asked for."""
        size = blobs.size(sha256)
        asked = request.headers.get("range", "")
        span = parse_range(asked, size)
        headers = {**FOREVER, "accept-ranges": "bytes", "etag": f'"{sha256}"'}
        if span is not None and span.start >= span.stop:
            headers["content-range"] = f"bytes */{size}"
            status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            return Response(b"", status_code=status, headers=headers)
        start, stop = span or Span(0, size)
        if span is not None:
            headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
        return Stream(
            blobs.read(sha256, start, stop),
            status_code=HTTPStatus.OK if span is None else HTTPStatus.PARTIAL_CONTENT,
            media_type="application/octet-stream",
            headers={**headers, "content-length": str(stop - start)},
        )

    @put("/{sha256:str}", guards=[requires("blob:write")], request_max_body_size=None)
    async def upload(
        self, request: AnyRequest, blobs: NamedDependency[Blobs], sha256: FromPath[str]
    ) -> Response[BlobReceipt]:
        """Keep a blob, if its bytes are what its name says; a repeated upload does no harm."""
        limit = request.app.state.get("max_blob_bytes", HttpSettings().max_blob_bytes)
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            raise BodyTooLargeError(f"the blob has {announced} bytes, the limit is {limit}")
        size = await blobs.put_stream(request.stream(), sha256, limit)
        return Response(BlobReceipt(sha256, size), status_code=HTTPStatus.CREATED)
