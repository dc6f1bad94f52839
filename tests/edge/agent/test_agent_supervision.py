"""What a service manager hears: datagrams on a real socket, beats only while nothing hangs."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from aimass_edge.agent.supervision import Manager, manager_of
from aimass_edge.capacity import Capacity


class Listener(NamedTuple):
    """The manager's side."""

    socket: socket.socket
    path: str

    def heard(self) -> list[str]:
        texts = []
        with suppress(BlockingIOError):
            while True:
                texts.append(self.socket.recv(4096).decode())
        return texts


@pytest.fixture
def listener() -> Iterator[Listener]:
    # Not tmp_path: the path of a socket has 107 bytes at most.
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one,
    ):
        path = f"{folder}/n"
        one.bind(path)
        one.settimeout(0)
        yield Listener(one, path)


async def test_beats_stop_while_something_hangs_and_go_on_after(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    manager = Manager(listener.path, watchdog_s=0.03)
    hangs: list[str] = []
    asked = [anyio.Event() for _ in range(6)]
    turns = 0

    def overdue(most_s: float) -> str:
        nonlocal turns
        assert most_s == 0.03
        turns += 1
        if turns == 3:
            hangs.append("a commit takes 99 s")
        if turns == 5:
            hangs.clear()
        if turns <= len(asked):
            asked[turns - 1].set()
        return "".join(hangs)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(manager.watch, overdue)
        with anyio.fail_after(10):
            await asked[-1].wait()
        tasks.cancel_scope.cancel()
    beat, hung = "WATCHDOG=1", "STATUS=a commit takes 99 s"
    assert listener.heard()[:5] == [beat, beat, hung, beat, beat], "the fourth turn is silent"
    assert "the service manager restarts the agent" in caplog.text


async def test_without_a_watchdog_nobody_is_asked(listener: Listener) -> None:
    with anyio.fail_after(5):
        await Manager(listener.path).watch(lambda _: pytest.fail("asked"))
    assert listener.heard() == []


def test_a_manager_that_is_gone_is_told_once_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = Manager(str(tmp_path / "nobody"))
    manager.say(READY="1")
    manager.say(READY="1")
    assert caplog.text.count("does not listen") == 1


def test_an_abstract_socket_is_found_too() -> None:
    name = f"@aimass-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind("\0" + name[1:])
        one.settimeout(5)
        Manager(name).say(READY="1", STATUS="device press-1")
        assert one.recv(100) == b"READY=1\nSTATUS=device press-1"


def test_who_is_watched_follows_from_the_environment() -> None:
    assert manager_of({}) is None
    assert manager_of({"NOTIFY_SOCKET": "vsock:1:2"}) is None, "only sockets of this machine"
    found = manager_of({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "60000000"})
    assert found is not None
    assert found.watchdog_s == 60
    another = manager_of(
        {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}
    )
    assert another is not None
    assert another.watchdog_s == 0, "another process is watched"
    bad = manager_of({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"})
    assert bad is not None
    assert bad.watchdog_s == 0


def test_a_run_is_overdue_from_its_start_until_its_end() -> None:
    capacity = Capacity()
    ticket = capacity.enter("m", 1)
    assert capacity.running_s(100.0) == 0, "it waits"
    capacity.start(ticket, 100.0)
    assert capacity.running_s(130.0) == 30
    capacity.finish(ticket, 131.0)
    assert capacity.running_s(200.0) == 0
