"""The demo's plants: real recordings, replayed over MQTT in the way each site's plant speaks.

A plant knows nothing of aimass: it connects to the factory's broker and publishes. Times lie in the
past, one step apart, so that a night of production passes in seconds; how fast is up to whoever
sends, and the receivers cannot tell.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import aiomqtt
import msgspec
from aiomqtt import Client, MqttError, ProtocolVersion, Will

from aimass_cloud.demo.sites import Site
from aimass_shared.errors import AimassError
from aimass_shared.messages import BrokerAddress
from aimass_shared.sparkplug.datatypes import DataType
from aimass_shared.sparkplug.payload import Metric
from aimass_shared.sparkplug.rules import Publication
from aimass_shared.sparkplug.session import EdgeSession

log = logging.getLogger(__name__)


class Plant(Protocol):
    """A machine that publishes rows."""

    async def send(self, time_ms: int, values: Sequence[float]) -> None:
        """Publish one row of all sensors."""
        ...


class SparkplugPlant:
    """A Sparkplug edge node with one device; it gives births when a host asks for them."""

    def __init__(
        self, client: Client, session: EdgeSession, device: str, *, sensors: Sequence[str]
    ) -> None:
        self._client = client
        self._session = session
        self._device = device
        self._sensors = sensors
        # seq counts messages in the order on the wire: a birth must not overtake data.
        self._order = asyncio.Lock()

    async def bear(self) -> None:
        """Publish NBIRTH and DBIRTH."""
        async with self._order:
            await self._publish(self._session.births(_now_ms()))

    async def send(self, time_ms: int, values: Sequence[float]) -> None:
        """DDATA with every sensor of the device."""
        metrics = [
            Metric(name=name, datatype=DataType.FLOAT, value=value, timestamp=time_ms)
            for name, value in zip(self._sensors, values, strict=True)
        ]
        async with self._order:
            message = self._session.data(self._device, metrics, now_ms=_now_ms())
            await self._publish([message] if message else [])

    async def obey(self) -> None:
        """Answer rebirth requests until cancelled."""
        async for message in self._client.messages:
            payload = message.payload if isinstance(message.payload, bytes) else b""
            try:
                wanted = self._session.wants_rebirth(str(message.topic), payload)
            except AimassError as error:
                log.warning("a command that cannot be read: %s", error)
                continue
            if wanted:
                await self.bear()

    async def leave(self) -> None:
        """Publish NDEATH before the intended disconnect."""
        async with self._order:
            await self._publish([self._session.death(_now_ms())])

    async def _publish(self, publications: Iterable[Publication]) -> None:
        for one in publications:
            await self._client.publish(one.topic, one.payload, qos=one.qos, retain=one.retain)


class JsonPlant:
    """One JSON object a row."""

    def __init__(self, client: Client, topic: str, sensors: Sequence[str]) -> None:
        self._client = client
        self._topic = topic
        self._sensors = sensors

    async def send(self, time_ms: int, values: Sequence[float]) -> None:
        """Publish the row as one object."""
        row = {"timestamp_ms": time_ms, **dict(zip(self._sensors, values, strict=True))}
        await self._client.publish(self._topic, msgspec.json.encode(row))


class UnsPlant:
    """A Unified Namespace: one tag a topic, `{"timestamp_ms", "value"}`."""

    def __init__(self, client: Client, topic: str, sensors: Sequence[str]) -> None:
        self._client = client
        self._topics = [topic.replace("{sensor}", name) for name in sensors]

    async def send(self, time_ms: int, values: Sequence[float]) -> None:
        """Publish the row tag by tag."""
        for topic, value in zip(self._topics, values, strict=True):
            body = msgspec.json.encode({"timestamp_ms": time_ms, "value": value})
            await self._client.publish(topic, body)


@asynccontextmanager
async def connect(
    site: Site, broker: BrokerAddress, sensors: Sequence[str]
) -> AsyncIterator[Plant]:
    """A site's plant, connected to the factory's broker for as long as the block lasts."""
    if site.kind == "sparkplug":
        async with _sparkplug(site, broker, sensors) as plant:
            yield plant
        return
    async with client_of(broker, f"plant-{site.name}") as client:
        kind = JsonPlant if site.kind == "json" else UnsPlant
        yield kind(client, site.topic, sensors)


@asynccontextmanager
async def _sparkplug(
    site: Site, broker: BrokerAddress, sensors: Sequence[str]
) -> AsyncIterator[SparkplugPlant]:
    metrics = [Metric(name=name, datatype=DataType.FLOAT, value=None) for name in sensors]
    session = EdgeSession(site.group, site.node, {"": [], site.device: metrics})
    will = session.will(_now_ms())
    async with client_of(broker, f"plant-{site.name}", will=Will(*will)) as client:
        await client.subscribe(session.commands, qos=1)
        plant = SparkplugPlant(client, session, site.device, sensors=sensors)
        await plant.bear()
        obeying = asyncio.create_task(plant.obey())
        try:
            yield plant
            await plant.leave()
        finally:
            obeying.cancel()
            with suppress(asyncio.CancelledError, MqttError):
                await obeying


def client_of(broker: BrokerAddress, name: str, *, will: Will | None = None) -> aiomqtt.Client:
    """A connection to the factory's broker, to be entered."""
    version = ProtocolVersion.V5 if broker.version == 5 else ProtocolVersion.V311  # noqa: PLR2004  MQTT's own numbers
    return Client(
        broker.host, broker.port, identifier=name, protocol=version, will=will, timeout=30
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
