"""Brings a device to its desired release, or says why not; what ran before runs until then.

    fetch the signed manifest -> does it fit? -> fetch the files -> install -> self-test -> trial
    -> commit (the agent saw it work) | reject (it did not), back to what ran before

Nothing before "trial" touches what is active. This module puts the parts in order and has no rules
of its own; who loads and watches the model is the agent.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from aimass_edge.config import EdgeSettings
from aimass_edge.inventory import board_of
from aimass_edge.update import state as states
from aimass_edge.update.fetch import Downloads, Link, Origin, open_link
from aimass_edge.update.fs import disk_errors
from aimass_edge.update.metadata import Clock, MetadataClient, system_clock_ms
from aimass_edge.update.prove import prove
from aimass_edge.update.slots import MANIFEST_FILE, Bundle, Installed, Slots, bundle_of
from aimass_edge.update.state import State, Verdict
from aimass_shared.errors import (
    ModelLoadFailedError,
    SelfTestFailedError,
    UnfitReleaseError,
)
from aimass_shared.manifest import Role, SliceEntry
from aimass_shared.manifest import decode as decode_manifest
from aimass_shared.messages import Desired, ReleaseRef
from aimass_shared.slices import beside
from aimass_shared.trust import check_fit

log = logging.getLogger(__name__)


class Updater:
    """The device's installs, and the way to a new one. One instance owns one `Slots`."""

    def __init__(
        self,
        settings: EdgeSettings,
        slots: Slots,
        origin: Origin,
        *,
        clock: Clock = system_clock_ms,
    ) -> None:
        """Put together; touches nothing. `clock` gives UTC ms."""
        self._slots = slots
        self._origin = origin
        self._settings = settings.update
        self._board = settings.board
        self._narrower = settings.capacity.narrower
        # A device without a source of its own answers requests, which bring their values along.
        recording = settings.source.kind != "none"
        self._sensors = settings.source.sensors if recording else None
        self._metadata = MetadataClient(slots.root / "metadata", origin, clock)
        self._lock = anyio.Lock()
        self._current: Installed | None = None
        self._booted = False

    def current(self) -> Installed | None:
        """What to run now, verified.

        The first call of a process decides, and spends an attempt of a trial before it returns;
        later calls give what was decided, or came after it. Blocks on the disk (tens of ms).

        Raises:
            StorageError: the disk refuses to keep the decision.
        """
        if not self._booted:
            with disk_errors():
                self._current = self._slots.boot()
            self._booted = True
        return self._current

    async def apply(self, desired: Desired) -> Installed | None:
        """Install what is desired and put it on trial; load what this returns.

        A desired state without a release leaves things as they are. A release that runs already
        is returned as it is, without a request.

        Raises:
            TrustError: the release must not run here (see its leaves); what runs stays.
            ModelLoadFailedError: the runtime refuses the model; what runs stays.
            LinkError: the coordinator does not answer, or not in time; try again later.
            DeadlineExceededError: the self-test took too long, perhaps by the load of the moment.
            StorageError: the disk is full or broken; what is downloaded is kept.
        """
        async with self._lock:
            current = await anyio.to_thread.run_sync(self.current)
            if desired.release is None or (current and current.ref == desired.release):
                return current
            with disk_errors():
                async with open_link(self._origin) as link:
                    self._current = await self._take(link, desired.release)
            return self._current

    async def complete(self) -> tuple[Installed, ...]:
        """The narrower slices that stand beside the settled install, widest first.

        What is here already costs no request. One that fails its self-test is left out for good.

        Raises:
            LinkError: the coordinator does not answer, or not in time; try again later.
            DeadlineExceededError: a self-test took too long, perhaps by the load of the moment.
            StorageError: the disk is full or broken.
            MalformedMessageError: the manifest on the disk was damaged meanwhile.
        """
        async with self._lock:
            current = await anyio.to_thread.run_sync(self.current)
            if current is None or current.trial:
                return ()
            with disk_errors():
                bundles = await self._beside(current)
                found = [await self._accompanied(bundle) for bundle in bundles]
                there = tuple(one for one in found if one is not None)
                digests = tuple(one.digest for one in there)
                await self._change(lambda state: states.accompany(state, digests))
                await anyio.to_thread.run_sync(self._slots.collect)
            return there

    async def confirm(self) -> None:
        """Keep the install on trial: it has worked. Does nothing if there is none."""
        async with self._lock:
            with disk_errors():
                await self._change(states.commit)
                await anyio.to_thread.run_sync(self._slots.collect)
                self._current = await anyio.to_thread.run_sync(self._slots.settled)

    async def reject(self, why: str) -> Installed | None:
        """Never run the current install again; load what this returns, if anything."""
        async with self._lock:
            current = self._current
            if current is not None:
                with disk_errors():
                    await self._condemn(current.digest, Verdict(UnfitReleaseError.code, why))
                    self._current = await anyio.to_thread.run_sync(self._slots.settled)
            return self._current

    async def _take(self, link: Link, ref: ReleaseRef) -> Installed:
        bundle, entry = await self._choose(link, ref)
        install = await anyio.to_thread.run_sync(self._slots.find, bundle.digest)
        if install is None:
            parts = await self._download(link, entry)
            install = await anyio.to_thread.run_sync(self._slots.install, bundle, parts)
        await self._prove(install)
        attempts = self._settings.trial_attempts
        await self._change(lambda state: states.begin_trial(state, install.digest, attempts))
        await anyio.to_thread.run_sync(self._slots.collect)
        log.info("%s of %s is on trial", ref.slice, ref.release)
        return dataclasses.replace(install, trial=True)

    async def _beside(self, current: Installed) -> list[Bundle]:
        """The documents of the slices that are wanted beside an install, and have not failed."""
        manifest = current.manifest
        specs = beside(
            board_of(self._board), manifest.offers(), current.entry.spec, most=self._narrower
        )
        signed = await anyio.to_thread.run_sync((current.directory / MANIFEST_FILE).read_bytes)
        refs = [msgspec.structs.replace(current.ref, slice=spec.name) for spec in specs]
        bad = (await anyio.to_thread.run_sync(self._slots.load)).bad
        return [one for ref in refs if (one := bundle_of(ref, signed)).digest not in bad]

    async def _accompanied(self, bundle: Bundle) -> Installed | None:
        """A slice that is installed and has proved itself; None if it failed to."""
        state = await anyio.to_thread.run_sync(self._slots.load)
        install = await anyio.to_thread.run_sync(self._slots.find, bundle.digest)
        if install is not None and bundle.digest in state.beside:
            return install
        if install is None:
            async with open_link(self._origin) as link:
                parts = await self._download(link, bundle.read()[2])
            install = await anyio.to_thread.run_sync(self._slots.install, bundle, parts)
        try:
            await self._prove(install)
        except (SelfTestFailedError, ModelLoadFailedError) as error:
            log.warning("%s does not run beside the active slice: %s", install.ref.slice, error)
            return None
        return dataclasses.replace(install, trial=False)

    async def _choose(self, link: Link, ref: ReleaseRef) -> tuple[Bundle, SliceEntry]:
        """The signed documents of a slice that fits this device and has not failed on it."""
        state = await anyio.to_thread.run_sync(self._slots.load)
        trusted = await self._metadata.manifest(link, ref.path, state.floor)
        await self._change(lambda state: states.raise_floor(state, trusted.floor))
        manifest = decode_manifest(trusted.manifest)
        if manifest.release != ref.release:
            raise UnfitReleaseError(
                f"{ref.path} holds release {manifest.release}, desired is {ref.release}"
            )
        entry = check_fit(manifest, ref.slice, board_of(self._board), sensors=self._sensors)
        bundle = bundle_of(ref, trusted.manifest)
        states.check_not_bad(state, bundle.digest)
        return bundle, entry

    async def _download(self, link: Link, entry: SliceEntry) -> dict[Role, Path]:
        downloads = Downloads(link, self._slots.incoming, self._slots.fs)
        await anyio.to_thread.run_sync(downloads.keep_only, entry.carried)
        end = anyio.current_time() + self._settings.download_deadline_s
        return {
            ref.role: await downloads.fetch(ref, deadline_s=end - anyio.current_time())
            for ref in entry.carried
        }

    async def _prove(self, install: Installed) -> None:
        """Run the self-test, counted beforehand in case it takes the machine down."""
        state = await self._change(lambda state: states.begin_test(state, install.digest))
        try:
            await self._self_test(install, state.tests[install.digest])
        except (SelfTestFailedError, ModelLoadFailedError) as error:
            await self._condemn(install.digest, Verdict(error.code, error.detail))
            raise

    async def _self_test(self, install: Installed, attempt: int) -> None:
        if attempt > self._settings.trial_attempts:
            raise SelfTestFailedError(f"the self-test did not end, at {attempt - 1} attempts")
        await prove(install.directory, self._board, self._settings.selftest_deadline_s)

    async def _condemn(self, digest: str, verdict: Verdict) -> None:
        log.error("install %.12s is not taken again: %s", digest, verdict.why)
        await anyio.to_thread.run_sync(self._slots.reject, digest, verdict)
        await anyio.to_thread.run_sync(self._slots.collect)

    async def _change(self, step: Callable[[State], State]) -> State:
        return await anyio.to_thread.run_sync(self._slots.change, step)
