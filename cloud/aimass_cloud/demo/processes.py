"""The demo's child processes: started with a log of their own, and never left behind.

Each child asks the kernel for SIGTERM when this process dies (see `aimass_cloud.broker.tether`), so
that not even kill -9 of the demo leaves one.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from aimass_cloud.broker.child import TETHER
from aimass_shared.errors import AimassError

STOP_S = 8.0
COMMAND_S = 60.0
LAST_WORDS = 12


class ChildFailedError(AimassError):
    """A process of the demo ended by itself; the detail has its last words."""

    code = "demo-process"


class Process:
    """One child: `async with` starts it and ends it."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, *, environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """End it, gently at first."""
        await self.stop()

    async def start(self) -> None:
        """Start it (again)."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *tethered(self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environ},
                # Ctrl-C is for the demo, which then ends its children in order.
                start_new_session=True,
            )

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; by force if it does not go within `STOP_S` seconds."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(number)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        finally:
            _kill_group(process.pid)

    def check(self) -> None:
        """Raise if it ended by itself.

        Raises:
            ChildFailedError: it did; with the end of its log.
        """
        if self._process is not None and self._process.returncode is not None:
            words = self._log.read_text(errors="replace").splitlines()[-LAST_WORDS:]
            raise ChildFailedError(
                f"{self.name} ended with {self._process.returncode}:\n" + "\n".join(words)
            )


async def output_of(name: str, command: Sequence[str], *, environ: Mapping[str, str]) -> bytes:
    """Run a short command to its end; returns its standard output.

    Raises:
        ChildFailedError: it failed, or took longer than `COMMAND_S`.
    """
    process = await asyncio.create_subprocess_exec(
        *tethered(command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environ},
        start_new_session=True,
    )
    try:
        out, words = await asyncio.wait_for(process.communicate(), COMMAND_S)
    except TimeoutError as error:
        raise ChildFailedError(f"{name} took longer than {COMMAND_S:.0f} s") from error
    finally:
        _kill_group(process.pid)
        await process.communicate()  # to the end of its pipes, which its own children held too
    if process.returncode:
        raise ChildFailedError(f"{name}: {words.decode(errors='replace').strip()}")
    return out


def _kill_group(pid: int) -> None:
    """Kill a child, if it lives, and what it started itself and left, such as an export."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def tethered(command: Sequence[str]) -> list[str]:
    """A command line that ends when this process does."""
    return [sys.executable, "-I", TETHER, str(os.getpid()), *command]
