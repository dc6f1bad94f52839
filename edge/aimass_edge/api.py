"""The local endpoint: Open Inference Protocol v2, `GET /status`, `GET /metrics`; by uvicorn.

It knows sockets and the life of the server; requests are read by `aimass_shared.inference` and
answered by whatever backend it is given.
"""

import logging
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import final

import anyio
import anyio.abc
import msgspec
import uvicorn

from aimass_edge.config import ApiSettings
from aimass_shared.errors import PortInUseError
from aimass_shared.exposition import CONTENT_TYPE
from aimass_shared.inference import Backend, InferenceApp
from aimass_shared.inference.asgi import Receive, Scope, Send

log = logging.getLogger(__name__)

BACKLOG = 256
SHUTDOWN_S = 2


Page = Callable[[], bytes]


class PagesApp:
    """Answers `GET` of some paths and passes everything else on."""

    def __init__(self, inner: InferenceApp, pages: Mapping[str, tuple[str, Page]]) -> None:
        """Take the media type and the maker of each page, by path."""
        self._inner = inner
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        page = self._pages.get(scope["path"]) if scope["type"] == "http" else None
        if page is None or scope["method"] != "GET":
            await self._inner(scope, receive, send)
            return
        media, body = page[0], page[1]()
        headers = [
            (b"content-type", media.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    """uvicorn as a part of a process: signals belong to whoever composes the agent."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the process' signal handlers alone."""
        yield


@final
class Api:
    """Listens from `async with` on until its end; `port` is then the real one."""

    def __init__(
        self,
        settings: ApiSettings,
        backend: Backend,
        status: Callable[[], msgspec.Struct],
        *,
        metrics: Page = bytes,
    ) -> None:
        """Prepare.

        Args:
            settings: where to listen; port 0 takes a free one.
            backend: what answers inference requests.
            status: what `GET /status` shows, as a struct.
            metrics: what `GET /metrics` shows (`aimass_shared.exposition`).
        """
        self._settings = settings
        app = InferenceApp(backend, max_body_bytes=settings.max_body_bytes)
        pages = {
            "/status": ("application/json", lambda: msgspec.json.encode(status())),
            "/metrics": (CONTENT_TYPE, metrics),
        }
        self._server = _Server(
            uvicorn.Config(
                PagesApp(app, pages),
                interface="asgi3",
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=SHUTDOWN_S,
            )
        )
        self._tasks: anyio.abc.TaskGroup | None = None
        self.port = settings.port

    @property
    def url(self) -> str:
        """Base URL of the endpoint."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"http://{host}:{self.port}"

    async def __aenter__(self) -> "Api":
        """Listen.

        Raises:
            PortInUseError: the address cannot be listened on.
        """
        listener = self._listen()
        self.port = listener.getsockname()[1]
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._serve, listener, name="aimass-api")
        log.info("inference endpoint on %s", self.url)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening, let the requests that are being answered finish."""
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            return
        self._server.should_exit = True
        await tasks.__aexit__(kind, error, trace)

    async def _serve(self, listener: socket.socket) -> None:
        # Ended by `should_exit`, never by cancellation: that would leave the socket open.
        with anyio.CancelScope(shield=True):
            await self._server.serve([listener])

    def _listen(self) -> socket.socket:
        host, port = self._settings.host, self._settings.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio turns Nagle off only where the protocol is named; with it on, each answer takes
        # 40 ms, because uvicorn sends head and body apart and the client delays its ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            # Before the server starts, so that whoever was told the port can connect.
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise PortInUseError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; set api.port to"
                " another port, or to 0 for a free one"
            ) from error
        return listener
