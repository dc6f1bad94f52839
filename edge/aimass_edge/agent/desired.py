"""Takes the device to its desired state and reports how that went.

The newest desired state wins; one is taken only if its `v` grew, and the highest `v` is kept over
restarts, so that a broker cannot replay an old one. A release is on trial until it has predicted
enough windows or answered enough requests; if it fails on them, the device goes back to what ran
before. One that takes requests only cannot make anybody ask: it is kept when it has run for a while
without a failure. Nothing that a release or the disk does ends the loops here: what cannot be done
is reported, and what runs keeps running.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import anyio
import msgspec

from aimass_edge.config import UpdateSettings
from aimass_edge.durable import replace_durably
from aimass_edge.update.slots import Installed
from aimass_shared.errors import AimassError, LinkError, ModelError, ModelLoadFailedError
from aimass_shared.messages import Desired, Reported, ReportedState

log = logging.getLogger(__name__)

Report = Callable[[Reported], Awaitable[None]]
RETRY_S = 2.0
BESIDE_RETRY_S = 30.0
WATCH_S = 1.0
MAX_FAILURES_ON_TRIAL = 3


class Updates(Protocol):
    """Who installs releases."""

    def current(self) -> Installed | None:
        """What to run now."""
        ...

    async def apply(self, desired: Desired) -> Installed | None:
        """Install what is desired and put it on trial."""
        ...

    async def confirm(self) -> None:
        """Keep the install on trial."""
        ...

    async def complete(self) -> tuple[Installed, ...]:
        """The narrower slices that stand beside the settled install."""
        ...

    async def reject(self, why: str) -> Installed | None:
        """Never run the current install again; load what this returns."""
        ...


class Activates(Protocol):
    """Who runs what is installed."""

    async def activate(self, installed: Installed) -> None:
        """Run another slice from now on; the old one answers until then."""
        ...

    async def deactivate(self) -> None:
        """Run nothing from now on."""
        ...

    async def narrow(self, beside: Sequence[Installed]) -> None:
        """Have narrower slices beside the active one of their release."""
        ...

    @property
    def predictions(self) -> int:
        """Windows predicted and requests answered so far."""
        ...

    @property
    def failures(self) -> int:
        """Requests that the model failed on so far."""
        ...


class _Trial(msgspec.Struct, frozen=True):
    """What the counts were when a trial began, and when that was (monotonic seconds)."""

    predictions: int
    failures: int
    begun: float


class DesiredState:
    """Follows the desired state; `run` is its loop."""

    def __init__(
        self,
        updates: Updates,
        activates: Activates,
        settings: UpdateSettings,
        *,
        kept: Path,
        report: Report,
    ) -> None:
        self._updates = updates
        self._activates = activates
        self._settings = settings
        self._kept = kept
        self._report = report
        self._wanted: Desired | None = None
        self._changed = anyio.Event()
        self._settled = anyio.Event()
        self._trial: _Trial | None = None
        self._failures = 0
        self.installed: Installed | None = None
        self.reported = Reported(v=0, ts=0, state="idle")

    async def start(self) -> None:
        """Run what is installed already; a device without a coordinator works from here on."""
        self.reported = _read(self._kept)
        installed = await anyio.to_thread.run_sync(self._updates.current)
        if installed is None:
            return
        try:
            await self._run(installed)
        except AimassError as error:
            # It was proved on this device, so it may work again after what was changed here.
            log.error("the installed release does not load, nothing runs: %s", error)  # noqa: TRY400  one line
            await self._say("rejected", self.reported.v, error)

    def want(self, desired: Desired) -> None:
        """Note a desired state; an older one than what was taken is ignored."""
        if desired.v < self.reported.v or (self._wanted and desired.v <= self._wanted.v):
            return
        self._wanted = desired
        self._changed.set()

    async def run(self) -> None:
        """Take desired states one after the other until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            desired = self._wanted
            if desired is not None:
                await self._take(desired)

    async def accompany(self) -> None:
        """Have narrower slices beside every install that settles, until cancelled.

        They are a help and no more: what cannot be had is left out, and tried again if the
        coordinator only did not answer.
        """
        while True:
            await self._settled.wait()
            self._settled = anyio.Event()
            try:
                await self._activates.narrow(await self._updates.complete())
            except LinkError as error:
                log.info("narrower slices not fetched, trying again: %s", error)
                await anyio.sleep(BESIDE_RETRY_S)
                self._settled.set()
            except AimassError as error:
                log.warning("no narrower slices beside %s: %s", self._name(), error)

    async def watch_trial(self) -> None:
        """Keep the install on trial once it has done enough, or go back from one that fails."""
        while True:
            await anyio.sleep(WATCH_S)
            trial = self._trial
            if trial is None:
                continue
            failures = self._activates.failures - trial.failures
            if failures >= MAX_FAILURES_ON_TRIAL:
                await self._fail(ModelError(f"the model failed on {failures} requests"))
            elif self._has_proved_itself(trial):
                await self._confirm()

    def _has_proved_itself(self, trial: _Trial) -> bool:
        if self._activates.predictions - trial.predictions >= self._settings.trial_predictions:
            return True
        installed, ran_s = self.installed, anyio.current_time() - trial.begun
        asked_only = installed is not None and not installed.manifest.contract.telemetry
        return asked_only and ran_s >= self._settings.trial_s

    async def failed(self, error: AimassError) -> None:
        """Hear of a window that the active model failed on; enough of them end its trial."""
        self._failures += 1
        log.log(
            logging.WARNING if self._failures == 1 else logging.DEBUG, "no prediction: %s", error
        )
        if self._trial is not None and self._failures >= MAX_FAILURES_ON_TRIAL:
            await self._fail(error)

    async def _fail(self, error: AimassError) -> None:
        """End a trial for good, and say why."""
        await self._go_back(f"failed on its trial: {error}")
        await self._say("rejected", self.reported.v, error)

    async def _confirm(self) -> None:
        trial, self._trial = self._trial, None  # a failure from now on is none of a trial
        try:
            await self._updates.confirm()
        except AimassError as error:  # the disk; the trial goes on
            self._trial = trial
            log.warning("release %s cannot be kept yet: %s", self._name(), error)
            return
        self._settled.set()
        log.info("release %s has proved itself", self._name())

    async def _go_back(self, why: str) -> None:
        """Run what ran before, and never again what runs now."""
        self._trial = None
        try:
            previous = await self._updates.reject(why)
            if previous is not None:
                await self._activate(previous)
                self._settled.set()
                return
        except AimassError as error:
            log.warning("there is nothing to go back to: %s", error)
        self.installed = None
        await self._activates.deactivate()

    async def _take(self, desired: Desired) -> None:
        await self._say("applying", desired.v)
        try:
            await self._apply(desired)
        except LinkError as error:
            log.warning("release not fetched, trying again: %s", error)
            await anyio.sleep(RETRY_S)
            self._changed.set()
        except AimassError as error:
            log.warning("release refused, the old one keeps running: %s", error)
            await self._say("rejected", desired.v, error)

    async def _apply(self, desired: Desired) -> None:
        installed = await self._updates.apply(desired)
        running = self.installed.digest if self.installed else ""
        if installed is not None and installed.digest != running:
            await self._run(installed)
        await self._say("applied", desired.v)

    async def _run(self, installed: Installed) -> None:
        """Activate an install and watch it if it is on trial.

        Raises:
            ModelLoadFailedError: the runtime refuses it; one on trial is not tried again.
        """
        try:
            await self._activate(installed)
        except ModelLoadFailedError as error:
            if installed.trial:
                await self._refuse(error)
            raise
        self._trial = self._begun() if installed.trial else None
        if not installed.trial:
            self._settled.set()

    def _begun(self) -> _Trial:
        counts = self._activates
        return _Trial(counts.predictions, counts.failures, anyio.current_time())

    async def _refuse(self, error: AimassError) -> None:
        """Condemn an install that did not load; what ran before still does, or is loaded."""
        previous = await self._updates.reject(f"does not load: {error.detail}")
        if self.installed is None and previous is not None:
            await self._activate(previous)

    async def _activate(self, installed: Installed) -> None:
        await self._activates.activate(installed)
        self.installed = installed
        self._failures = 0
        log.info("running %s", self._name())

    def _name(self) -> str:
        return f"{self.installed.ref.release}/{self.installed.ref.slice}" if self.installed else "-"

    async def _say(self, state: ReportedState, v: int, error: AimassError | None = None) -> None:
        self.reported = Reported(
            v=v,
            ts=int(time.time() * 1000),
            state=state,
            release=self.installed.ref if self.installed else None,
            code=error.code if error else "",
            why=error.detail if error else "",
        )
        if state != "applying":
            await anyio.to_thread.run_sync(_keep, self._kept, self.reported)
        await self._report(self.reported)


def _read(path: Path) -> Reported:
    """What was reported last; nothing if there is no file or it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Reported)
    except (OSError, msgspec.DecodeError):
        return Reported(v=0, ts=0, state="idle")


def _keep(path: Path, reported: Reported) -> None:
    """Write it down; a full disk costs no more than hearing an old wish again."""
    try:
        replace_durably(path, msgspec.json.encode(reported))
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)
