"""The bridge between a real broker and a real database: nothing twice, nothing lost."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import aiomqtt
import msgspec
import pytest
from sqlalchemy import func, select, text

from aimass_cloud.bridge import Bridge
from aimass_cloud.store import Store
from aimass_cloud.store.tables import DeviceRow, PredictionRow, StreamRow
from aimass_edge.bus import Bus, BusOptions
from aimass_edge.config import OutboxSettings
from aimass_edge.outbox import Outbox
from aimass_shared import messages, topics
from aimass_shared.errors import BodyTooLargeError, BrokerUnavailableError, NotFoundError
from aimass_shared.messages import (
    BrokerAddress,
    DeviceState,
    Prediction,
    Reported,
    RoundReply,
    StreamAck,
    StreamBatch,
    StreamItem,
)

Until = Callable[..., Awaitable[None]]
DEVICE = "press-7"


class Address(NamedTuple):
    host: str
    port: int


def device_row(name: str, *, revoked: bool = False) -> DeviceRow:
    return DeviceRow(
        id=name, site="s", channel="c", certificate="", inventory={}, enrolled=0, revoked=revoked
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite+aiosqlite:///{tmp_path / 'cloud.db'}") as store:
        await store.migrate()
        async with store.session() as session:
            session.add_all([device_row(DEVICE), device_row("press-8")])
            session.add(device_row("stolen", revoked=True))
        yield store


def address(port: int) -> BrokerAddress:
    return BrokerAddress(host="127.0.0.1", port=port, tls=False)


@pytest.fixture
async def bridge(mosquitto: Address, store: Store, until: Until) -> AsyncIterator[Bridge]:
    async with Bridge(address(mosquitto.port), None, store) as bridge:
        await until(lambda: bridge.connected)
        yield bridge


@pytest.fixture
async def device(mosquitto: Address) -> AsyncIterator[aiomqtt.Client]:
    async with aiomqtt.Client(mosquitto.host, mosquitto.port, identifier=DEVICE) as client:
        await client.subscribe(topics.all_down(DEVICE), qos=1)
        yield client


def body(number: int) -> bytes:
    prediction = Prediction(
        model="tep-monitor",
        release="r1",
        slice="w1.00-fp32",
        sequence=number,
        window_end=number * 1000,
        score=number / 10,
        threshold=3.0,
        alarm=number % 2 == 1,
        top_sensors=("XMEAS_01",),
        coverage=1.0,
        place="local",
        service_ms=1.5,
    )
    return msgspec.json.encode(prediction)


def batch(*ids: int, after: int = 0, epoch: str = "e1", raw: bytes | None = None) -> bytes:
    rows = tuple(StreamItem(number, msgspec.Raw(raw or body(number))) for number in ids)
    return messages.encode(StreamBatch(epoch=epoch, items=rows, after=after))


async def rows(store: Store) -> list[tuple[str, str, int, int]]:
    columns = (PredictionRow.device, PredictionRow.epoch, PredictionRow.item)
    query = select(*columns, PredictionRow.window_end).order_by(*columns)
    async with store.reading() as session:
        return [tuple(row) for row in await session.execute(query)]


async def uptos(store: Store) -> dict[str, int]:
    async with store.reading() as session:
        return {row.epoch: row.upto for row in await session.scalars(select(StreamRow))}


async def next_ack(client: aiomqtt.Client) -> StreamAck:
    async with asyncio.timeout(10):
        message = await anext(client.messages)
    assert str(message.topic) == topics.ack(DEVICE, "predictions")
    assert isinstance(message.payload, bytes)
    return messages.decode(message.payload, StreamAck)


UP = topics.stream(DEVICE, "predictions")


async def test_rows_are_stored_once_and_then_acknowledged(
    bridge: Bridge, device: aiomqtt.Client, store: Store
) -> None:
    await device.publish(UP, batch(1, 2), qos=1)
    assert await next_ack(device) == StreamAck(epoch="e1", upto=2)
    assert await rows(store) == [(DEVICE, "e1", 1, 1000), (DEVICE, "e1", 2, 2000)]
    async with store.reading() as session:
        first = (await session.scalars(select(PredictionRow).limit(1))).one()
    assert (first.release, first.score, first.alarm, first.body) == ("r1", 0.1, True, body(1))
    await device.publish(UP, batch(1, 2), qos=1)
    assert (await next_ack(device)).upto == 2
    await device.publish(UP, batch(2, 5, after=1), qos=1)
    assert (await next_ack(device)).upto == 5
    assert [row[2] for row in await rows(store)] == [1, 2, 5]
    await device.publish(UP, batch(1, epoch="e2"), qos=1)
    assert await next_ack(device) == StreamAck(epoch="e2", upto=1)
    assert await uptos(store) == {"e1": 5, "e2": 1}
    assert bridge.counters["predictions"] == 4
    assert bridge.counters["duplicates"] == 3


async def test_a_gap_is_not_acknowledged_until_it_is_filled(
    bridge: Bridge, device: aiomqtt.Client, store: Store, until: Until
) -> None:
    await device.publish(UP, batch(3, after=2), qos=1)
    await until(lambda: bridge.counters["gaps"] == 1)
    await device.publish(UP, batch(1), qos=1)
    assert (await next_ack(device)).upto == 1
    await device.publish(UP, batch(3, after=2), qos=1)
    assert (await next_ack(device)).upto == 1  # how far it is, so that the device knows
    assert [row[2] for row in await rows(store)] == [1]
    await device.publish(UP, batch(2, 3, after=1), qos=1)
    assert (await next_ack(device)).upto == 3


async def test_malformed_and_unknown_things_are_counted_and_stop_nothing(
    bridge: Bridge, device: aiomqtt.Client, store: Store
) -> None:
    huge = msgspec.json.encode({**msgspec.json.decode(body(1)), "window_end": 1 << 70})
    await device.publish(UP, b"{", qos=1)
    await device.publish(UP, b"", qos=1)
    await device.publish(UP, batch(2, 1), qos=1)
    await device.publish(UP, batch(1, epoch="a/b"), qos=1)
    await device.publish(topics.ROOT + "/press-7/up/nonsense", b"1", qos=1)
    await device.publish(topics.state(DEVICE), b"[]", qos=1)
    await device.publish(topics.stream("nobody", "predictions"), batch(1), qos=1)
    await device.publish(topics.stream("stolen", "predictions"), batch(1), qos=1)
    await device.publish(topics.stream(DEVICE, "gossip"), batch(1), qos=1)
    await device.publish(UP, batch(1, raw=b'{"score":"high"}'), qos=1)
    assert (await next_ack(device)).upto == 1  # it would never become a prediction
    await device.publish(UP, batch(2, raw=huge), qos=1)
    assert (await next_ack(device)).upto == 2
    await device.publish(UP, batch(3), qos=1)
    assert (await next_ack(device)).upto == 3
    counts = bridge.counters
    assert (counts["malformed"], counts["unknown_device"]) == (5, 2)
    assert (counts["unknown_stream"], counts["bad_rows"]) == (1, 2)
    assert [row[2] for row in await rows(store)] == [3]


async def test_listeners_hear_what_is_theirs_and_cannot_break_the_bridge(
    bridge: Bridge, device: aiomqtt.Client, until: Until
) -> None:
    heard: list[object] = []

    async def broken(_device: str, _state: DeviceState) -> None:
        raise ZeroDivisionError("a bug")

    async def refusing(_device: str, _state: DeviceState) -> None:
        raise NotFoundError("no such thing")

    async def listen(name: str, message: object) -> None:
        heard.append((name, message))

    for listener in (broken, refusing, listen):
        bridge.on_state(listener)
    bridge.on_reported(listen)
    bridge.on_round_reply(listen)
    state = DeviceState(online=True, session="s", ts=1)
    reported = Reported(v=1, ts=2, state="idle")
    reply = RoundReply(task="t", ok=True)
    await device.publish(topics.state(DEVICE), messages.encode(state), qos=1, retain=True)
    await device.publish(topics.reported(DEVICE), messages.encode(reported), qos=1)
    await device.publish(topics.round_reply(DEVICE, "t"), messages.encode(reply), qos=1)
    await device.publish(topics.state("nobody"), messages.encode(state), qos=1)
    await until(lambda: bridge.counters["unknown_device"] == 1)
    assert heard == [(DEVICE, state), (DEVICE, reported), (DEVICE, reply)]
    assert bridge.counters["listener_failures"] == 1
    assert bridge.counters["refused_not-found"] == 1


async def test_orders_go_out_retained(
    bridge: Bridge, mosquitto: Address, device: aiomqtt.Client
) -> None:
    await bridge.publish(topics.desired(DEVICE), b"1", retain=True)
    async with asyncio.timeout(10):
        assert (await anext(device.messages)).payload == b"1"
    with pytest.raises(BodyTooLargeError):
        await bridge.publish(topics.desired(DEVICE), bytes(messages.MAX_MESSAGE_BYTES + 1))
    async with aiomqtt.Client(mosquitto.host, mosquitto.port) as late:
        await late.subscribe(topics.desired(DEVICE))
        async with asyncio.timeout(10):
            assert (await anext(late.messages)).retain


async def test_publishing_to_nobody_is_a_clear_error_in_time(
    store: Store, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aimass_cloud.bridge.connection.PUBLISH_DEADLINE_S", 0.3)
    async with Bridge(address(free_port()), None, store) as bridge:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="is it running"):
            await bridge.publish(topics.desired(DEVICE), b"1")
        assert time.monotonic() - began < 2


async def test_a_database_that_fails_acknowledges_nothing_and_recovers(
    bridge: Bridge, device: aiomqtt.Client, store: Store, until: Until
) -> None:
    async with store.session() as session:
        await session.execute(text("alter table predictions rename to hidden"))
    await device.publish(UP, batch(1), qos=1)
    await until(lambda: bridge.counters["database_errors"] > 0)
    assert await uptos(store) == {}
    async with store.session() as session:
        await session.execute(text("alter table hidden rename to predictions"))
    await device.publish(UP, batch(1), qos=1)
    assert (await next_ack(device)).upto == 1


async def test_thousands_of_rows_of_many_messages_are_quick(
    bridge: Bridge, device: aiomqtt.Client, store: Store
) -> None:
    began = time.monotonic()
    for start in range(1, 3001, 20):
        await device.publish(UP, batch(*range(start, start + 20), after=start - 1), qos=1)
    while (await next_ack(device)).upto < 3000:
        pass
    assert time.monotonic() - began < 6
    assert bridge.counters["predictions"] == 3000
    async with store.reading() as session:
        assert await session.scalar(select(func.count()).select_from(PredictionRow)) == 3000


@pytest.fixture
def mortal(free_port: Callable[[], int], tmp_path: Path) -> Iterator["Mortal"]:
    broker = Mortal(free_port(), tmp_path)
    yield broker
    broker.end()


class Mortal:
    """A mosquitto that dies by SIGKILL and comes back on the same port."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        config = folder / "mortal.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            "persistence false\nlog_type error\n"
        )
        binary = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") or ""
        self._line = [binary, "-c", str(config)]
        self._process = subprocess.Popen(self._line)

    def kill_and_restart(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        self._process = subprocess.Popen(self._line)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)


async def feed_acks(bus: Bus, outbox: Outbox) -> None:
    async for message in bus.messages():
        outbox.on_ack(messages.decode(message.payload, StreamAck), topics.parse(message.topic).item)


async def put_all(outbox: Outbox, total: int, broker: Mortal) -> None:
    """Put rows as an agent does; kill the broker three times on the way."""
    for number in range(1, total + 1):
        outbox.put_nowait("predictions", body(number))
        if number % 10 == 0:
            await asyncio.sleep(0.01)
        if number % (total // 4) == 0 and number < total:
            await asyncio.to_thread(broker.kill_and_restart)


async def test_outbox_to_database_through_three_dead_brokers(
    mortal: Mortal, store: Store, tmp_path: Path, until: Until
) -> None:
    bus = Bus(BusOptions(host="127.0.0.1", port=mortal.port, client_id=DEVICE))
    outbox = Outbox(tmp_path / "outbox.db", OutboxSettings(commit_ms=10, rewind_ms=700))
    bus.subscribe(topics.all_down(DEVICE))
    async with Bridge(address(mortal.port), None, store), bus, outbox:
        tasks = [asyncio.create_task(feed_acks(bus, outbox))]
        tasks.append(asyncio.create_task(outbox.run(bus, DEVICE)))
        await put_all(outbox, 2000, mortal)
        await until(lambda: outbox.pending() == 0, 30)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    stored = await rows(store)
    assert [row[2] for row in stored] == list(range(1, 2001))
    assert len({row[1] for row in stored}) == 1
