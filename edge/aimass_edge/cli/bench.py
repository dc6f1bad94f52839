"""`aimass-edge bench`: which slices, measured how, and whether the coordinator is told."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from aimass_edge.bench import (
    Benched,
    Order,
    Reporter,
    Target,
    bench,
    of_file,
    of_installs,
    of_offers,
    origin_of,
)
from aimass_edge.config import EdgeSettings
from aimass_edge.enroll import Identity
from aimass_edge.update.slots import Slots
from aimass_shared.claims import claimed
from aimass_shared.errors import AimassError, NotFoundError

FOLDER = "benching-"


class Answer(NamedTuple):
    """What was measured, and whether the coordinator knows."""

    benched: Benched
    report: str

    @property
    def document(self) -> dict[str, object]:
        """All of it as JSON."""
        ok = not self.benched.failed
        return {"ok": ok, **msgspec.to_builtins(self.benched), "report": self.report}


def run_bench(args: argparse.Namespace, settings: EdgeSettings) -> Answer:
    """Measure what was asked for, and tell the coordinator.

    Raises:
        NoActiveModelError, ModelLoadFailedError: there is nothing to measure.
        NotFoundError: `--all` or `--report` was given, and the device is not enrolled.
        ConflictError: another bench runs on this data directory.
    """
    order = Order(
        batches=tuple(sorted({1, args.batch})),
        seconds=args.seconds,
        sysfs=args.sysfs,
        nodes=args.nodes,
        turns=args.turns,
    )
    if args.report:
        Identity.load(Path(settings.data_dir))  # before it takes its time
    benched = _measured(args, settings, order)
    return Answer(benched, asyncio.run(_report(args, settings, benched)))


def _measured(args: argparse.Namespace, settings: EdgeSettings, order: Order) -> Benched:
    if args.file:
        return _bench([of_file(Path(args.file))], settings, order)
    data = Path(settings.data_dir)
    slots = Slots(data / "models")
    # Two at once would measure each other.
    with claimed(data / "bench.lock", otherwise="another bench runs here: wait for it"):
        targets = of_installs(slots)
        if not args.all:
            return _bench(targets, settings, order)
        for left in data.glob(f"{FOLDER}*"):  # of one that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=FOLDER, dir=data) as folder:
            offers = asyncio.run(_offers(slots, settings, Path(folder)))
            return _bench([*targets, *offers], settings, order)


async def _offers(slots: Slots, settings: EdgeSettings, folder: Path) -> list[Target]:
    origin = origin_of(Identity.load(Path(settings.data_dir)))
    deadline_s = settings.update.download_deadline_s
    return await of_offers(slots, settings.board, origin, folder=folder, deadline_s=deadline_s)


def _bench(targets: list[Target], settings: EdgeSettings, order: Order) -> Benched:
    return bench(targets, settings.board, order, progress=_progress)


async def _report(args: argparse.Namespace, settings: EdgeSettings, benched: Benched) -> str:
    """Tell the coordinator, and say how that went; a report that fails is kept, and no failure."""
    data = Path(settings.data_dir)
    if args.file or args.report is False:
        return "not asked for"
    try:
        identity = Identity.load(data)
    except NotFoundError:
        return "the device is not enrolled"
    try:
        count = await Reporter(identity, data).send(benched.measured)
    except AimassError as error:
        return f"kept for the next time: {error}"
    return f"{count} kept by the coordinator"


def _progress(line: str) -> None:
    sys.stderr.write(f"{line}\n")
