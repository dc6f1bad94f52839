"""A cloud with faults, on a free port: told a mode a line, it answers like that from then on.

ok       as the coordinator does       slow     so too, 10 s late
hang     accepts and says nothing      drip     a byte of an answer every 50 ms
reset    ends the connection by RST    busy     503 at once
refuse   accepts nobody
"""

import asyncio
import socket
import struct
import sys
import threading

from benchmarks.children.lines import say
from benchmarks.children.tiny import BYTES_OUT, outputs_head

SLOW_S, DRIP_S = 10.0, 0.05
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\nretry-after: 1\r\n\r\n{}"
RST = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: closing sends RST."""


class Faulty:
    """One listener; `mode` may change at any time."""

    def __init__(self) -> None:
        self.mode = "ok"
        self._answer = outputs_head() + bytes(BYTES_OUT)
        self._server: asyncio.Server | None = None
        self.port = 0

    async def be(self, mode: str) -> None:
        """Answer like that from now on."""
        self.mode = mode
        if mode == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
        elif mode != "refuse" and self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        start = head.lower().index(b"content-length: ") + 16
        await reader.readexactly(int(head[start : head.index(b"\r\n", start)]))
        if self.mode == "reset":
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            writer.transport.abort()
            return False
        if self.mode == "hang":
            await reader.read()  # until the caller goes
            return False
        if self.mode == "drip":
            for byte in self._answer:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(DRIP_S)
            return True
        if self.mode == "slow":
            await asyncio.sleep(SLOW_S)
        writer.write(BUSY if self.mode == "busy" else self._answer)
        await writer.drain()
        return self.mode != "refuse"


def main() -> None:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    cloud = Faulty()

    def be(mode: str) -> None:
        asyncio.run_coroutine_threadsafe(cloud.be(mode), loop).result(10)

    be("ok")
    say(port=cloud.port)
    for line in sys.stdin:
        be(line.strip())
        say(mode=cloud.mode)


if __name__ == "__main__":
    main()
