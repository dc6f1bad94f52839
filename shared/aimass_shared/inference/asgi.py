"""The Open Inference Protocol v2 over HTTP, as a pure ASGI application.

Mounted into Litestar in the coordinator, served alone by uvicorn on a device: frameworks cost twice
the time of a small model on this path. It knows HTTP and nothing about models; those are behind
`Backend`.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, cast

import msgspec

from aimass_shared.errors import (
    AccessError,
    AimassError,
    BodyTooLargeError,
    BodyTooSlowError,
    MalformedMessageError,
    MethodNotAllowedError,
    NoActiveModelError,
    NotFoundError,
    OverloadedError,
)
from aimass_shared.inference.codec import (
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    ModelMetadata,
    ServerMetadata,
    decode_request,
    encode_response,
)

log = logging.getLogger(__name__)

Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
Authorize: TypeAlias = Callable[[Scope], None]
HeaderList: TypeAlias = list[tuple[bytes, bytes]]

BODY_DEADLINE_S = 10.0
_MAX_DIGITS = 18
_BODY_UNREAD = (
    AccessError,
    BodyTooLargeError,
    BodyTooSlowError,
    MethodNotAllowedError,
    NotFoundError,
)


class Backend(Protocol):
    """What answers the requests: a pool of models in the cloud, the active slice on a device."""

    @property
    def name(self) -> str:
        """Name of the server."""

    @property
    def version(self) -> str:
        """Version of the server."""

    def ready(self) -> bool:
        """Whether a model is active."""

    def models(self) -> Sequence[str]:
        """Names of the models that can be asked."""

    def metadata(self, model: str, version: str) -> ModelMetadata:
        """What a model takes and gives; version "" is the active one.

        Raises:
            NotFoundError: there is no such model or version.
        """

    async def infer(self, request: InferRequest) -> InferResponse:
        """Run a model.

        Raises:
            AimassError: any; the caller gets its code and status.
        """


class Route(NamedTuple):
    """Where a path leads to."""

    kind: Literal["server", "live", "ready", "models", "model", "model-ready", "infer"]
    model: str = ""
    version: str = ""


class _Reply(NamedTuple):
    status: HTTPStatus
    body: bytes
    headers: HeaderList


class _ClientGoneError(Exception):
    """The client left before its body was whole; nobody waits for an answer."""


def route_of(path: str) -> Route:
    """Where a path leads to, with or without its prefix `/v2`: mounts cut it off.

    Raises:
        NotFoundError: it leads nowhere.
    """
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["v2"]:
        parts = parts[1:]
    match parts:
        case []:
            return Route("server")
        case ["health", ("live" | "ready") as kind]:
            return Route("live" if kind == "live" else "ready")
        case ["models"]:
            return Route("models")
        case ["models", model, "versions", version, *rest]:
            return _model_route(model, version, rest)
        case ["models", model, *rest]:
            return _model_route(model, "", rest)
    raise _nowhere()


def _model_route(model: str, version: str, rest: list[str]) -> Route:
    match rest:
        case []:
            return Route("model", model, version)
        case ["ready"]:
            return Route("model-ready", model, version)
        case ["infer"]:
            return Route("infer", model, version)
    raise _nowhere()


def _nowhere() -> NotFoundError:
    return NotFoundError(
        "no such path; there are /v2, /v2/health/live, /v2/health/ready, /v2/models and"
        " /v2/models/{model}[/versions/{version}][/ready|/infer]"
    )


class InferenceApp:
    """Serves a backend.

    Args:
        backend: what answers.
        max_body_bytes: of an infer request.
        authorize: raises AccessError if the caller may not ask; health is open to all.
        body_deadline_s: how long a body may take to arrive.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        max_body_bytes: int,
        authorize: Authorize | None = None,
        body_deadline_s: float = BODY_DEADLINE_S,
    ) -> None:
        self._backend = backend
        self._max_body_bytes = max_body_bytes
        self._authorize = authorize
        self._body_deadline_s = body_deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, or the lifespan of a server that runs this app alone."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._answer(scope, receive)
        except _ClientGoneError:
            return
        except AimassError as error:
            reply = _refusal(error)
        except Exception:
            log.exception("inference request failed")
            reply = _refusal(AimassError("the server failed; its log says why"))
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _answer(self, scope: Scope, receive: Receive) -> _Reply:
        route = route_of(_path(scope))
        method = "POST" if route.kind == "infer" else "GET"
        if self._authorize and route.kind not in {"live", "ready"}:
            self._authorize(scope)
        if scope["method"] != method:
            raise MethodNotAllowedError(f"this path takes {method} only")
        if route.kind == "infer":
            return await self._infer(route, scope, receive)
        return _json(self._information(route))

    def _information(self, route: Route) -> object:
        backend = self._backend
        if route.kind == "server":
            return ServerMetadata(backend.name, backend.version)
        if route.kind == "models":
            return {"models": list(backend.models())}
        if route.kind == "model":
            return backend.metadata(route.model, route.version)
        if route.kind == "live":
            return {"live": True}
        return self._readiness(route)

    def _readiness(self, route: Route) -> object:
        name = {"name": route.model} if route.kind == "model-ready" else {}
        if name:
            self._backend.metadata(route.model, route.version)
        if not self._backend.ready():
            raise NoActiveModelError("no model is active yet")
        return {**name, "ready": True}

    async def _infer(self, route: Route, scope: Scope, receive: Receive) -> _Reply:
        headers = cast("dict[bytes, bytes]", dict(scope["headers"]))
        header_length = _header_length(headers)
        body = await self._body(headers, receive)
        request = decode_request(body, header_length, model=route.model, version=route.version)
        response = await self._backend.infer(request)
        content, length = encode_response(request, response)
        if length is None:
            return _Reply(HTTPStatus.OK, content, [(b"content-type", b"application/json")])
        binary = (b"content-type", b"application/octet-stream")
        return _Reply(HTTPStatus.OK, content, [binary, (HEADER_LENGTH.encode(), b"%d" % length)])

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        length = headers.get(b"content-length", b"0")
        if _number(length, "content-length") > self._max_body_bytes:
            raise self._too_large()
        try:
            return await asyncio.wait_for(self._collect(receive), self._body_deadline_s)
        except asyncio.TimeoutError as error:  # its other name is new in 3.11
            raise BodyTooSlowError(
                f"the body was not whole after {self._body_deadline_s:g} s"
            ) from error

    async def _collect(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGoneError
            chunk: bytes = message.get("body", b"")
            chunks.append(chunk)
            size += len(chunk)
            if size > self._max_body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"the body is larger than {self._max_body_bytes} bytes; send fewer windows at a time"
        )


def _path(scope: Scope) -> str:
    """The path below whatever this app is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _header_length(headers: Mapping[bytes, bytes]) -> int | None:
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding != b"identity":
        raise MalformedMessageError("compressed bodies are not supported; send it as it is")
    raw = headers.get(HEADER_LENGTH.encode())
    return None if raw is None else _number(raw, HEADER_LENGTH)


def _number(raw: bytes, name: str) -> int:
    if not raw.isdigit() or len(raw) > _MAX_DIGITS:
        raise MalformedMessageError(f"header {name} must be a whole number of bytes")
    return int(raw)


def _json(value: object) -> _Reply:
    content_type = (b"content-type", b"application/json")
    return _Reply(HTTPStatus.OK, msgspec.json.encode(value), [content_type])


def _refusal(error: AimassError) -> _Reply:
    body = msgspec.json.encode({"error": error.detail, "code": error.code})
    headers = [(b"content-type", b"application/json")]
    if isinstance(error, AccessError) and error.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, OverloadedError) and error.retry_after_s > 0:
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
    if isinstance(error, _BODY_UNREAD):
        # What is still on its way is not worth reading, and might never end.
        headers.append((b"connection", b"close"))
    return _Reply(error.status, body, headers)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
