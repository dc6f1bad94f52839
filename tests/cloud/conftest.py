"""Fixtures for tests of the coordinator: a migrated database, and a real HTTP server."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvicorn
from litestar import Litestar

from aimass_cloud.store import Store

Serve = Callable[[Litestar], Awaitable[str]]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store on a fresh SQLite file with all tables."""
    async with Store(f"sqlite+aiosqlite:///{tmp_path}/aimass.db") as opened:
        await opened.migrate()
        yield opened


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve an app with uvicorn on a free port of loopback; gives the base URL."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(app: Litestar) -> str:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        running.append((server, task))
        while not server.started:
            assert not task.done(), "the server ended while it started"
            await asyncio.sleep(0.01)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, task in running:
        server.should_exit = True
        await task
