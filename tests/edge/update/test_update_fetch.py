"""Downloads from a server that breaks off, lies, drips and never ends."""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aimass_edge.update import fetch
from aimass_edge.update.fetch import Downloads, Origin, open_link
from aimass_edge.update.fs import Fs
from aimass_shared.errors import (
    BadDigestError,
    BodyTooLargeError,
    CloudUnavailableError,
    DownloadFailedError,
)
from aimass_shared.manifest import FileRef

BODY = bytes(range(256)) * 4000
REF = FileRef("model", "model.onnx", hashlib.sha256(BODY).hexdigest(), len(BODY))
PART = f"{REF.sha256}.part"

Reply = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each request by the next reply, the last one for ever; notes what was asked for."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.starts: list[int] = []
        self.heads: list[str] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        match = re.search(r"range: bytes=(\d+)-", head)
        start = int(match[1]) if match else 0
        self.heads.append(head)
        self.starts.append(start)
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        try:
            await reply(start, writer)
            await writer.drain()
        except ConnectionError:
            return  # the client has had enough
        finally:
            writer.close()


def respond(status: int, body: bytes, *, extra: str = "", promised: int | None = None) -> bytes:
    size = len(body) if promised is None else promised
    return f"HTTP/1.1 {status} X\r\ncontent-length: {size}\r\n{extra}\r\n".encode() + body


def ranged(body: bytes = BODY, upto: int | None = None) -> Reply:
    """Send from where was asked for; break off at `upto`."""

    async def reply(start: int, writer: asyncio.StreamWriter) -> None:
        extra = f"content-range: bytes {start}-{len(body) - 1}/{len(body)}\r\n" if start else ""
        rest = len(body) - start
        writer.write(respond(206 if start else 200, body[start:upto], extra=extra, promised=rest))

    return reply


def status(code: int) -> Reply:
    async def reply(_start: int, writer: asyncio.StreamWriter) -> None:
        writer.write(respond(code, b"no"))

    return reply


async def ignores_ranges(_start: int, writer: asyncio.StreamWriter) -> None:
    writer.write(respond(200, BODY))


async def endless(_start: int, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 X\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def drips(_start: int, writer: asyncio.StreamWriter) -> None:
    writer.write(respond(200, b"", promised=len(BODY)))
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def silent(_start: int, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


@asynccontextmanager
async def downloads(server: Server, folder: Path) -> AsyncIterator[Downloads]:
    async with await asyncio.start_server(server.handle, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        origin = Origin(f"http://127.0.0.1:{port}", b"", "stable", lambda: "a-token")
        async with open_link(origin) as link:
            yield Downloads(link, folder, Fs())
        listener.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits of production, shortened."""
    monkeypatch.setattr(fetch, "RETRY_FIRST_S", 0.01)


async def test_whole_file_arrives_with_a_credential(tmp_path: Path) -> None:
    server = Server(ranged())
    async with downloads(server, tmp_path) as client:
        part = await client.fetch(REF, deadline_s=10)
    assert part == tmp_path / PART
    assert part.read_bytes() == BODY
    assert server.starts == [0]
    assert "authorization: bearer a-token" in server.heads[0]
    assert "accept-encoding: identity" in server.heads[0]


async def test_broken_line_is_resumed_where_it_broke(tmp_path: Path) -> None:
    server = Server(ranged(upto=300_000), ranged(upto=700_000), ranged())
    async with downloads(server, tmp_path) as client:
        part = await client.fetch(REF, deadline_s=10)
    assert part.read_bytes() == BODY
    assert server.starts == [0, 300_000, 700_000]


async def test_earlier_try_is_used(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(BODY[:500_000])
    server = Server(ranged())
    async with downloads(server, tmp_path) as client:
        await client.fetch(REF, deadline_s=10)
    assert server.starts == [500_000]


async def test_whole_earlier_try_needs_no_request(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(BODY)
    server = Server(status(500))
    async with downloads(server, tmp_path) as client:
        await client.fetch(REF, deadline_s=10)
    assert server.starts == []


@pytest.mark.parametrize("left", [b"\x00" * 500_000, b"\x00" * len(BODY), BODY + b"more"])
async def test_damaged_earlier_try_is_fetched_anew(tmp_path: Path, left: bytes) -> None:
    (tmp_path / PART).write_bytes(left)
    async with downloads(Server(ranged()), tmp_path) as client:
        part = await client.fetch(REF, deadline_s=10)
    assert part.read_bytes() == BODY


async def test_server_that_ignores_ranges_starts_again(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(BODY[:500_000])
    async with downloads(Server(ignores_ranges), tmp_path) as client:
        part = await client.fetch(REF, deadline_s=10)
    assert part.read_bytes() == BODY


async def test_coordinator_in_trouble_is_asked_again(tmp_path: Path) -> None:
    async with downloads(Server(status(503), status(429), ranged()), tmp_path) as client:
        part = await client.fetch(REF, deadline_s=10)
    assert part.read_bytes() == BODY


@pytest.mark.parametrize("code", [401, 403, 404])
async def test_refusal_is_said_at_once(tmp_path: Path, code: int) -> None:
    server = Server(status(code))
    async with downloads(server, tmp_path) as client:
        with pytest.raises(DownloadFailedError, match=f"answers {code}"):
            await client.fetch(REF, deadline_s=10)
    assert len(server.starts) == 1


async def test_altered_blob_is_thrown_away(tmp_path: Path) -> None:
    altered = bytearray(BODY)
    altered[1234] ^= 1
    async with downloads(Server(ranged(bytes(altered))), tmp_path) as client:
        with pytest.raises(BadDigestError):
            await client.fetch(REF, deadline_s=10)
    assert names(tmp_path) == []


async def test_endless_body_is_cut_at_the_signed_length(tmp_path: Path) -> None:
    async with downloads(Server(endless), tmp_path) as client:
        with pytest.raises(BadDigestError, match="more than its signed"):
            await client.fetch(REF, deadline_s=10)
    assert names(tmp_path) == []


@pytest.mark.parametrize("reply", [drips, silent])
async def test_deadline_holds_however_slowly_it_comes(tmp_path: Path, reply: Reply) -> None:
    start = time.monotonic()
    async with downloads(Server(reply), tmp_path) as client:
        with pytest.raises(DownloadFailedError, match="kept for the next try"):
            await client.fetch(REF, deadline_s=0.5)
    assert time.monotonic() - start < 3


async def test_deadline_keeps_what_came(tmp_path: Path) -> None:
    server = Server(ranged(upto=400_000), silent)
    async with downloads(server, tmp_path) as client:
        with pytest.raises(DownloadFailedError, match="400000 of 1024000"):
            await client.fetch(REF, deadline_s=1)
    assert (tmp_path / PART).read_bytes() == BODY[:400_000]


async def test_parts_of_nobody_are_removed(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(b"wanted")
    (tmp_path / "other.part").write_bytes(b"not")
    async with downloads(Server(silent), tmp_path) as client:
        client.keep_only([REF])
    assert names(tmp_path) == [PART]


async def test_small_body_has_a_limit(tmp_path: Path) -> None:
    del tmp_path
    server = Server(endless)
    async with await asyncio.start_server(server.handle, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        origin = Origin(f"http://127.0.0.1:{port}", b"", "stable", lambda: "t")
        async with open_link(origin) as link:
            with pytest.raises(BodyTooLargeError):
                await link.read("/anything", 1000)


async def test_nobody_there(free_port: Callable[[], int]) -> None:
    origin = Origin(f"http://127.0.0.1:{free_port()}", b"", "stable", lambda: "t")
    async with open_link(origin) as link:
        with pytest.raises(CloudUnavailableError, match="gave no answer"):
            await link.read("/anything", 1000)
