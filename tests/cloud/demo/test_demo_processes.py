"""The demo's children: started, watched, ended, and never left, however we end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from aimass_cloud.demo import processes
from aimass_cloud.demo.processes import ChildFailedError, Process, output_of

Until = Callable[..., Awaitable[None]]

SLEEPS = "import time; print('up', flush=True); time.sleep(300)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    " print('up', flush=True); time.sleep(300)"
)
HAS_A_CHILD = (
    "import subprocess, sys, time;"
    " subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)', sys.argv[1]]);"
    " print('up', flush=True); time.sleep(300)"
)


def _command(code: str, mark: str) -> list[str]:
    """A Python that can be found by `mark` in its command line."""
    return [sys.executable, "-c", code, mark]


def _alive(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        if mark.encode() in words:
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def mark() -> str:
    return f"mark-{uuid4().hex}"


def _process(code: str, mark: str, log: Path) -> Process:
    return Process("the child", _command(code, mark), log, environ={})


async def test_it_runs_within_the_block_and_not_after(
    tmp_path: Path, mark: str, until: Until
) -> None:
    log = tmp_path / "log"
    async with _process(SLEEPS, mark, log) as process:
        await until(lambda: log.read_text() == "up\n")
        assert len(_alive(mark)) == 1
        process.check()
    await until(lambda: not _alive(mark), 2)


async def test_it_can_be_started_again_and_its_log_goes_on(
    tmp_path: Path, mark: str, until: Until
) -> None:
    log = tmp_path / "log"
    async with _process(SLEEPS, mark, log) as process:
        await until(lambda: log.read_text() == "up\n")
        await process.stop()
        process.check()  # stopped by us is no failure
        assert not _alive(mark)
        await process.start()
        await until(lambda: log.read_text() == "up\nup\n")
    assert not _alive(mark)


async def test_who_does_not_go_gently_is_killed(
    tmp_path: Path, mark: str, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_S", 0.2)
    log = tmp_path / "log"
    async with _process(STUBBORN, mark, log):
        await until(lambda: log.read_text() == "up\n")
    await until(lambda: not _alive(mark), 2)


async def test_what_a_child_started_itself_ends_with_it(
    tmp_path: Path, mark: str, until: Until
) -> None:
    log = tmp_path / "log"
    async with _process(HAS_A_CHILD, mark, log):
        await until(lambda: log.read_text() == "up\n")
        await until(lambda: len(_alive(mark)) == 2)
    await until(lambda: not _alive(mark), 2)


async def test_one_that_ends_by_itself_is_an_error_with_its_last_words(
    tmp_path: Path, mark: str, until: Until
) -> None:
    code = "import sys; [print('line', n) for n in range(20)]; sys.exit('the disk is full')"
    async with _process(code, mark, tmp_path / "log") as process:

        def ended() -> bool:
            try:
                process.check()
            except ChildFailedError:
                return True
            return False

        await until(ended)
        with pytest.raises(ChildFailedError) as caught:
            process.check()
    assert caught.value.code == "demo-process"
    assert caught.value.detail.startswith("the child ended with 1:\n")
    assert "the disk is full" in caught.value.detail
    assert "line 19" in caught.value.detail
    assert "line 2\n" not in caught.value.detail, "the last ones only"


async def test_cancelled_at_any_step_of_its_start_nothing_is_left(
    tmp_path: Path, mark: str, until: Until
) -> None:
    async def lives() -> None:
        async with _process(SLEEPS, mark, tmp_path / "log"):
            await asyncio.sleep(300)

    for steps in range(12):
        task = asyncio.create_task(lives())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: not _alive(mark), 2)


async def test_output_of_gives_standard_output_alone_and_the_environment_is_added() -> None:
    code = "import os, sys; print(os.environ['EXTRA']); print('chatter', file=sys.stderr)"
    out = await output_of("it", _command(code, ""), environ={"EXTRA": "42"})
    assert out == b"42\n"


async def test_output_of_one_that_fails_says_its_words() -> None:
    with pytest.raises(ChildFailedError, match="enrolment of north: no such token"):
        await output_of(
            "enrolment of north", _command("import sys; sys.exit('no such token')", ""), environ={}
        )


async def test_output_of_one_that_takes_too_long_is_killed(
    mark: str, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "COMMAND_S", 0.5)
    with pytest.raises(ChildFailedError, match="enrolment took longer than"):
        await output_of("enrolment", _command(STUBBORN, mark), environ={})
    await until(lambda: not _alive(mark), 2)


@pytest.mark.parametrize("code", [STUBBORN, HAS_A_CHILD])
async def test_output_of_kills_when_cancelled(code: str, mark: str, until: Until) -> None:
    task = asyncio.create_task(output_of("it", _command(code, mark), environ={}))
    await until(lambda: len(_alive(mark)) == (2 if code == HAS_A_CHILD else 1))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not _alive(mark), 2)


PARENT = """\
import asyncio, sys
from pathlib import Path
from aimass_cloud.demo.processes import Process, output_of

command = [sys.executable, "-c", sys.argv[2], sys.argv[3]]

async def main():
    if sys.argv[1] == "short":
        await output_of("it", command, environ={})
    async with Process("it", command, Path(sys.argv[4]), environ={}):
        await asyncio.sleep(300)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["short", "long"])
async def test_killed_by_force_we_leave_no_child(
    kind: str, tmp_path: Path, mark: str, until: Until
) -> None:
    arguments = [kind, SLEEPS, f"{mark}-child", str(tmp_path / "log")]
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, *arguments)
    try:
        await until(lambda: len(_alive(f"{mark}-child")) == 2, 20)
    finally:
        parent.kill()
        await asyncio.wait_for(parent.wait(), 10)
    assert parent.returncode == -signal.SIGKILL
    await until(lambda: not _alive(f"{mark}-child"), 5)


def test_a_child_whose_parent_is_gone_already_does_not_start(mark: str, tmp_path: Path) -> None:
    command = processes.tethered(_command("open('started', 'w')", mark))
    command[command.index(str(os.getpid()))] = "1"  # as if it had been orphaned meanwhile
    before = time.monotonic()
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 1
    assert time.monotonic() - before < 10
    assert not (tmp_path / "started").exists()
