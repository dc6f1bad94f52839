"""The parts of an agent that runs, and what people see of them."""

from dataclasses import dataclass

import msgspec

from aimass_edge.agent.desired import DesiredState
from aimass_edge.agent.fleet import FleetLink
from aimass_edge.agent.telemetry import Telemetry
from aimass_edge.bus import Bus
from aimass_edge.enroll import Identity
from aimass_edge.ingest import Ingest, IngestCounters
from aimass_edge.outbox import Outbox
from aimass_edge.predict import Drift, Explanation, Predictor, SiteLimit, SiteStatus, Status
from aimass_edge.runtime import Backend
from aimass_shared.messages import AgentStats, Reported


class AgentStatus(msgspec.Struct, frozen=True):
    """What `GET /status` and `aimass-edge status` show.

    Attributes:
        reported: as the cloud was told.
        backend: what opens models here, and why not what was asked for before it;
            `serving.provider` is what runs the active one.
        dropped: messages of both brokers that were over the limit of their connection, or came
            faster than they could be read.
        limit: of this site, where `monitor.calibration_windows` asks for one and there is one.
        monitor: of this site, where `monitor.site_rows` asks for one.
        explanation: every sensor's part in the score of the newest window.
        drift: how far each sensor has drifted (see `aimass_shared.drift`).
    """

    device: str
    site: str
    cloud_connected: bool
    plant_connected: bool
    dropped: int
    reported: Reported
    stats: AgentStats
    serving: Status
    backend: Backend
    telemetry: IngestCounters
    limit: SiteLimit | None
    monitor: SiteStatus | None
    explanation: Explanation | None
    drift: dict[str, Drift]


@dataclass(frozen=True, eq=False)
class Running:
    """The parts of a running agent."""

    predictor: Predictor
    outbox: Outbox
    ingest: Ingest
    bus: Bus
    plant: Bus
    link: FleetLink
    wishes: DesiredState
    telemetry: Telemetry
    backend: Backend

    def status(self, identity: Identity) -> AgentStatus:
        """What people see of a running agent."""
        return AgentStatus(
            device=identity.device,
            site=identity.site,
            cloud_connected=self.bus.connected,
            plant_connected=self.plant.connected,
            dropped=self._dropped,
            reported=self.wishes.reported,
            stats=self.stats(),
            serving=self.predictor.status(),
            backend=self.backend,
            telemetry=self.ingest.counters,
            limit=self.predictor.site_limit(),
            monitor=self.predictor.site_monitor(),
            explanation=self.predictor.explanation(),
            drift=self.predictor.drift(),
        )

    def overdue(self, most_s: float) -> str:
        """What was begun over `most_s` ago and has not ended, in words; "" if nothing."""
        begun = {
            "a run of the model": self.predictor.running_s(),
            "a commit of the outbox": self.outbox.committing_s(),
        }
        late = [f"{name} takes {took:.0f} s" for name, took in begun.items() if took > most_s]
        return ", ".join(late)

    @property
    def _dropped(self) -> int:
        return self.bus.dropped + self.plant.dropped

    def stats(self) -> AgentStats:
        """What the heartbeat carries."""
        rejected = self.link.rejected_messages + self.ingest.counters.rejected + self._dropped
        return msgspec.structs.replace(
            self.predictor.stats(),
            rows=self.telemetry.rows,
            alarms=self.telemetry.alarms,
            rejected_messages=rejected,
            outbox_pending=self.outbox.pending(),
        )
