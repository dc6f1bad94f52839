"""The active slice at work: telemetry windows and requests in, predictions and answers out.

It owns the slice, the worker and the account of its time; how a window is read is `telemetry`, and
where a request goes is `dispatch`.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import final

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from aimass_edge.capacity import Capacity
from aimass_edge.config import BoardSettings, CapacitySettings
from aimass_edge.inventory import rss_mib
from aimass_edge.predict.active import Active, Opener
from aimass_edge.predict.counts import Counts, Status
from aimass_edge.predict.dispatch import Cloud, Dispatch, Workbench
from aimass_edge.predict.drift import Drift
from aimass_edge.predict.ladder import Ladder
from aimass_edge.predict.limits import Calibrations, SiteLimit
from aimass_edge.predict.site import SiteMonitors, SiteStatus
from aimass_edge.predict.telemetry import (
    Explanation,
    Outcome,
    Source,
    explanation,
    judge,
    model_input,
    prediction,
)
from aimass_edge.predict.worker import Worker
from aimass_edge.runtime import open_session
from aimass_shared import __version__
from aimass_shared.errors import NotFoundError
from aimass_shared.inference import InferRequest, InferResponse, ModelMetadata
from aimass_shared.manifest import Contract, Manifest, SliceEntry
from aimass_shared.messages import AgentStats, Prediction
from aimass_shared.spreading import answered, asks_for_many, spread_of
from aimass_shared.windows import Window

PART = 8
"""Samples of one part of a request that is many: telemetry waits for no more than one part."""

log = logging.getLogger(__name__)


@final
class Predictor:
    """Answers by the active slice, by the cloud, or with an honest no, always by the deadline.

    It implements `aimass_shared.inference.Backend`. All methods belong to one event loop.
    """

    name = "aimass-edge"
    version = __version__

    def __init__(  # noqa: PLR0913  by name, and each has a default
        self,
        board: BoardSettings,
        capacity: CapacitySettings,
        *,
        cloud: Cloud | None = None,
        calibrations: Calibrations | None = None,
        sites: SiteMonitors | None = None,
        opener: Opener = open_session,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `async with` starts the worker.

        Args:
            board: whose pace, threads and providers sessions get.
            capacity: limits of the queue and of requests that name no deadline.
            cloud: where requests go that are too much for here; None refuses them.
            calibrations: how limits of this site are found; None keeps those of the releases.
            sites: how a monitor of this site is made; None makes none.
            opener: loads a model file.
            clock: monotonic seconds.
        """
        self._board_name = board.name
        self._default_deadline_ms = capacity.default_deadline_ms
        self._cloud = cloud
        self._calibrations = calibrations or Calibrations()
        self._sites = sites or SiteMonitors()
        self._clock = clock
        self._capacity = Capacity()
        self._ladder = Ladder(board, opener, capacity=self._capacity, clock=clock)
        self._worker = Worker(self._capacity, clock)
        self.counts = Counts()
        self._bench = Workbench(self._capacity, self._worker, self.counts, clock)
        self._dispatch = Dispatch(self._bench, capacity, cloud=cloud, find=self._found)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._swap = anyio.Lock()

    async def __aenter__(self) -> "Predictor":
        """Start the worker."""
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._worker.work, name="aimass-predict")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the run that is under way end, answer what waits, close the slice."""
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            return
        tasks.cancel_scope.cancel()
        try:
            await tasks.__aexit__(kind, error, trace)  # raises what it is given
        finally:
            self._worker.close()
            self._ladder.replace(None)

    async def activate(self, manifest: Manifest, entry: SliceEntry, directory: Path) -> None:
        """Make a slice of a release the one that answers; the one before answers until then.

        Args:
            manifest: the release.
            entry: its slice.
            directory: where its files are.

        Raises:
            ModelLoadFailedError: it does not load, match its contract or run; nothing changes.
        """
        async with self._swap:
            active = await self._ladder.open(
                manifest,
                entry,
                directory,
                calibration=await anyio.to_thread.run_sync(self._calibrations.of, manifest),
                site=await anyio.to_thread.run_sync(self._sites.of, manifest, entry, directory),
            )
            self._ladder.replace(active)
        log.info("%s answers", active.key)

    async def narrow(self, release: str, slices: Sequence[tuple[SliceEntry, Path]]) -> None:
        """Have narrower slices beside the active one, for requests that it is late for.

        Args:
            release: that they are of; nothing happens if another one is active by now.
            slices: with the folders of their files, widest first; in the place of those before.

        Raises:
            ModelLoadFailedError: one does not load, match its contract or run; nothing changes.
        """
        async with self._swap:
            active = self._active
            if active is not None and active.manifest.release == release:
                await self._ladder.narrow(slices)

    async def deactivate(self) -> None:
        """Answer nothing from now on; what is being answered is answered."""
        async with self._swap:
            self._ladder.replace(None)

    @property
    def _active(self) -> Active | None:
        return self._ladder.active

    def ready(self) -> bool:
        """Whether a slice is active."""
        return self._active is not None

    @property
    def contract(self) -> Contract | None:
        """What the active model needs from telemetry; None while there is no model."""
        return self._active.manifest.contract if self._active else None

    def models(self) -> Sequence[str]:
        """Name of the active model, if there is one."""
        return [self._active.manifest.model] if self._active else []

    def metadata(self, model: str, version: str) -> ModelMetadata:
        """What the active slice takes and gives.

        Raises:
            NotFoundError: another model or release is asked for.
            NoActiveModelError: there is none.
        """
        active = self._named(model, version)
        return ModelMetadata(
            name=active.manifest.model,
            versions=(active.manifest.release,),
            platform="onnxruntime_onnx",
            inputs=active.session.inputs,
            outputs=active.session.outputs,
        )

    async def predict(self, window: Window, sensors: tuple[str, ...]) -> Prediction | None:
        """Judge one window of telemetry with the local slice.

        None if too little was measured, or if the active model takes no telemetry.

        Args:
            window: as long as the contract asks for; other channels than the model's are left out.
            sensors: names of the window's channels, in order.

        Raises:
            NoActiveModelError: no slice is active.
            BadTensorError: the window has the wrong length.
            ModelError: the model failed or gave a score that is no number.
        """
        active = self._active
        if active is not None and not active.manifest.contract.telemetry:
            return None  # it became active after the window was cut
        self.counts.windows += 1
        try:
            result = await self._predict(self._ladder.all[0], window, sensors)
        except BaseException:
            self.counts.failed_windows += 1
            raise
        if result is None:
            self.counts.uncovered += 1
        else:
            self.counts.predicted += 1
            self.counts.alarms += result.alarm
        return result

    async def _predict(
        self, active: Active, window: Window, sensors: tuple[str, ...]
    ) -> Prediction | None:
        start = self._clock()
        contract = active.manifest.contract
        taken = model_input(contract, window, active.selection(sensors))
        if taken.coverage < contract.min_coverage:
            return None
        outputs = await self._worker.submit(active, taken.feeds, telemetry=True, remaining_s=None)
        judged = judge(contract, outputs)
        active.drift.step(taken.feeds, window.end_ms, judged.forecast)
        weighed = active.weighed(taken, judged)
        judged, threshold = weighed.judged, weighed.threshold
        active.explanation = explanation(contract, window, judged, threshold=threshold)
        self._watch_site(active, window.end_ms)
        outcome = Outcome(
            threshold=threshold,
            alarm=weighed.alarm,
            coverage=taken.coverage,
            service_ms=self._bench.done_ms(start),
        )
        return prediction(Source(active.manifest, active.entry), window, judged, outcome=outcome)

    def _watch_site(self, active: Active, end_ms: int) -> None:
        """Let the site's monitor look for its rows beside the predictions, when it is time to."""
        if active.site is not None and active.site.step(end_ms) and self._tasks is not None:
            self._tasks.start_soon(active.site.work, name="aimass-site-monitor")

    async def infer(self, request: InferRequest) -> InferResponse:
        """Answer a request by its deadline, here or in the cloud.

        A long input, or an answer to be explained, is many samples (see `spreading`): each part of
        them is decided on like a request of its own.

        The parameter `may_hand_off` = false keeps it on the device, and so does a version.

        Raises:
            OverloadedError: neither here nor the cloud can do it in time.
            DeadlineExceededError: it was accepted and did not finish in time.
            CloudUnavailableError: it was handed off, failed there and cannot be done here any more.
            RequestError: it has wrong tensors, or asks for another model.
            NoActiveModelError: no slice is active.
        """
        if not asks_for_many(request):
            return await self._dispatch.answer(request)
        contract = self._named(request.model, request.version).manifest.contract
        spread = spread_of(contract, request)
        deadline_ms = request.deadline_ms or self._default_deadline_ms
        answer = self._dispatch.answer
        return await answered(spread, request, answer, batch=PART, deadline_ms=deadline_ms)

    def _named(self, model: str, version: str) -> Active:
        return self._found(model, version)[0]

    def _found(self, model: str, version: str) -> tuple[Active, ...]:
        """The slices that a model and a version name, widest first."""
        found = self._ladder.all
        manifest = found[0].manifest
        if model != manifest.model or version not in {"", manifest.release}:
            raise NotFoundError(
                f"no model {model!r} version {version!r} here; {manifest.model!r} version"
                f" {manifest.release!r} is active"
            )
        return found

    def running_s(self) -> float:
        """How long the run of a model that is under way has taken; 0 where none is."""
        return self._capacity.running_s(self._clock())

    def stats(self) -> AgentStats:
        """The part of the heartbeat's statistics that is known here."""
        counts = self.counts
        return AgentStats(
            predictions=counts.predicted + counts.answered + counts.handed_off,
            handed_off=counts.handed_off,
            refused=counts.refused,
            late=counts.late,
            alarms=counts.alarms,
            p50_ms=self._capacity.latencies.percentile(0.5),
            p99_ms=self._capacity.latencies.percentile(0.99),
            rss_mib=rss_mib(),
            drift=self._active.drift.worst() if self._active else {},
        )

    def drift(self) -> dict[str, Drift]:
        """How far each sensor of the active model has drifted."""
        return self._active.drift.found() if self._active else {}

    def site_limit(self) -> SiteLimit | None:
        """The limit that this site calibrated for the active release, if it did."""
        return self._active.site_limit if self._active else None

    def site_monitor(self) -> SiteStatus | None:
        """How it is with the monitor of this site, where one is asked for."""
        site = self._active.site if self._active else None
        return None if site is None else site.status()

    def explanation(self) -> Explanation | None:
        """Why the newest window was scored as it was; None before there is one."""
        return self._active.explanation if self._active else None

    def status(self) -> Status:
        """What runs here and how it does."""
        active, cloud = self._active, self._cloud
        manifest = active.manifest if active else None
        return Status(
            ready=active is not None,
            model=manifest.model if manifest else "",
            task=manifest.contract.task if manifest else "",
            telemetry=manifest.contract.telemetry if manifest else False,
            release=manifest.release if manifest else "",
            slice=active.entry.spec.name if active else "",
            narrower=tuple(one.entry.spec.name for one in self._ladder.narrower),
            provider=active.session.provider if active else "",
            board=self._board_name,
            queued=self._capacity.queued,
            service_ms=self._capacity.times.ms(active.key, 1, self._clock()) if active else 0.0,
            p50_ms=self._capacity.latencies.percentile(0.5),
            p99_ms=self._capacity.latencies.percentile(0.99),
            cloud_ready=cloud is not None and cloud.ready(),
            cloud_ms=cloud.round_trip_ms() if cloud else 0.0,
            counts=msgspec.structs.replace(self.counts),
        )
