"""`aimass serve`: the coordinator behind uvicorn, until it is told to stop."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from aimass_cloud.app.coordinator import Coordinator, running
from aimass_cloud.app.routes import make_app
from aimass_cloud.config import CloudSettings, HttpSettings
from aimass_shared.errors import PortInUseError

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
BACKLOG = 2048
SHUTDOWN_S = 3


class _Server(uvicorn.Server):
    """uvicorn as a part of a process: signals belong to `serve`."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the process' signal handlers alone."""
        yield


def serve(settings: CloudSettings) -> int:
    """Run until SIGTERM or SIGINT, then end the process.

    Raises:
        AimassError: it does not start.
    """
    logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT)
    for noisy in ("alembic", "flwr", "httpx", "onnx_ir", "onnxscript", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with asyncio.Runner() as runner:
        runner.run(_serve(settings))
        _leave()
    return 0


def _leave() -> None:
    """End at once, now that every part is closed and all that must last is on the disk.

    A job may still train or export in a thread, which nothing can interrupt: Python would wait for
    it, a minute or more, for a result that nobody takes. A process of its own for each job could be
    killed, but would import torch again and send every model across; and a thread that looks at a
    flag would not look at it within an export. Stopped here, it leaves at worst a file that no row
    names, as a power cut does.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def _serve(settings: CloudSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # The port comes first: a taken one is found before a broker is started.
    with listen(settings.http) as listener:
        async with running(settings) as coordinator, listening(coordinator, listener) as url:
            sys.stderr.write(f"aimass {_words(coordinator)} on {url}\n")
            await stop.wait()
            log.info("stopping")


def _words(coordinator: Coordinator) -> str:
    return f"coordinator ({coordinator.broker_note})" if coordinator.broker_note else "coordinator"


@contextmanager
def listen(settings: HttpSettings) -> Generator[socket.socket, None, None]:
    """A listening socket on the configured address; port 0 takes a free one.

    Raises:
        PortInUseError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle off; without it answers come 40 ms late.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PortInUseError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}):"
            " stop what does, or choose --port"
        ) from error
    with listener:
        yield listener


@asynccontextmanager
async def listening(coordinator: Coordinator, listener: socket.socket) -> AsyncIterator[str]:
    """The API on a socket; gives its URL."""
    settings = coordinator.settings.http
    tls = uses_tls(settings)
    paths = coordinator.server_tls
    server = _Server(
        uvicorn.Config(
            make_app(coordinator),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
            ssl_certfile=str(paths.certificate) if tls else None,
            ssl_keyfile=str(paths.key) if tls else None,
        )
    )
    task = asyncio.create_task(server.serve([listener]))
    try:
        host, port = listener.getsockname()[:2]
        yield f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        server.should_exit = True
        await task


def uses_tls(settings: HttpSettings) -> bool:
    """Whether the API speaks TLS: always off loopback, unless the settings say otherwise."""
    if settings.tls != "auto":
        return settings.tls == "on"
    try:
        return not ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        return settings.host != "localhost"
