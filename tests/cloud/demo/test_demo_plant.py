"""The three plants against a real mosquitto: what a subscriber of the factory sees of them."""

import asyncio
import json
import queue
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from aimass_cloud.demo.plant import Plant, connect
from aimass_cloud.demo.sites import SITES, Site
from aimass_shared.messages import BrokerAddress
from aimass_shared.sparkplug.datatypes import DataType
from aimass_shared.sparkplug.payload import Metric, Payload, decode, encode
from aimass_shared.sparkplug.rules import BD_SEQ, REBIRTH, rebirth_request
from aimass_shared.sparkplug.topics import parse

Until = Callable[..., Awaitable[None]]
SENSORS = ("XMEAS_01", "XMV_11")
NORTH, EAST, SOUTH = SITES
NODE = ("acme", "north-gateway")


class Address(NamedTuple):
    host: str
    port: int


class Factory:
    """A subscriber of everything on the factory's broker, which can publish as well."""

    def __init__(self, address: Address) -> None:
        self.address = BrokerAddress(address.host, address.port, tls=False, version=5)
        self._queue: queue.Queue[MQTTMessage] = queue.Queue()
        self.client = Client(CallbackAPIVersion.VERSION2)
        subscribed = threading.Event()
        self.client.on_message = lambda _client, _data, message: self._queue.put(message)
        self.client.on_subscribe = lambda *_arguments: subscribed.set()
        self.client.connect(*address)
        self.client.loop_start()
        self.client.subscribe("#", qos=1)
        assert subscribed.wait(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    async def next(self) -> MQTTMessage:
        return await asyncio.to_thread(self._queue.get, timeout=10)

    async def sparkplug(self) -> tuple[str, Payload]:
        """Kind of the next message that a node sent, and its payload."""
        while True:
            message = await self.next()
            topic = parse(message.topic)
            if topic.kind != "NCMD":
                assert (topic.group, topic.node) == NODE
                assert topic.device == ("reactor" if topic.kind.startswith("D") else "")
                assert not message.retain
                return topic.kind, decode(bytes(message.payload))

    def command(self, raw: bytes) -> None:
        topic = rebirth_request(*NODE, 0).topic
        self.client.publish(topic, raw, qos=1).wait_for_publish(10)

    def empty(self) -> bool:
        return self._queue.empty()


@pytest.fixture
def factory(mosquitto: Address) -> Iterator[Factory]:
    factory = Factory(mosquitto)
    yield factory
    factory.close()


def _values(payload: Payload) -> dict[str | None, object]:
    return {metric.name: metric.value for metric in payload.metrics}


@asynccontextmanager
async def _born(factory: Factory) -> AsyncIterator[tuple[Plant, int]]:
    """The Sparkplug plant after its births, and the bdSeq that they had."""
    async with connect(NORTH, factory.address, SENSORS) as plant:
        kind, birth = await factory.sparkplug()
        assert (kind, birth.seq) == ("NBIRTH", 0)
        kind, device = await factory.sparkplug()
        assert (kind, device.seq) == ("DBIRTH", 1)
        assert {metric.name: metric.datatype for metric in device.metrics} == dict.fromkeys(
            SENSORS, DataType.FLOAT
        )
        assert _values(device) == dict.fromkeys(SENSORS), "no value before it has one"
        bd_seq = _values(birth)[BD_SEQ]
        assert isinstance(bd_seq, int)
        assert _values(birth)[REBIRTH] is False
        yield plant, bd_seq


async def test_sparkplug_births_data_and_a_death_before_it_leaves(factory: Factory) -> None:
    async with _born(factory) as (plant, bd_seq):
        for row in range(3):
            await plant.send(1000 + row, [0.5 + row, 42.0])
            kind, data = await factory.sparkplug()
            assert (kind, data.seq) == ("DDATA", 2 + row)
            assert _values(data) == {"XMEAS_01": 0.5 + row, "XMV_11": 42.0}
            assert [metric.timestamp for metric in data.metrics] == [1000 + row] * 2
    kind, death = await factory.sparkplug()
    assert (kind, _values(death)) == ("NDEATH", {BD_SEQ: bd_seq})
    assert factory.empty(), "the broker does not send the will as well"


async def test_sparkplug_answers_a_rebirth_and_counts_on(factory: Factory) -> None:
    async with _born(factory) as (plant, bd_seq):
        await plant.send(1000, [0.5, 42.0])
        assert (await factory.sparkplug())[0] == "DDATA"
        factory.command(rebirth_request(*NODE, 5).payload)
        kind, birth = await factory.sparkplug()
        assert (kind, birth.seq, _values(birth)[BD_SEQ]) == ("NBIRTH", 0, bd_seq)
        kind, device = await factory.sparkplug()
        assert (kind, device.seq) == ("DBIRTH", 1)
        assert _values(device) == {"XMEAS_01": 0.5, "XMV_11": 42.0}, "the values it has now"
        await plant.send(2000, [0.75, 42.0])
        kind, data = await factory.sparkplug()
        assert (kind, data.seq) == ("DDATA", 2)


async def test_sparkplug_does_only_rebirths_and_outlives_commands_it_cannot_read(
    factory: Factory,
) -> None:
    async with _born(factory):
        factory.command(b"\xff not a payload")
        write = Metric(name="XMV_11", datatype=DataType.FLOAT, value=99.0)
        factory.command(encode(Payload(timestamp=1, metrics=(write,))))
        factory.command(rebirth_request(*NODE, 5).payload)
        kinds = [await factory.sparkplug() for _ in range(2)]
        assert [kind for kind, _payload in kinds] == ["NBIRTH", "DBIRTH"]
        assert _values(kinds[1][1])["XMV_11"] is None, "nobody outside sets a value"
        assert factory.empty()


SCRIPT = """\
import asyncio, sys
from aimass_cloud.demo.plant import connect
from aimass_cloud.demo.sites import SITES
from aimass_shared.messages import BrokerAddress

async def main():
    address = BrokerAddress("127.0.0.1", int(sys.argv[1]), tls=False, version=5)
    async with connect(SITES[0], address, ["XMEAS_01"]):
        await asyncio.sleep(300)

asyncio.run(main())
"""


async def test_sparkplug_death_is_the_will_of_a_plant_that_is_killed(factory: Factory) -> None:
    port = str(factory.address.port)
    plant = await asyncio.create_subprocess_exec(sys.executable, "-c", SCRIPT, port)
    try:
        birth = await factory.sparkplug()
        assert birth[0] == "NBIRTH"
        assert (await factory.sparkplug())[0] == "DBIRTH"
    finally:
        plant.kill()
        await asyncio.wait_for(plant.wait(), 10)
    kind, death = await factory.sparkplug()
    assert kind == "NDEATH"
    assert _values(death) == {BD_SEQ: _values(birth[1])[BD_SEQ]}


async def test_json_plant_sends_one_object_a_row(factory: Factory) -> None:
    async with connect(EAST, factory.address, SENSORS) as plant:
        await plant.send(1000, [0.5, 42.0])
        await plant.send(2000, [0.25, 43.0])
        rows = [await factory.next() for _ in range(2)]
    assert {row.topic for row in rows} == {EAST.topic}
    assert [json.loads(row.payload) for row in rows] == [
        {"timestamp_ms": 1000, "XMEAS_01": 0.5, "XMV_11": 42.0},
        {"timestamp_ms": 2000, "XMEAS_01": 0.25, "XMV_11": 43.0},
    ]
    assert factory.empty()


async def test_uns_plant_sends_one_tag_a_topic(factory: Factory) -> None:
    async with connect(SOUTH, factory.address, SENSORS) as plant:
        await plant.send(1000, [0.5, 42.0])
        tags = [await factory.next() for _ in range(2)]
    assert {tag.topic: json.loads(tag.payload) for tag in tags} == {
        "umh/v1/acme/south/reactor/_raw/XMEAS_01": {"timestamp_ms": 1000, "value": 0.5},
        "umh/v1/acme/south/reactor/_raw/XMV_11": {"timestamp_ms": 1000, "value": 42.0},
    }
    assert factory.empty()


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
async def test_a_row_of_the_wrong_length_is_refused(factory: Factory, site: Site) -> None:
    async with connect(site, factory.address, SENSORS) as plant:
        with pytest.raises(ValueError, match="shorter"):
            await plant.send(1000, [0.5])


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
async def test_all_speak_3_1_1_too(factory: Factory, site: Site) -> None:
    address = msgspec.structs.replace(factory.address, version=4)
    async with connect(site, address, SENSORS) as plant:
        await plant.send(1000, [0.5, 42.0])
        assert (await factory.next()).payload


async def test_cancelled_inside_the_block_it_disconnects_at_once(factory: Factory) -> None:
    async def lives() -> None:
        async with connect(NORTH, factory.address, SENSORS):
            await asyncio.sleep(300)

    task = asyncio.create_task(lives())
    assert [(await factory.sparkplug())[0] for _ in range(2)] == ["NBIRTH", "DBIRTH"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
