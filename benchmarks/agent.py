"""Memory of an idle agent without a model, against a process that only imports ONNX Runtime.

A real coordinator, a device that enrolled with it, and `aimass-edge run` with no telemetry source,
connected to its broker. The peer is the least that any agent on ONNX Runtime and numpy needs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from aimass_shared.errors import AimassError
from benchmarks.harness.measure import Case, Figures, Sample, Scale
from benchmarks.harness.processes import RSS, Child, end, free_port, memory

DEADLINE_S = 60.0
SETTLE_S = 1.0
MOST_ROUNDS = 5
CONFIG = '[source]\nkind = "none"\n\n[api]\nport = {port}\n'
Found = Callable[[], Any]


def run(scale: Scale) -> Figures:
    """One coordinator and one device; the agent is started anew each round."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as name, _coordinator(Path(name)) as (cloud, url):
        site = Site(Path(name), url)
        contenders = {"aimass": site.agent, "imports alone": bare}
        figures.measure(Case("idle, no model", contenders), min(scale.rounds, MOST_ROUNDS))
        figures.notes.append(f"the coordinator has {memory(cloud)[RSS]:.0f} MiB resident meanwhile")
    return figures


class Site:
    """A device's directory and settings, enrolled."""

    def __init__(self, root: Path, url: str) -> None:
        self._config, self._api = root / "site.toml", free_port()
        self._log = root / "agent.log"
        self._config.write_text(CONFIG.format(port=self._api), encoding="utf-8")
        self._options = ("--config", str(self._config), "--data-dir", str(root / "edge"))
        key = (root / "cloud" / "admin.key").read_text(encoding="utf-8").strip()
        words = ("device", "token", "--site", "bench", "--url", url, "--json")
        token = json.loads(_typed("aimass_cloud", *words, environ={"AIMASS_KEY": key}))["token"]
        _typed("aimass_edge", "enroll", "--cloud", url, "--token", token, *self._options)

    def agent(self) -> Sample:
        """A turn: start it, wait until it is connected and still, read its memory."""
        command = (sys.executable, "-m", "aimass_edge", "run", *self._options)
        with _process(self._log, *command) as process:
            _poll(self._connected, process)
            time.sleep(SETTLE_S)
            return memory(process.pid)

    def _connected(self) -> bool:
        answer = httpx.get(f"http://127.0.0.1:{self._api}/status", timeout=5)
        return bool(answer.json()["cloud_connected"])


def bare() -> Sample:
    """A turn of the peer."""
    with Child("bare") as child:
        child.hear()
        time.sleep(SETTLE_S / 3)
        return memory(child.pid)


@contextmanager
def _coordinator(root: Path) -> Iterator[tuple[int, str]]:
    port = free_port()
    url, data = f"http://127.0.0.1:{port}", root / "cloud"
    options = ("--data-dir", str(data), "--port", str(port))
    command = (sys.executable, "-m", "aimass_cloud", "serve", *options)
    with _process(root / "cloud.log", *command) as process:
        _poll(lambda: httpx.get(f"{url}/health/ready", timeout=5).is_success, process)
        yield process.pid, url


@contextmanager
def _process(log: Path, *command: str) -> "Iterator[subprocess.Popen[bytes]]":
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environ)
    try:
        yield process
    except BaseException:
        print(log.read_text(encoding="utf-8")[-2000:], file=sys.stderr)
        raise
    finally:
        end(process)


def _poll(found: Found, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if found():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AimassError("a process ended, or was not ready within a minute; its log is above")


def _typed(program: str, *words: str, environ: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", program, *words],
        capture_output=True,
        env={**os.environ, **(environ or {})},
        check=False,
        timeout=DEADLINE_S,
    )
    if done.returncode:
        raise AimassError(f"{program} {words[0]} failed: {done.stderr.decode()[-2000:]}")
    return done.stdout.decode()
