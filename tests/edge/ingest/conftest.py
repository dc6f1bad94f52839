import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from aimass_edge.bus import Bus, BusOptions, Will
from aimass_edge.config import SourceSettings
from aimass_edge.ingest import Ingest
from aimass_shared.sparkplug import topics
from aimass_shared.sparkplug.payload import Payload, decode
from aimass_shared.sparkplug.rules import Publication
from aimass_shared.sparkplug.topics import Topic


class Address(NamedTuple):
    host: str
    port: int


class Plant:
    """A client of the plant: publishes, and hears everything that anybody says."""

    def __init__(
        self, address: Address, *, will: Publication | None = None, name: str = ""
    ) -> None:
        self.heard: deque[tuple[str, bytes]] = deque(maxlen=100_000)
        self._subscribed = threading.Event()
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id=name, reconnect_on_failure=False
        )
        if will is not None:
            self.client.will_set(will.topic, will.payload, will.qos, will.retain)
        self.client.on_message = self._hear
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.max_queued_messages_set(0)
        self.client.connect(address.host, address.port)
        self.client.loop_start()
        self.client.subscribe("#")
        assert self._subscribed.wait(5)

    def _hear(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        self.heard.append((message.topic, bytes(message.payload)))

    def say(self, topic: str, payload: bytes, qos: int = 0) -> None:
        self.client.publish(topic, payload, qos)

    def say_all(self, publications: list[Publication]) -> None:
        for publication in publications:
            self.client.publish(publication.topic, publication.payload, publication.qos)

    def sparkplug(self) -> list[tuple[Topic, Payload]]:
        """What was heard of Sparkplug, read; without the junk that the tests send."""
        return [
            (topics.parse(topic), decode(raw))
            for topic, raw in list(self.heard)
            if topic.startswith("spBv1.0/") and raw != b"junk"
        ]

    def die(self) -> None:
        """Cut the connection without a goodbye, so that the broker publishes the will."""
        sock = self.client.socket()
        assert sock is not None
        self.client.loop_stop()
        sock.close()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


MakePlant = Callable[..., Plant]


@pytest.fixture
def make_plant(mosquitto: Address) -> Iterator[MakePlant]:
    plants: list[Plant] = []

    def make(*, will: Publication | None = None, name: str = "") -> Plant:
        plants.append(Plant(mosquitto, will=will, name=name))
        return plants[-1]

    yield make
    for plant in plants:
        plant.close()


@pytest.fixture
def plant(make_plant: MakePlant) -> Plant:
    return make_plant()


class Running(NamedTuple):
    """A running ingest with its bus."""

    ingest: Ingest
    bus: Bus


RunIngest = Callable[[SourceSettings], AbstractAsyncContextManager[Running]]


@pytest.fixture
def run_ingest(mosquitto: Address) -> RunIngest:
    @asynccontextmanager
    async def run(settings: SourceSettings) -> AsyncIterator[Running]:
        options = BusOptions(
            host=mosquitto.host, port=mosquitto.port, client_id="edge", version=settings.version
        )

        def will() -> Will | None:
            return ingest.will()

        bus = Bus(options, will=will)
        ingest = Ingest(settings, agent_node="aimass-north-1", bus=bus)
        async with bus, ingest:
            yield Running(ingest, bus)

    return run
