"""The load generator: told "PORT CONNECTIONS SECONDS", it keeps that many requests under way.

Raw asyncio protocols, the same request for all servers; it knows no more HTTP than it needs.
"""

import asyncio
import time
from functools import partial

from benchmarks.children.lines import answer
from benchmarks.children.tiny import request

OK = b"HTTP/1.1 200"


class Client(asyncio.Protocol):
    """One connection: the next request as soon as the answer is whole."""

    def __init__(self, until: float) -> None:
        self._until = until
        self._request = request()
        self._buffer = b""
        self._sent = 0.0
        self._transport: asyncio.WriteTransport | None = None
        self.took_s: list[float] = []
        self.failed = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport
            self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n") + 4
        # Servers write header names as they like.
        start = self._buffer[:end].lower().find(b"\r\ncontent-length: ") + 18
        if end < 4 or len(self._buffer) < end + int(self._buffer[start:end].split(b"\r\n")[0]):  # noqa: PLR2004  not found
            return
        now = time.perf_counter()
        self.took_s.append(now - self._sent)
        self.failed += not self._buffer.startswith(OK)
        self._buffer = b""
        if now < self._until:
            self._send()
        elif self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed += exc is not None
        self.done.set_result(None)

    def _send(self) -> None:
        self._sent = time.perf_counter()
        if self._transport is not None:
            self._transport.write(self._request)


async def loaded(port: int, connections: int, seconds: float) -> dict[str, object]:
    """Requests, seconds, and the times that requests took."""
    began = time.perf_counter()
    loop = asyncio.get_running_loop()
    clients = [Client(began + seconds) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(partial(_same, client), "127.0.0.1", port)
    await asyncio.gather(*(client.done for client in clients))
    took = sorted(one for client in clients for one in client.took_s)
    return {
        "requests": len(took),
        "seconds": time.perf_counter() - began,
        "failed": sum(client.failed for client in clients),
        "p99_ms": took[int(len(took) * 0.99)] * 1e3 if took else 0.0,
    }


def _same(client: Client) -> Client:
    return client


def reply(words: list[str]) -> dict[str, object]:
    """Do what the parent says."""
    return asyncio.run(loaded(int(words[0]), int(words[1]), float(words[2])))


if __name__ == "__main__":
    answer(reply)
