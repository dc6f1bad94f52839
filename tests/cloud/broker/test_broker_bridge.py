"""From a device's outbox to the database, with certificates, on both kinds of broker that die."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
from sqlalchemy import select

from aimass_cloud.bridge import Bridge
from aimass_cloud.broker import COORDINATOR, FleetBroker, TlsFiles
from aimass_cloud.config import MqttSettings
from aimass_cloud.store import Store
from aimass_cloud.store.tables import DeviceRow, PredictionRow
from aimass_edge.bus import Bus, Will
from aimass_edge.config import OutboxSettings
from aimass_edge.outbox import Outbox
from aimass_shared import messages, topics
from aimass_shared.messages import DeviceState, Prediction, StreamAck

Until = Callable[..., Awaitable[None]]
Connect = Callable[..., Bus]
DEVICE = "press-7"
TOTAL = 400


class Ca(Protocol):
    def files(self, name: str) -> TlsFiles: ...


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite+aiosqlite:///{tmp_path / 'cloud.db'}") as store:
        await store.migrate()
        row = DeviceRow(id=DEVICE, site="s", channel="c", certificate="", inventory={}, enrolled=0)
        async with store.session() as session:
            session.add(row)
        yield store


def body(number: int) -> bytes:
    prediction = Prediction(
        model="m",
        release="r1",
        slice="w1.00-fp32",
        sequence=number,
        window_end=number,
        score=0.0,
        threshold=1.0,
        alarm=False,
        top_sensors=(),
        coverage=1.0,
        place="local",
        service_ms=1.0,
    )
    return msgspec.json.encode(prediction)


async def feed_acks(bus: Bus, outbox: Outbox) -> None:
    async for message in bus.messages():
        topic = topics.parse(message.topic)
        if topic.kind == "ack":
            outbox.on_ack(messages.decode(message.payload, StreamAck), topic.item)


async def put_all(outbox: Outbox, broker: FleetBroker) -> None:
    for number in range(TOTAL):
        outbox.put_nowait("predictions", body(number))
        await asyncio.sleep(0.002)
        if number == TOTAL // 2:
            os.kill(broker.pid, signal.SIGKILL)


@pytest.fixture(params=["mosquitto", "embedded"])
async def broker(
    request: pytest.FixtureRequest, ca: Ca, tmp_path: Path
) -> AsyncIterator[FleetBroker]:
    settings = MqttSettings(broker=request.param)
    async with FleetBroker(settings, ca.files("broker"), tmp_path) as running:
        yield running


@pytest.fixture
async def bridge(broker: FleetBroker, ca: Ca, store: Store) -> AsyncIterator[Bridge]:
    async with Bridge(broker.address, ca.files(COORDINATOR), store) as bridge:
        yield bridge


async def items(store: Store) -> list[int]:
    async with store.reading() as session:
        return list(await session.scalars(select(PredictionRow.item).order_by(PredictionRow.item)))


def sever(bus: Bus) -> None:
    assert bus._link is not None
    sock = bus._link._client.socket()
    assert isinstance(sock, socket.socket)
    sock.shutdown(socket.SHUT_RDWR)


async def test_a_device_delivers_through_a_broker_that_dies(
    broker: FleetBroker, bridge: Bridge, connect: Connect, store: Store, tmp_path: Path
) -> None:
    bus = connect(broker.address, DEVICE)
    outbox = Outbox(tmp_path / "outbox.db", OutboxSettings(commit_ms=10, rewind_ms=700))
    bus.subscribe(topics.all_down(DEVICE))
    async with bus, outbox:
        tasks = [asyncio.create_task(feed_acks(bus, outbox))]
        tasks.append(asyncio.create_task(outbox.run(bus, DEVICE)))
        await put_all(outbox, broker)
        async with asyncio.timeout(40):
            await drained(outbox)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert await items(store) == list(range(1, TOTAL + 1))
    assert bridge.counters["malformed"] == 0


async def drained(outbox: Outbox) -> None:
    while outbox.pending():  # noqa: ASYNC110 - a test polls; the outbox tells nobody
        await asyncio.sleep(0.02)


async def test_the_end_of_a_device_is_noticed(
    broker: FleetBroker, bridge: Bridge, connect: Connect, until: Until
) -> None:
    states: list[bool] = []

    async def note(_device: str, state: DeviceState) -> None:
        states.append(state.online)

    bridge.on_state(note)
    gone = messages.encode(DeviceState(online=False, session="s", ts=0))
    bus = connect(broker.address, DEVICE, will=Will(topics.state(DEVICE), gone, 1, retain=True))
    async with bus:
        await until(lambda: bus.connected and bridge.connected)
        sever(bus)
        await until(lambda: states == [False])
