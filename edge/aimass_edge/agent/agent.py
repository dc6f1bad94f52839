"""The agent of one device: every part with its lifetime, in one task group.

What each part does is written in its own module; here is only who talks to whom:

    plant --ingest--> telemetry --> history, predictor, outbox --fleet broker--> cloud
    cloud --fleet broker--> desired state (updates), rounds, acknowledgements
    local clients --HTTP--> predictor --hand-off--> cloud
"""

import asyncio
import gc
import logging
import os
import signal
import ssl
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from aimass_edge.agent import fleet
from aimass_edge.agent.desired import DesiredState
from aimass_edge.agent.fleet import FleetLink
from aimass_edge.agent.metrics import exposition
from aimass_edge.agent.running import Running
from aimass_edge.agent.supervision import Manager, manager_of
from aimass_edge.agent.telemetry import Parts, Telemetry
from aimass_edge.api import Api
from aimass_edge.bus import Bus, BusOptions, Will
from aimass_edge.config import EdgeSettings, SourceSettings
from aimass_edge.enroll import Identity
from aimass_edge.federated import (
    ActiveSlice,
    GradientTrainer,
    HttpBlobs,
    Rounds,
    StatisticsTrainer,
)
from aimass_edge.handoff import Handoff
from aimass_edge.history import History
from aimass_edge.ingest import Ingest, source_address
from aimass_edge.outbox import Outbox
from aimass_edge.predict import (
    Calibrations,
    Predictor,
    SiteMonitors,
)
from aimass_edge.runtime import backend_of
from aimass_edge.update.fetch import Origin
from aimass_edge.update.slots import Installed, Slots
from aimass_edge.update.updater import Updater
from aimass_shared import topics
from aimass_shared.claims import claimed
from aimass_shared.errors import InvalidSettingError

log = logging.getLogger(__name__)

SESSION_EXPIRY_S = 7 * 24 * 3600
GOODBYE_S = 1.0


def run(settings: EdgeSettings) -> int:
    """Run the agent of this device until SIGTERM or SIGINT; returns the exit code.

    Raises:
        NotFoundError: the device is not enrolled.
        ConflictError, PortInUseError, InvalidSettingError: see `Agent.run`.
    """
    identity = Identity.load(Path(settings.data_dir))
    asyncio.run(_until_signal(Agent(settings, identity, manager_of(os.environ))))
    return 0


async def _until_signal(agent: "Agent") -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    working = asyncio.ensure_future(agent.run())
    waiting = asyncio.ensure_future(stop.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    working.cancel()
    try:
        await working
    except asyncio.CancelledError:
        log.info("stopped")


class Runner:
    """Runs what the updater installed: the updater knows directories, the predictor sessions."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    async def activate(self, installed: Installed) -> None:
        """Make the installed slice the one that answers."""
        await self._predictor.activate(installed.manifest, installed.entry, installed.directory)

    async def deactivate(self) -> None:
        """Let nothing answer."""
        await self._predictor.deactivate()

    async def narrow(self, beside: Sequence[Installed]) -> None:
        """Have narrower slices beside the active one, if that is still of their release."""
        slices = [(one.entry, one.directory) for one in beside]
        release = beside[0].ref.release if beside else ""
        await self._predictor.narrow(release, slices)

    @property
    def predictions(self) -> int:
        """Windows predicted and requests answered so far: not every device has telemetry."""
        return self._predictor.counts.predicted + self._predictor.counts.answered

    @property
    def failures(self) -> int:
        """Requests that the model failed on so far; failed windows are told one by one."""
        return self._predictor.counts.model_failures


class Agent:
    """One device's agent. Nothing happens before `run`."""

    def __init__(
        self, settings: EdgeSettings, identity: Identity, manager: Manager | None = None
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._manager = manager
        self._data = Path(settings.data_dir)
        self._verify: ssl.SSLContext | bool = True
        self._ca = ""
        if identity.cloud_url.startswith("https"):
            self._ca = identity.tls_files().ca

    async def run(self) -> None:
        """Work until cancelled; the last thing it says is that it is gone.

        Raises:
            ConflictError: another agent works in the data directory.
            PortInUseError: the local endpoint's port is taken.
            InvalidSettingError: the settings of the telemetry source do not fit together.
            StorageError: the data directory cannot be used.
        """
        if self._ca:
            self._verify = ssl.create_default_context(cafile=self._ca)
        try:
            await self._run()
        except Exception as error:
            cause = _single(error)
            if cause is error:
                raise
            raise cause from error

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            # Two agents would take each other's connection and files.
            held = f"another agent works in {self._data}: stop it, or choose --data-dir"
            stack.enter_context(claimed(self._data / "lock", otherwise=held))
            parts = await self._compose(stack)
            # What is there now lives as long as the agent. Looked at in each full collection, it
            # would stop everything for 20 ms and more: a deadline that was met without is missed.
            gc.collect()
            gc.freeze()
            parts.bus.on_connect(partial(parts.link.announce, parts.stats))
            async with anyio.create_task_group() as tasks:
                device = self._identity.device
                tasks.start_soon(parts.link.listen, tasks, parts.wishes.want)
                tasks.start_soon(parts.link.heartbeat, self._settings.heartbeat_s, parts.stats)
                tasks.start_soon(parts.outbox.run, parts.bus, device)
                tasks.start_soon(parts.wishes.run)
                tasks.start_soon(parts.wishes.watch_trial)
                tasks.start_soon(parts.wishes.accompany)
                tasks.start_soon(parts.telemetry.run)
                sys.stderr.write(f"aimass-edge {device} runs\n")
                try:
                    await self._supervised(parts)
                finally:
                    with anyio.move_on_after(GOODBYE_S, shield=True):
                        await parts.link.leave()

    async def _supervised(self, parts: Running) -> None:
        """Work until cancelled, and keep a service manager informed, if there is one."""
        if self._manager is None:
            await anyio.sleep_forever()
            return
        self._manager.say(READY="1", STATUS=f"device {self._identity.device}")
        try:
            await self._manager.watch(parts.overdue)
            await anyio.sleep_forever()
        finally:
            self._manager.say(STOPPING="1")

    async def _compose(self, stack: AsyncExitStack) -> Running:
        """Open every part; the stack ends them in the reverse order."""
        settings, enter = self._settings, stack.enter_async_context
        history = await enter(self._history())
        outbox = await enter(Outbox(self._data / "outbox.db", settings.outbox))
        handoff = await enter(self._handoff()) if settings.handoff.enabled else None
        predictor = await enter(
            Predictor(
                settings.board,
                settings.capacity,
                cloud=handoff,
                calibrations=Calibrations(settings.monitor.calibration_windows, self._data),
                sites=SiteMonitors.asked(settings, history),
            )
        )
        blobs = await enter(
            HttpBlobs(self._identity.cloud_url, self._identity.bearer, verify=self._verify)
        )
        bus = self._fleet_bus()
        wishes: DesiredState
        gradient = GradientTrainer(lambda: active_slice(wishes.installed), settings.board)
        rounds = Rounds(
            history=history,
            blobs=blobs,
            trainers={"statistics": StatisticsTrainer(), "train": gradient},
        )
        link = FleetLink(bus, self._identity.device, rounds=rounds, outbox=outbox)
        wishes = DesiredState(
            self._updater(),
            Runner(predictor),
            settings.update,
            kept=self._data / "reported.json",
            report=link.report,
        )
        await wishes.start()
        bus.subscribe(topics.all_down(self._identity.device))
        bus.on_connect(lambda: link.report(wishes.reported))
        await enter(bus)
        plant, ingest = await self._ingest(stack)
        path = Parts(source=ingest, history=history, predictor=predictor, outbox=outbox)
        running = Running(
            predictor=predictor,
            outbox=outbox,
            ingest=ingest,
            bus=bus,
            plant=plant,
            link=link,
            wishes=wishes,
            telemetry=Telemetry(path, settings.source.sensors, wishes.failed),
            backend=backend_of(settings.board),
        )
        if settings.api.enabled:
            status = partial(running.status, self._identity)
            await enter(Api(settings.api, predictor, status, metrics=lambda: exposition(status())))
        return running

    def _history(self) -> History:
        source = self._settings.source
        path, kept = self._data / "history.db", self._settings.history
        return History(path, source.sensors, source.step_ms, settings=kept)

    def _handoff(self) -> Handoff:
        return Handoff(
            self._identity.cloud_url,
            self._settings.handoff,
            bearer=self._identity.bearer,
            ca_file=Path(self._ca) if self._ca else None,
        )

    def _updater(self) -> Updater:
        slots = Slots(self._data / "models")
        origin = Origin(
            url=self._identity.cloud_url,
            root=self._identity.tuf_root(),
            channel=self._identity.channel,
            bearer=self._identity.bearer,
            ca_file=self._ca,
        )
        return Updater(self._settings, slots, origin)

    def _fleet_bus(self) -> Bus:
        device, broker = self._identity.device, self._identity.broker
        options = BusOptions(
            host=broker.host,
            port=broker.port,
            client_id=device,
            version=broker.version,
            tls=self._identity.tls_files() if broker.tls else None,
            session_expiry_s=SESSION_EXPIRY_S,
        )
        return Bus(options, will=lambda: fleet.will(device))

    async def _ingest(self, stack: AsyncExitStack) -> tuple[Bus, Ingest]:
        """The plant's side; without a source there is no connection either."""
        source = self._settings.source
        ingest: Ingest

        def will() -> Will | None:
            return ingest.will()

        bus = Bus(factory_options(source, self._identity), will=will)
        node = source.publish_node or f"aimass-{self._identity.device}"
        ingest = Ingest(source, agent_node=node, bus=bus)
        if source.kind != "none":
            await stack.enter_async_context(bus)
        return bus, await stack.enter_async_context(ingest)


def _single(error: BaseException) -> BaseException:
    """The one error in the groups that task groups wrap around it; several stay a group."""
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())
    return _single(inner[0]) if len(inner) == 1 else error


def active_slice(installed: Installed | None) -> ActiveSlice | None:
    """What a federated round trains: the slice that runs, if any."""
    if installed is None:
        return None
    entry = installed.entry
    train = installed.file("train") if entry.has("train") else None
    return ActiveSlice(name=entry.spec.name, train=train, contract=installed.manifest.contract)


def factory_options(source: SourceSettings, identity: Identity) -> BusOptions:
    """How to connect to the factory's broker.

    Raises:
        InvalidSettingError: the URL is not `mqtt://` or `mqtts://`, or the password file is gone.
    """
    host, port, is_tls = source_address(source)
    return BusOptions(
        host=host,
        port=port,
        client_id=f"aimass-{identity.device}",
        version=source.version,
        tls=identity.tls_files() if is_tls else None,
        username=source.username,
        password=_password(source.password_file),
        max_payload_bytes=source.max_payload_bytes,
    )


def _password(file: str) -> str:
    if not file:
        return ""
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidSettingError(f"source.password_file cannot be read: {error}") from error
