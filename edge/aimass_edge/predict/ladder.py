"""The slices that are loaded: the active one, and narrower ones of its release beside it.

A swap loads the next before the last is let go, so that no request waits for it: for that while the
memory of both is taken.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anyio.to_thread

from aimass_edge.capacity import Capacity
from aimass_edge.config import BoardSettings
from aimass_edge.predict.active import MODEL_FILE, Active, Opener, open_checked
from aimass_edge.predict.limits import Calibration
from aimass_edge.predict.site import SiteWatch
from aimass_shared.errors import NoActiveModelError
from aimass_shared.manifest import Manifest, SliceEntry

log = logging.getLogger(__name__)


class Ladder:
    """Opens and lets go of slices, and keeps the account of their times. For one task at a time."""

    def __init__(
        self,
        board: BoardSettings,
        opener: Opener,
        *,
        capacity: Capacity,
        clock: Callable[[], float],
    ) -> None:
        self._board = board
        self._opener = opener
        self._capacity = capacity
        self._clock = clock
        self.active: Active | None = None
        self.narrower: tuple[Active, ...] = ()

    @property
    def all(self) -> tuple[Active, ...]:
        """What answers requests, widest first.

        Raises:
            NoActiveModelError: no slice is active.
        """
        if self.active is None:
            raise NoActiveModelError("no model is active yet; a rollout brings one")
        return (self.active, *self.narrower)

    async def open(
        self,
        manifest: Manifest,
        entry: SliceEntry,
        directory: Path,
        *,
        calibration: Calibration | None = None,
        site: SiteWatch | None = None,
    ) -> Active:
        """A slice that was loaded and tried, whose time is known; it answers nothing yet.

        Raises:
            ModelLoadFailedError: it does not load, match its contract or run.
        """
        path, contract = directory / MODEL_FILE, manifest.contract
        opened = await anyio.to_thread.run_sync(
            partial(open_checked, path, self._board, contract, opener=self._opener)
        )
        active = Active(
            manifest,
            entry,
            opened.session,
            window_ms=opened.window_ms,
            calibration=calibration,
            site=site,
        )
        now = self._clock()
        self._capacity.times.add(active.key, 1, measured_ms=opened.window_ms, now=now)
        log.info("%s is loaded, %.2f ms a window at best", active.key, opened.window_ms)
        return active

    async def narrow(self, slices: Sequence[tuple[SliceEntry, Path]]) -> None:
        """Have narrower slices beside the active one, in the place of those before.

        Raises:
            NoActiveModelError: no slice is active.
            ModelLoadFailedError: one does not load; nothing changes.
        """
        manifest, opened = self.all[0].manifest, list[Active]()
        try:
            for entry, directory in slices:
                opened.append(await self.open(manifest, entry, directory))
        except BaseException:
            for one in opened:
                one.retire()
            raise
        self._replace_narrower(tuple(opened))

    def replace(self, active: Active | None) -> None:
        """Answer by another slice from now on, or by none; the narrower ones were of the last."""
        self._replace_narrower(())
        before, self.active = self.active, active
        if before is not None:
            self._let_go(before, () if active is None else (active,))

    def _replace_narrower(self, slices: tuple[Active, ...]) -> None:
        before, self.narrower = self.narrower, slices
        for one in before:
            self._let_go(one, slices)

    def _let_go(self, one: Active, kept: tuple[Active, ...]) -> None:
        """Close a slice after its last run; its times are forgotten if it is not there again."""
        one.retire()
        if one.key not in {other.key for other in kept}:
            self._capacity.times.forget(one.key)
