"""What can be measured: slices that are installed, those that the release offers besides, any file.

Slices that are not installed are fetched into a folder of their own and verified as an update's
are; nothing of the device's installs is touched.
"""

from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from aimass_edge.config import BoardSettings
from aimass_edge.inventory import board_of
from aimass_edge.update.fetch import Downloads, Origin, open_link
from aimass_edge.update.slots import FILE_NAMES, Bundle, Installed, Slots, bundle_of
from aimass_shared.errors import ModelLoadFailedError, NoActiveModelError
from aimass_shared.manifest import SliceEntry
from aimass_shared.messages import ReleaseRef
from aimass_shared.slices import fits

OF_A_FILE = "-"
MOST_CHARACTERS = 64


@dataclass(frozen=True)
class Target:
    """A model file with the names that its measurement goes by; `directory` of its install."""

    model: str
    release: str
    slice: str
    path: Path
    directory: Path | None = None


def of_file(path: Path) -> Target:
    """Any ONNX file.

    Raises:
        ModelLoadFailedError: there is none.
    """
    if not path.is_file():
        raise ModelLoadFailedError(f"there is no model file {path}")
    return Target(path.stem[:MOST_CHARACTERS], OF_A_FILE, path.name[:MOST_CHARACTERS], path)


def of_installs(slots: Slots) -> list[Target]:
    """The slices that are on this device: active, on trial, previous.

    Raises:
        NoActiveModelError: there is none.
        StateCorruptError: the state is damaged.
    """
    return [_target(installed) for installed in _installs(slots)]


async def of_offers(
    slots: Slots, board: BoardSettings, origin: Origin, *, folder: Path, deadline_s: float
) -> list[Target]:
    """The slices of the newest install's release that fit this board and are not installed.

    Args:
        slots: the device's installs, which are only read.
        board: what has to be fitted.
        origin: of the files.
        folder: where they are put; whose it is removes it.
        deadline_s: for each of them.

    Raises:
        NoActiveModelError: nothing is installed: nobody knows which release.
        LinkError: the coordinator does not answer, or not in time.
        TrustError: what came is not what was signed.
    """
    newest = (await anyio.to_thread.run_sync(_installs, slots))[0]
    apart = Slots(folder)
    await anyio.to_thread.run_sync(apart.prepare)
    targets = []
    async with open_link(origin) as link:
        downloads = Downloads(link, apart.incoming, apart.fs)
        for entry in await anyio.to_thread.run_sync(_missing, slots, newest, board):
            parts = {
                ref.role: await downloads.fetch(ref, deadline_s=deadline_s) for ref in entry.carried
            }
            bundle = _bundle(newest, entry)
            targets.append(_target(await anyio.to_thread.run_sync(apart.install, bundle, parts)))
    return targets


def _missing(slots: Slots, newest: Installed, board: BoardSettings) -> list[SliceEntry]:
    have = {
        one.entry.spec.name for one in _installs(slots) if one.ref.release == newest.ref.release
    }
    offered = board_of(board)
    return [
        entry
        for entry in newest.manifest.slices
        if entry.spec.name not in have and fits(offered, entry.spec, entry.cost)
    ]


def _bundle(newest: Installed, entry: SliceEntry) -> Bundle:
    """Another slice of the release whose manifest was verified when it was installed."""
    ref = ReleaseRef(newest.ref.release, newest.ref.path, entry.spec.name)
    return bundle_of(ref, (newest.directory / "manifest.json").read_bytes())


def _installs(slots: Slots) -> list[Installed]:
    """All that is there, the newest first."""
    state = slots.load()
    trial = state.trial.digest if state.trial else ""
    digests = dict.fromkeys((trial, state.active, *sorted(state.keeps())))
    found = [slots.find(digest) for digest in digests]
    installs = [one for one in found if one is not None]
    if not installs:
        raise NoActiveModelError(f"no slice is installed in {slots.root}: a rollout brings one")
    return installs


def _target(installed: Installed) -> Target:
    return Target(
        installed.manifest.model,
        installed.ref.release,
        installed.entry.spec.name,
        installed.directory / FILE_NAMES["model"],
        installed.directory,
    )
