"""What has become of the plant's messages, for the heartbeat and for people who ask why."""

import logging
from dataclasses import dataclass, field

import msgspec

from aimass_shared.errors import AimassError
from aimass_shared.windows import GridCounts

_log = logging.getLogger(__name__)


class IngestCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start.

    Attributes:
        messages: received. rejected: of these, not usable; by code in `rejected_codes`.
        readings: values taken. bad: of these, no finite number or bad quality, so missing.
        late, future, historical: values that came after their row, that were ahead of our clock,
            that their source says are not of now.
        duplicate: values of a channel and time that were there already; the last one counts.
        rows: made. gaps: outages over which none were. restarts: of a source's clock.
        births, deaths, rebirth_requests: of the Sparkplug node that is watched.
        published, unpublished: predictions that were handed to the broker, or could not be.
    """

    messages: int = 0
    rejected: int = 0
    rejected_codes: dict[str, int] = {}
    readings: int = 0
    bad: int = 0
    late: int = 0
    future: int = 0
    historical: int = 0
    duplicate: int = 0
    rows: int = 0
    gaps: int = 0
    restarts: int = 0
    births: int = 0
    deaths: int = 0
    rebirth_requests: int = 0
    published: int = 0
    unpublished: int = 0


@dataclass
class Counts:
    """The counts while they grow; a refused message is logged once for each kind of error."""

    messages: int = 0
    historical: int = 0
    births: int = 0
    deaths: int = 0
    rebirth_requests: int = 0
    published: int = 0
    unpublished: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    def reject(self, topic: str, error: AimassError) -> None:
        """Count a message that cannot be used."""
        if error.code not in self.rejected:
            _log.warning(
                "message on %.200r refused: %s; more of this kind are only counted", topic, error
            )
        self.rejected[error.code] = self.rejected.get(error.code, 0) + 1

    def snapshot(self, grid: GridCounts) -> IngestCounters:
        """The counts of now, with those of the grid."""
        return IngestCounters(
            messages=self.messages,
            rejected=sum(self.rejected.values()),
            rejected_codes=dict(self.rejected),
            historical=self.historical,
            births=self.births,
            deaths=self.deaths,
            rebirth_requests=self.rebirth_requests,
            published=self.published,
            unpublished=self.unpublished,
            **msgspec.structs.asdict(grid),
        )
