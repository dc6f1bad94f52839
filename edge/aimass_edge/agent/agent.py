"""The agent of one device: every part with its lifetime, in one task group.

What each part does is written in its own module; here is only who talks to whom:

    plant --ingest--> telemetry --> history, predictor, outbox --fleet broker--> cloud
    cloud --fleet broker--> desired state (updates), rounds, acknowledgements
    local clients --HTTP--> predictor --hand-off--> cloud
"""

import logging
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import msgspec

from aimass_edge.agent import fleet
from aimass_edge.agent.desired import DesiredState
from aimass_edge.agent.fleet import FleetLink
from aimass_edge.agent.telemetry import Parts, Telemetry
from aimass_edge.api import Api
from aimass_edge.bus import Bus, BusOptions, TlsFiles
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
from aimass_edge.ingest import Ingest
from aimass_edge.outbox import Outbox
from aimass_edge.predict import Predictor
from aimass_edge.update import Installed, Origin, Slots, Updater
from aimass_shared import topics
from aimass_shared.errors import InvalidSettingError
from aimass_shared.messages import AgentStats

log = logging.getLogger(__name__)

SESSION_EXPIRY_S = 7 * 24 * 3600


class _Runner:
    """Runs what the updater installed: the updater knows directories, the predictor sessions."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    async def activate(self, installed: Installed) -> None:
        """Make the installed slice the one that answers."""
        await self._predictor.activate(installed.manifest, installed.entry, installed.directory)

    @property
    def predictions(self) -> int:
        """Windows predicted so far."""
        return self._predictor.counts.predicted


class Agent:
    """One device's agent. Nothing happens before `run`."""

    def __init__(self, settings: EdgeSettings, identity: Identity) -> None:
        self._settings = settings
        self._identity = identity
        self._data = Path(settings.data_dir)
        self._verify: ssl.SSLContext | bool = True

    async def run(self, *, started: Callable[[], None] = lambda: None) -> None:
        """Work until cancelled; the last thing it says is that it is gone.

        Args:
            started: called once when everything runs.

        Raises:
            PortInUseError: the local endpoint's port is taken.
            InvalidSettingError: the telemetry source's settings do not fit together.
        """
        async with AsyncExitStack() as stack:
            await self._compose(stack, started)

    async def _compose(self, stack: AsyncExitStack, started: Callable[[], None]) -> None:
        cloud = self._identity.cloud_url
        bearer = self._identity.bearer
        if cloud.startswith("https"):
            self._verify = ssl.create_default_context(cafile=str(self._identity.tls_files().ca))
        history = await stack.enter_async_context(self._history())
        outbox = await stack.enter_async_context(
            Outbox(self._data / "outbox.db", self._settings.outbox)
        )
        handoff = await stack.enter_async_context(self._handoff())
        predictor = await stack.enter_async_context(
            Predictor(self._settings.board, self._settings.capacity, cloud=handoff)
        )
        blobs = await stack.enter_async_context(HttpBlobs(cloud, bearer, verify=self._verify))
        bus = await stack.enter_async_context(self._fleet_bus())
        rounds = Rounds(history=history, blobs=blobs, trainers=self._trainers(lambda: wishes))
        link = FleetLink(
            bus, self._identity.device, rounds=rounds, outbox=outbox, want=lambda d: wishes.want(d)
        )
        wishes = self._wishes(predictor, link)
        await wishes.start()
        ingest = await stack.enter_async_context(self._ingest())
        telemetry = Telemetry(
            Parts(source=ingest, history=history, predictor=predictor, outbox=outbox),
            self._settings.source.sensors,
            wishes.failed,
        )

        def stats() -> AgentStats:
            return msgspec.structs.replace(
                predictor.stats(),
                rows=telemetry.rows,
                alarms=telemetry.alarms,
                rejected_messages=link.rejected_messages + ingest.counters.rejected,
                outbox_pending=outbox.pending(),
            )

        if self._settings.api.enabled:
            await stack.enter_async_context(
                Api(self._settings.api, predictor, lambda: predictor.status())
            )
        bus.subscribe(topics.all_down(self._identity.device))
        bus.on_connect(lambda: link.report(wishes.reported))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.listen, tasks)
            tasks.start_soon(link.heartbeat, self._settings.heartbeat_s, stats)
            tasks.start_soon(outbox.run, bus, self._identity.device)
            tasks.start_soon(wishes.run)
            tasks.start_soon(wishes.watch_trial)
            tasks.start_soon(telemetry.run)
            started()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.move_on_after(1, shield=True):
                    await link.leave()
