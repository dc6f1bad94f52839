"""Fixtures for all tests: a real broker, free ports, and waiting without luck."""

import asyncio
import inspect
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

Predicate = Callable[[], object]


class Address(NamedTuple):
    host: str
    port: int


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A port that nobody listens on now."""
    return _free_port


def _wait_for_port(address: Address, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"broker ended with {process.returncode}")
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(address) == 0:
                return
    pytest.fail("broker did not listen within 10 s")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Address]:
    """A real mosquitto without TLS on a free port of loopback."""
    binary = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert binary, "install mosquitto: apt-get install mosquitto"
    address = Address("127.0.0.1", _free_port())
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"listener {address.port} {address.host}\nallow_anonymous true\n"
        "persistence false\nset_tcp_nodelay true\nlog_type error\n"
    )
    process = subprocess.Popen([binary, "-c", str(config)])
    try:
        _wait_for_port(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Poll a predicate (plain or async) until it is true; fail after `seconds`."""

    async def poll(predicate: Predicate, seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            result = predicate()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"not within {seconds} s: {inspect.getsource(predicate).strip()}")

    return poll
