"""`aimass demo`: set the stage, tell the story, show the figures, leave nothing behind."""

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aimass_cloud import recipes
from aimass_cloud.broker.own import Wanted
from aimass_cloud.demo import report as reports
from aimass_cloud.demo.report import Report
from aimass_cloud.demo.scenario import plan
from aimass_cloud.demo.scene import Scene
from aimass_cloud.demo.stage import Stage
from aimass_cloud.demo.story import tell
from aimass_shared.errors import InvalidSettingError

RECIPE = "tep"
FAILED = 1
INTERRUPTED = 130


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
        InvalidSettingError: the report cannot be written where it shall be.
    """
    _check_report(options.report)
    with _directory(options.keep) as root:
        told = asyncio.run(_until_interrupted(options, root))
    if told is None:
        sys.stderr.write("interrupted; every process has ended\n")
        return INTERRUPTED
    raw = reports.encode(told)
    if options.report:
        Path(options.report).write_bytes(raw)
    if options.json:
        sys.stdout.write(raw.decode())
    return 0 if told.ok else FAILED


async def _until_interrupted(options: DemoOptions, root: Path) -> Report | None:
    """The report, or None if a signal came first; either way no process is left."""
    telling = asyncio.ensure_future(_tell(options, root))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, telling.cancel)
    try:
        return await telling
    except asyncio.CancelledError:
        return None


async def _tell(options: DemoOptions, root: Path) -> Report:
    recipe = recipes.find(RECIPE)
    scenario = plan(recipe, options.fault, options.seed)
    async with Stage(root, recipe, options.broker) as stage:
        scene = Scene(stage, recipe, scenario, fault=options.fault, seed=options.seed)
        told = await tell(scene)
    scene.voice.console.print()
    reports.show(told, scene.voice.console)
    return told


def _check_report(path: str | None) -> None:
    """Say at the start, not after two minutes, that a report cannot be written."""
    if path and not Path(path).absolute().parent.is_dir():
        raise InvalidSettingError(f"--report {path}: there is no such directory")


@contextmanager
def _directory(keep: str | None) -> Iterator[Path]:
    if keep:
        root = Path(keep).absolute()
        root.mkdir(parents=True, exist_ok=True)
        yield root
        return
    root = Path(tempfile.mkdtemp(prefix="aimass-demo-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
