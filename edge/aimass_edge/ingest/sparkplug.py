"""The Sparkplug side of a plant: a host that follows one device, and an edge node of our own.

No command ever leaves from here but one: NCMD `Node Control/Rebirth`, which asks a node to
publish its births again and changes nothing in the plant. There is no path from a prediction to an
NCMD or DCMD (design decision 10); predictions go out as data of our own node. Does no I/O.
"""

import logging
from collections.abc import Sequence

from aimass_edge.bus import Inbound
from aimass_edge.config import SourceSettings
from aimass_edge.ingest.counters import Counts
from aimass_edge.ingest.mapping import number
from aimass_edge.ingest.source import channels
from aimass_shared.errors import InvalidSettingError
from aimass_shared.messages import Prediction
from aimass_shared.sparkplug import topics
from aimass_shared.sparkplug.host import Gone, HostOptions, HostSession, Sample
from aimass_shared.sparkplug.payload import BAD, GOOD, STALE, DataType, Metric, Value
from aimass_shared.sparkplug.rules import Publication
from aimass_shared.sparkplug.session import EdgeSession
from aimass_shared.windows import RowGrid

_log = logging.getLogger(__name__)

DEVICE = "ai"
GOOD_COVERAGE = 0.8
USABLE_COVERAGE = 0.5
_TOP = 3
# OPC's good qualities, in the low 16 bits as Ignition sends them; Sparkplug's own is 192.
_GOOD_CODES = range(192, 256)


class SparkplugSource:
    """Follows `group/node/device` as a host that is not primary; births give names and values."""

    def __init__(self, settings: SourceSettings, grid: RowGrid, counts: Counts) -> None:
        self._group = topics.check_id(settings.group, "group")
        self._node = topics.check_id(settings.node, "node")
        self._device = settings.device and topics.check_id(settings.device, "device")
        self._channels = channels(settings)
        self._grid, self._counts = grid, counts
        options = HostOptions(max_payload_bytes=settings.max_payload_bytes)
        self._host = HostSession(options)
        self._missing: set[str] = set()
        self.units: dict[str, str] = {}

    @property
    def filters(self) -> Sequence[str]:
        """Topic filters to subscribe to: all of the node, as `seq` counts over its devices."""
        return (topics.all_of_node(self._group, self._node),)

    def take(self, message: Inbound, now_ms: int) -> None:
        """Put a birth's or data's values into the grid, or take back those of a death.

        Raises:
            RequestError: the message cannot be read; the births are asked for then.
        """
        topic = topics.parse(message.topic)
        if (topic.group, topic.node) != (self._group, self._node):
            return
        for event in self._host.take(topic, message.payload, now_ms):
            self._apply(event, now_ms)

    def tick(self, now_ms: int) -> None:
        """Go on after messages that have been missing for too long."""
        for event in self._host.tick(now_ms):
            self._apply(event, now_ms)

    def connected(self) -> None:
        """A node that reports by exception may be silent for hours: ask for its births."""
        self._host.want_rebirth(self._group, self._node)

    def lost(self, now_ms: int) -> None:
        """All values are stale until the next births."""
        self._host.lost()
        self._grid.lose(now_ms=now_ms)

    def requests(self, now_ms: int) -> list[Publication]:
        """Rebirth requests that are due, at most one every two seconds."""
        return self._host.rebirths(now_ms)

    def _apply(self, event: Sample | Gone, now_ms: int) -> None:
        if isinstance(event, Gone):
            if event.device in ("", self._device):
                self._counts.deaths += 1
                self._grid.lose(now_ms=now_ms)
        elif event.topic.device == self._device:
            if event.birth:
                self._renew(event, now_ms)
            else:
                self._add(event, now_ms)

    def _renew(self, birth: Sample, now_ms: int) -> None:
        """A birth states all metrics: a channel that it does not have is missing."""
        self._counts.births += 1
        values: dict[int, float | None] = dict.fromkeys(self._channels.values())
        times = [metric.timestamp for metric in birth.metrics if metric.timestamp is not None]
        for metric in birth.metrics:
            index = self._channels.get(metric.name or "")
            if index is None:
                continue
            values[index] = _reading(metric)
            if metric.unit:
                self.units[metric.name or ""] = metric.unit
        time_ms = max(times, default=birth.timestamp if birth.timestamp is not None else now_ms)
        self._grid.renew(list(values.items()), time_ms, now_ms=now_ms)
        self._note_missing(birth)

    def _note_missing(self, birth: Sample) -> None:
        missing = set(self._channels) - {metric.name for metric in birth.metrics}
        if missing - self._missing:
            _log.warning(
                "%s has no metric for %d sensors (%s); they stay missing",
                birth.topic,
                len(missing),
                ", ".join(sorted(missing)[:5]),
            )
        self._missing = missing

    def _add(self, data: Sample, now_ms: int) -> None:
        default_ms = data.timestamp if data.timestamp is not None else now_ms
        for metric in data.metrics:
            index = self._channels.get(metric.name or "")
            if index is None:
                continue
            if metric.is_historical:
                self._counts.historical += 1
                continue
            time_ms = default_ms if metric.timestamp is None else metric.timestamp
            self._grid.add(index, time_ms, _reading(metric), now_ms=now_ms)


def _reading(metric: Metric) -> float | None:
    return number(metric.value) if metric.quality & 0xFFFF in _GOOD_CODES else None


class SparkplugAnswers:
    """Our own edge node, with device `ai` whose metrics are the newest prediction."""

    def __init__(self, settings: SourceSettings, agent_node: str) -> None:
        node = settings.publish_node or agent_node
        if node == settings.node:
            raise InvalidSettingError(
                f"`publish_node` {node!r} must differ from the watched `node`: ids are unique"
            )
        empty = [Metric(name=name, datatype=kind) for name, kind in _METRICS.items()]
        self.session = EdgeSession(settings.group, node, {"": (), DEVICE: empty})

    def publications(self, prediction: Prediction, now_ms: int) -> list[Publication]:
        """Data with the prediction; none before the births, which have it."""
        quality = _quality(prediction.coverage)
        metrics = [
            Metric(name=name, value=value, timestamp=prediction.window_end, quality=quality)
            for name, value in _values(prediction).items()
        ]
        data = self.session.data(DEVICE, metrics, now_ms=now_ms)
        return [] if data is None else [data]


_METRICS = {
    "score": DataType.DOUBLE,
    "threshold": DataType.DOUBLE,
    "alarm": DataType.BOOLEAN,
    **{f"top_sensor_{place}": DataType.STRING for place in range(1, _TOP + 1)},
    "model": DataType.STRING,
    "release": DataType.STRING,
    "coverage": DataType.DOUBLE,
}


def _values(prediction: Prediction) -> dict[str, Value]:
    top = [*prediction.top_sensors[:_TOP], *[None] * _TOP][:_TOP]
    return {
        "score": prediction.score,
        "threshold": prediction.threshold,
        "alarm": prediction.alarm,
        **{f"top_sensor_{place}": name for place, name in enumerate(top, start=1)},
        "model": prediction.model,
        "release": prediction.release,
        "coverage": prediction.coverage,
    }


def _quality(coverage: float) -> int:
    """How far a prediction can be trusted, by the share of its inputs that was measured."""
    if coverage >= GOOD_COVERAGE:
        return GOOD
    return STALE if coverage >= USABLE_COVERAGE else BAD
