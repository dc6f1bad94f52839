"""A broker as a child process: started, waited for, started again when it dies, ended with us.

Knows nothing of MQTT: a command, and the address on which it will listen.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Self

import msgspec

from aimass_cloud.config import ANY_ADDRESS
from aimass_shared.errors import BrokerUnavailableError, InvalidSettingError, PortInUseError

_log = logging.getLogger(__name__)

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 5.0
RESTART_PAUSE_S = 0.5
MAX_PORT = 65535
TETHER = str(Path(__file__).with_name("tether.py"))


class Command(msgspec.Struct, frozen=True):
    """What to run, and where it will listen. `name` is for people."""

    name: str
    line: tuple[str, ...]
    host: str
    port: int


class Child:
    """One broker process. `async with` starts it, waits until it listens, and ends it."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._last_words: deque[str] = deque(maxlen=10)
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._process.pid

    async def __aenter__(self) -> Self:
        """Start it.

        Raises:
            BrokerUnavailableError: it ended, or did not listen within `START_DEADLINE_S`.
        """
        self._process, self._reader = await self._spawn()
        try:
            await self._until_it_listens()
        except BaseException:
            await self._end()
            raise
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it, and wait for that."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        await self._end()

    async def _spawn(self) -> "tuple[asyncio.subprocess.Process, asyncio.Task[None]]":
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", TETHER, str(os.getpid()), *self._command.line),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C in a terminal is for us, who then end it: last, after whoever still uses it.
            start_new_session=True,
        )
        return process, asyncio.create_task(self._listen_to(process))

    async def _listen_to(self, process: asyncio.subprocess.Process) -> None:
        """Its messages go to our log; they are the reason if it does not start."""
        lines = process.stderr
        while lines is not None and (raw := await lines.readline()):
            line = raw.decode(errors="replace").rstrip()
            self._last_words.append(line)
            _log.debug("%s: %s", self._command.name, line)

    async def _until_it_listens(self) -> None:
        command, end = self._command, time.monotonic() + START_DEADLINE_S
        while not await _answers(command.host, command.port):
            if self._process.returncode is not None or time.monotonic() > end:
                await asyncio.wait({self._reader}, timeout=1)
                words = "; ".join(self._last_words) or "it said nothing"
                raise BrokerUnavailableError(
                    f"{command.name} does not listen on {command.host}:{command.port}: {words}"
                )
            await asyncio.sleep(0.05)

    async def _keep(self) -> None:
        """A broker that dies is started again: clients reconnect, and what was sent is re-sent."""
        while True:
            code = await self._process.wait()
            _log.error("%s ended with %d; starting it again", self._command.name, code)
            await asyncio.sleep(RESTART_PAUSE_S)
            self._process, self._reader = await self._spawn()

    async def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_DEADLINE_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await asyncio.wait({self._reader})


async def _answers(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(ANY_ADDRESS.get(host, host), port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def choose_port(host: str, wanted: int, memory: Path) -> int:
    """The port that was asked for; for 0 the one in the file `memory`, or a free one kept there.

    Raises:
        PortInUseError: another process has it.
        InvalidSettingError: the host is none of this machine's, or the port not for us.
    """
    port = wanted or _remembered(memory)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise InvalidSettingError(
                    f"a broker cannot listen on {host}:{port} ({error.strerror}): see mqtt.host"
                ) from error
            raise PortInUseError(
                f"port {port} on {host} is taken: stop the process that has it, "
                "or choose another with mqtt.port (devices must then be enrolled again)"
            ) from error
        chosen: int = probe.getsockname()[1]
    if not wanted:
        memory.write_text(str(chosen))
    return chosen


def _remembered(memory: Path) -> int:
    """The port in a file; 0 if there is none, or what a power cut left of it is no port."""
    text = memory.read_text(errors="replace").strip() if memory.exists() else ""
    return int(text) if text.isdecimal() and int(text) <= MAX_PORT else 0
