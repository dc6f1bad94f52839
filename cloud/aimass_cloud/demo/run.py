"""`aimass demo`: set the stage, tell the story, show the figures, leave nothing behind."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aimass_cloud.broker.own import Wanted
from aimass_cloud.demo import report as reports
from aimass_cloud.demo.interruption import Interruption
from aimass_cloud.demo.report import Report
from aimass_cloud.demo.scenario import plan
from aimass_cloud.demo.scene import Scene
from aimass_cloud.demo.stage import Stage
from aimass_cloud.demo.story import tell
from aimass_cloud.recipes import tep
from aimass_shared.errors import InvalidSettingError

FAILED = 1
INTERRUPTED = 130
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class DemoOptions:
    """What `aimass demo` was asked for. `keep` is a directory for all files of the run."""

    report: str | None = None
    seed: int = 0
    fault: int = 1
    broker: Wanted = "auto"
    keep: str | None = None
    json: bool = False


def run(options: DemoOptions) -> int:
    """Play the demo; returns 0 if every claim of its story held.

    Raises:
        NotFoundError: there is no such fault.
        InvalidSettingError: the seed is out of range, or files cannot be written where they shall
            be.
    """
    _check(options)
    with Interruption() as interruption, _directory(options.keep) as root:
        told = asyncio.run(interruption.cancels(_tell(options, root)))
    if told is None:
        sys.stderr.write("interrupted; every process has ended\n")
        return INTERRUPTED
    raw = reports.encode(told)
    if options.report:
        Path(options.report).write_bytes(raw)
    if options.json:
        sys.stdout.write(raw.decode())
    return 0 if told.ok else FAILED


async def _tell(options: DemoOptions, root: Path) -> Report:
    plant = tep.PLANT
    scenario = plan(plant, options.fault, options.seed)
    async with Stage(root, plant, options.broker) as stage:
        scene = Scene(stage, plant, scenario, fault=options.fault, seed=options.seed)
        told = await tell(scene)
    scene.voice.console.print()
    reports.show(told, scene.voice.console)
    return told


def _check(options: DemoOptions) -> None:
    """Say at the start, not after two minutes, what cannot be done."""
    if not 0 <= options.seed <= MAX_SEED:
        raise InvalidSettingError(f"--seed {options.seed}: choose one from 0 to {MAX_SEED}")
    if options.report:
        _check_report(Path(options.report).absolute())


def _check_report(path: Path) -> None:
    if not path.parent.is_dir():
        raise InvalidSettingError(f"--report {path}: there is no such directory")
    if path.is_dir():
        raise InvalidSettingError(f"--report {path}: this is a directory; name a file in it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidSettingError(f"--report {path}: you may not write there")


@contextmanager
def _directory(keep: str | None) -> Iterator[Path]:
    if keep:
        yield _empty(Path(keep).absolute())
        return
    root = Path(tempfile.mkdtemp(prefix="aimass-demo-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _empty(root: Path) -> Path:
    """A directory to keep a run in: made if need be. Another run's identities would be refused."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        used = any(root.iterdir())
    except OSError as error:
        raise InvalidSettingError(f"--keep {root}: {error.strerror}") from error
    if used:
        raise InvalidSettingError(f"--keep {root}: it is not empty; name a new directory")
    return root
