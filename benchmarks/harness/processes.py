"""Processes that a benchmark starts and ends: children that answer in JSON lines, and a broker.

What they use is read from outside (`memory`, `cpu_s`), so that measuring is no part of it.
"""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, final

import psutil

from aimass_shared.errors import AimassError, BrokerUnavailableError
from benchmarks.harness.measure import Sample

DEADLINE_S = 180.0
END_S = 20.0
KIB_IN_MIB = 1024
ENVIRON = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
RSS, PSS = "MiB resident (RSS)", "MiB proportional (PSS)"


@final
class Child:
    """`python -m MODULE`, which says one line when it is ready, then one for each it is told."""

    def __init__(self, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", f"benchmarks.children.{module}", *map(str, arguments)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ENVIRON},
        )
        self._name = module

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        """Close its input, which is its sign to end."""
        end(self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, *words: object) -> dict[str, Any]:
        """Tell it something, hear what it answers."""
        if self._process.stdin is not None:
            self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
            self._process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Its next line.

        Raises:
            AimassError: it ended, or said nothing for minutes.
        """
        out = self._process.stdout
        if out is None:
            raise AimassError(f"the process {self._name} has no output")
        ready, _, _ = select.select([out], [], [], DEADLINE_S)
        line = out.readline() if ready else b""
        if not line:
            raise AimassError(f"the process {self._name} ended or hangs; see what it wrote above")
        return dict(json.loads(line))


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process by closing its input, by a signal, by force: whatever it obeys first."""
    if process.stdin is not None:
        process.stdin.close()
    else:
        process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def memory(pid: int) -> Sample:
    """Resident memory of a process, and its share of it where pages are shared with others."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    table = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
    return {RSS: table["Rss"] / KIB_IN_MIB, PSS: table["Pss"] / KIB_IN_MIB}


def cpu_s(pid: int) -> float:
    """CPU time that a process has used, in all of its threads."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def broker(folder: Path) -> Iterator[int]:
    """A mosquitto without TLS and without a disk, on the port that it gives.

    Raises:
        BrokerUnavailableError: it is not installed, or does not listen.
    """
    binary = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
    if binary is None:
        raise BrokerUnavailableError("mosquitto is not installed: apt-get install mosquitto")
    port, config = free_port(), folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
        "set_tcp_nodelay true\nlog_type error\nmax_queued_messages 0\n",
        encoding="utf-8",
    )
    process = subprocess.Popen([binary, "-c", str(config)])
    try:
        _await_port(port)
        yield port
    finally:
        end(process)


def _await_port(port: int) -> None:
    until = time.monotonic() + END_S
    while time.monotonic() < until:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise BrokerUnavailableError(f"mosquitto did not listen on port {port} within {END_S:.0f} s")
