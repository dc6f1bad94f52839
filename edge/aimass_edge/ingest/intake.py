"""`Ingest`: the plant's broker on one side, rows and predictions on the other.

It subscribes, feeds the source's messages to the grid, hands out rows in order, and publishes
predictions. What it publishes: data of our own Sparkplug node, or JSON to `publish_topic`, and the
rebirth request NCMD; never another command to a node or a device (design decision 10).
"""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import final

import anyio
import msgspec
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from aimass_edge.bus import Bus, Inbound, Will
from aimass_edge.config import SourceSettings
from aimass_edge.ingest.counters import Counts, IngestCounters
from aimass_edge.ingest.json_rows import JsonRows, UnsTags
from aimass_edge.ingest.source import Source, grid_options
from aimass_edge.ingest.sparkplug import SparkplugAnswers, SparkplugSource
from aimass_shared.errors import (
    AimassError,
    BodyTooLargeError,
    BrokerUnavailableError,
    InvalidSettingError,
    RequestError,
)
from aimass_shared.messages import Prediction
from aimass_shared.sparkplug.rules import Publication
from aimass_shared.sparkplug.topics import NAMESPACE
from aimass_shared.windows import GridCounts, Row, RowGrid

_log = logging.getLogger(__name__)

# Rows that wait for their reader; beyond that messages wait in the bus, which drops the oldest.
MAX_WAITING_ROWS = 256
MAX_TICK_S = 0.25


@final
class Ingest:
    """Rows of one plant, and the way back for predictions. `async with` is its lifetime.

    The bus outlives it, so that the last thing it publishes is its death:
    `bus = Bus(options, will=lambda: ingest.will())`, then `async with bus, ingest`.

    `agent_node` is the Sparkplug id of our own node where `publish_node` is not set.

    Raises:
        InvalidSettingError: the settings of the source do not fit its kind.
    """

    def __init__(self, settings: SourceSettings, *, agent_node: str, bus: Bus) -> None:
        self._settings, self._bus = settings, bus
        self._counts = Counts()
        self._grid = RowGrid(max(len(settings.sensors), 1), grid_options(settings))
        self._source = _source(settings, self._grid, self._counts)
        self._answers = _answers(settings, agent_node)
        self._rows_out: MemoryObjectSendStream[Row]
        self._rows_in: MemoryObjectReceiveStream[Row]
        # The order on the wire must be that of seq; rows of two tasks must not overtake each other.
        self._publishing, self._handing_out = anyio.Lock(), anyio.Lock()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> "Ingest":
        """Subscribe, and begin to take messages."""
        self._rows_out, self._rows_in = anyio.create_memory_object_stream[Row](MAX_WAITING_ROWS)
        if self._source is None:
            return self
        for topic_filter in self._source.filters:
            self._bus.subscribe(topic_filter)
        if self._answers is not None:
            self._bus.subscribe(self._answers.session.commands)
        self._bus.on_connect(self._connected)
        self._bus.on_disconnect(self._lost)
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._take_messages, self._source)
        self._tasks.start_soon(self._pass_time, self._source)
        if self._bus.connected:
            self._tasks.start_soon(self._connected)
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Stop, tell the plant that our node is gone, and end `rows`."""
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)
            self._tasks = None
        self._rows_out.close()
        self._rows_in.close()
        if self._answers is not None and self._answers.session.born:
            with anyio.move_on_after(1, shield=True):
                await self._publish([self._answers.session.death(_now_ms())])

    @property
    def counters(self) -> IngestCounters:
        """What has become of the messages so far."""
        return self._counts.snapshot(self._grid.counts if self._source else GridCounts())

    @property
    def units(self) -> dict[str, str]:
        """Units by the plant's names, as far as it has declared them (Sparkplug `engUnit`)."""
        return dict(self._source.units) if isinstance(self._source, SparkplugSource) else {}

    def will(self) -> Will | None:
        """The last will for the next connect of the bus; None where the kind has none."""
        return None if self._answers is None else Will(*self._answers.session.will(_now_ms()))

    async def rows(self) -> AsyncIterator[Row]:
        """Rows in the order of time, channels in that of `sensors`; ends with the lifetime."""
        with contextlib.suppress(anyio.ClosedResourceError):
            async for row in self._rows_in:
                yield row

    async def publish(self, prediction: Prediction, sensors: Sequence[str] = ()) -> None:
        """Tell the plant; never raises because its broker is away (the outbox is for the cloud).

        Args:
            prediction: of the newest window.
            sensors: names of the values of its forecast, for JSON.
        """
        async with self._publishing:
            publications = self._publications(prediction, sensors)
            sent = await self._send(publications)
        if publications and sent:
            self._counts.published += 1
        elif publications or self._answers is not None:
            self._counts.unpublished += 1

    def _publications(self, prediction: Prediction, sensors: Sequence[str]) -> list[Publication]:
        if self._answers is not None:
            return self._answers.publications(prediction, _now_ms())
        if not self._settings.publish_topic:
            return []
        raw = _prediction_json(prediction, sensors)
        return [Publication(self._settings.publish_topic, raw)]

    async def _publish(self, publications: Sequence[Publication]) -> bool:
        async with self._publishing:
            return await self._send(publications)

    async def _send(self, publications: Sequence[Publication]) -> bool:
        """The only place that publishes; False if the broker is away or refuses."""
        try:
            for message in publications:
                await self._bus.publish(
                    message.topic, message.payload, qos=message.qos, retain=message.retain
                )
        except (BrokerUnavailableError, BodyTooLargeError) as error:
            _log.debug("not published: %s", error)
            return False
        return True

    async def _connected(self) -> None:
        if self._answers is not None:
            await self._bear()
        if self._source is not None:
            self._source.connected()
            await self._ask(self._source)

    async def _lost(self) -> None:
        if self._answers is not None:
            self._answers.session.lost()
        if self._source is not None:
            self._source.lost(_now_ms())

    async def _bear(self) -> None:
        async with self._publishing:
            if self._answers is not None:
                await self._send(self._answers.session.births(_now_ms()))

    async def _ask(self, source: Source) -> None:
        requests = source.requests(_now_ms())
        if requests and await self._publish(requests):
            self._counts.rebirth_requests += len(requests)

    async def _take_messages(self, source: Source) -> None:
        async for message in self._bus.messages():
            self._counts.messages += 1
            if self._wants_rebirth(message):
                await self._bear()
                continue
            self._take(source, message)
            await self._ask(source)
            await self._hand_out()

    def _wants_rebirth(self, message: Inbound) -> bool:
        if self._answers is None:
            return False
        try:
            return self._answers.session.wants_rebirth(message.topic, message.payload)
        except RequestError as error:
            self._counts.reject(message.topic, error)
            return False

    def _take(self, source: Source, message: Inbound) -> None:
        if self._answers is not None and message.topic == self._answers.session.commands:
            return
        try:
            _check_size(message, self._settings.max_payload_bytes)
            source.take(message, _now_ms())
        except RequestError as error:
            self._counts.reject(message.topic, error)
        except Exception as error:  # noqa: BLE001 - a task's loop: no message may end the ingest
            _log.debug("message on %.200r", message.topic, exc_info=True)
            self._counts.reject(message.topic, AimassError(f"{type(error).__name__}: {error}"))

    async def _pass_time(self, source: Source) -> None:
        period_s = min(MAX_TICK_S, self._settings.step_ms / 2000)
        while True:
            await anyio.sleep(period_s)
            source.tick(_now_ms())
            self._grid.tick(_now_ms())
            await self._ask(source)
            await self._hand_out()

    async def _hand_out(self) -> None:
        if not self._grid.due():
            return
        async with self._handing_out:
            for row in self._grid.rows():
                await self._rows_out.send(row)


def _source(settings: SourceSettings, grid: RowGrid, counts: Counts) -> Source | None:
    if settings.kind == "none":
        return None
    if not settings.sensors or len(set(settings.sensors)) != len(settings.sensors):
        raise InvalidSettingError("`sensors` must name the channels of the source, each once")
    if settings.kind == "sparkplug":
        return SparkplugSource(settings, grid, counts)
    topic = settings.publish_topic
    if set(topic) & set("+#\0") or topic.startswith(NAMESPACE):
        raise InvalidSettingError(
            f"`publish_topic` {topic!r} must be a topic without wildcards outside of {NAMESPACE}"
        )
    kind = JsonRows if settings.kind == "json" else UnsTags
    return kind(settings, grid)


def _answers(settings: SourceSettings, agent_node: str) -> SparkplugAnswers | None:
    return SparkplugAnswers(settings, agent_node) if settings.kind == "sparkplug" else None


def _prediction_json(prediction: Prediction, sensors: Sequence[str]) -> bytes:
    document = msgspec.structs.asdict(prediction)
    document["timestamp_ms"] = document.pop("window_end")
    # Without names the values of a forecast say nothing.
    named = len(sensors) == len(prediction.forecast)
    document["forecast"] = dict(zip(sensors, prediction.forecast, strict=True)) if named else {}
    return msgspec.json.encode(document)


def _check_size(message: Inbound, max_bytes: int) -> None:
    if len(message.payload) > max_bytes:
        raise BodyTooLargeError(
            f"message has {len(message.payload)} bytes, the limit is {max_bytes}"
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
