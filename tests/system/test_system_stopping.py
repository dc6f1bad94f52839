"""`aimass serve` ends within seconds of SIGTERM, whatever it is in the middle of."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aimass_cloud.admin import Admin, ApiError

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

Until = Callable[..., Awaitable[None]]
PortChooser = Callable[[], int]
STOP_S = 6.0
"""The demo waits 8 s before it kills."""


@contextmanager
def _serving(data: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "aimass_cloud", "serve"]
    command += ["--data-dir", str(data), "--port", str(port)]
    with (data.parent / "serve.log").open("ab") as log:
        environ = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


async def _admin_key(data: Path, until: Until) -> str:
    await until((data / "admin.key").is_file, 30)
    return (data / "admin.key").read_text().strip()


def _children(pid: int) -> list[int]:
    """Children of all its threads."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for text in lists for child in text.read_text().split()]


async def test_serve_stops_in_the_middle_of_training_and_says_so_afterwards(
    tmp_path: Path, free_port: PortChooser, until: Until
) -> None:
    data, port = tmp_path / "cloud", free_port()
    with _serving(data, port) as process:
        key = await _admin_key(data, until)
        async with Admin.connect(f"http://127.0.0.1:{port}", key) as admin:
            await until(admin.ready, 30)
            job = await admin.start("train", {"recipe": "sensor-graph"})

            async def trains() -> bool:
                state = await admin.call("GET", f"/api/v1/jobs/{job}")
                assert state["state"] == "running", state
                return bool(0.0 < state["progress"] < 0.8)

            await until(trains, 90)
        children = _children(process.pid)
        assert children, "the broker is a child"
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0
        await until(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()], 5)
    with _serving(data, port) as process:
        key = await _admin_key(data, until)
        async with Admin.connect(f"http://127.0.0.1:{port}", key) as admin:
            await until(admin.ready, 30)
            with pytest.raises(ApiError, match="start it again") as caught:
                await admin.wait(job)
        assert caught.value.code == "job-interrupted"
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0


async def test_serve_stops_in_the_middle_of_slicing_with_its_exporting_process(
    tmp_path: Path, free_port: PortChooser, until: Until
) -> None:
    data, port = tmp_path / "cloud", free_port()
    with _serving(data, port) as process:
        key = await _admin_key(data, until)
        async with Admin.connect(f"http://127.0.0.1:{port}", key) as admin:
            await until(admin.ready, 30)
            trained: dict[str, Any] = await admin.wait(await admin.start("train", {}))
            shutil.rmtree(data / "exports")  # so that slicing exports by itself
            before = set(_children(process.pid))
            await admin.start("slice", {"model": trained["model"], "classes": ["cpu"]})
            # On one core there is no exporting process, and the export itself is what goes on.
            if len(os.sched_getaffinity(0)) > 1:
                await until(lambda: set(_children(process.pid)) - before, 60)
            children = _children(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0
        await until(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()], 5)
