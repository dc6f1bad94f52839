"""The bus against a real broker, through a relay that cuts, stalls and refuses."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import msgspec
import pytest

from aimass_edge.bus import Bus, BusOptions, Inbound, Will
from aimass_shared.errors import BodyTooLargeError, BrokerUnavailableError


class Broker(NamedTuple):
    host: str
    port: int


Until = Callable[..., Awaitable[None]]
Pair = tuple[asyncio.StreamWriter, asyncio.StreamWriter]


class Relay:
    """A TCP relay to the broker: `refuse` new connections, `stall` bytes, `cut` what is open."""

    def __init__(self, target: Broker) -> None:
        self.target = target
        self.port = 0
        self.refuse = False
        self.connections = 0
        self._flows = asyncio.Event()
        self._flows.set()
        self._open: set[Pair] = set()

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuse:
            writer.transport.abort()
            return
        up_reader, up_writer = await asyncio.open_connection(*self.target)
        pair = (writer, up_writer)
        self._open.add(pair)
        await asyncio.gather(self._copy(reader, up_writer), self._copy(up_reader, writer))
        self._open.discard(pair)
        for end in pair:
            end.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def stall(self, *, stalled: bool) -> None:
        self._flows.clear() if stalled else self._flows.set()

    def cut(self) -> None:
        for pair in list(self._open):
            for end in pair:
                end.transport.abort()


@pytest.fixture
async def relay(mosquitto: Broker) -> AsyncIterator[Relay]:
    relay = Relay(mosquitto)
    server = await relay.start()
    yield relay
    server.close()
    relay.stall(stalled=False)
    relay.cut()
    await asyncio.sleep(0)


def options(port: int, client: str = "one") -> BusOptions:
    return BusOptions(host="127.0.0.1", port=port, client_id=client)


class Reader:
    """Collects what a bus receives, in a task."""

    def __init__(self, bus: Bus) -> None:
        self.got: list[Inbound] = []
        self._task = asyncio.create_task(self._read(bus))

    async def _read(self, bus: Bus) -> None:
        async for message in bus.messages():
            self.got.append(message)

    def has(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.got) == count

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.got]


@pytest.mark.parametrize("version", [4, 5])
async def test_messages_arrive_in_order_on_both_versions(
    mosquitto: Broker, until: Until, version: int
) -> None:
    chosen = msgspec.structs.replace(options(mosquitto.port), version=version)
    async with Bus(chosen) as bus:
        bus.subscribe("a/#")
        reader = Reader(bus)
        await until(lambda: bus.connected)
        for number in range(500):
            await bus.publish("a/quick", b"%d" % number)
        await until(lambda: len(reader.got) == 500)
        assert reader.payloads() == [b"%d" % number for number in range(500)]
        await bus.publish("a/kept", b"yes", qos=1, retain=True)
        await until(lambda: len(reader.got) == 501)
        assert reader.got[-1] == Inbound("a/kept", b"yes", retain=False)
    await reader._task  # messages() ends with the bus


async def test_a_later_subscription_works_at_once_and_gets_retained(
    mosquitto: Broker, until: Until
) -> None:
    async with Bus(options(mosquitto.port)) as bus:
        await until(lambda: bus.connected)
        await bus.publish("kept", b"1", qos=1, retain=True)
        reader = Reader(bus)
        bus.subscribe("kept")
        await until(lambda: reader.got == [Inbound("kept", b"1", retain=True)])


async def test_it_comes_back_with_subscriptions_callbacks_and_a_new_will(
    relay: Relay, until: Until
) -> None:
    wills: list[int] = []
    ups: list[str] = []

    def will() -> Will:
        wills.append(len(wills))
        return Will("wills", b"%d" % wills[-1], 1, retain=False)

    async def up() -> None:
        ups.append("up")
        await bus.publish("x/birth", b"%d" % wills[-1], qos=1)

    async def down() -> None:
        ups.append("down")

    async with (
        Bus(options(relay.target.port, "watch")) as watch,
        Bus(options(relay.port), will=will) as bus,
    ):
        watch.subscribe("wills")
        bus.subscribe("x/#")
        bus.on_connect(up)
        bus.on_disconnect(down)
        reader, watcher = Reader(bus), Reader(watch)
        for number in range(3):
            await until(reader.has(number + 1))
            relay.cut()
            await until(watcher.has(number + 1))
        await until(lambda: len(reader.got) == 4)
        assert reader.payloads() == [b"0", b"1", b"2", b"3"]  # own subscription before the birth
        assert watcher.payloads() == [b"0", b"1", b"2"]
        assert ups == ["up", "down", "up", "down", "up", "down", "up"]


async def test_publish_says_when_nobody_is_there(free_port: Callable[[], int]) -> None:
    async with Bus(options(free_port())) as bus:
        with pytest.raises(BrokerUnavailableError):
            await bus.publish("a", b"")
        assert not bus.connected


async def test_it_waits_for_a_broker_that_refuses_at_first(relay: Relay, until: Until) -> None:
    relay.refuse = True
    async with Bus(options(relay.port)) as bus:
        await until(lambda: relay.connections >= 3)
        assert not bus.connected
        relay.refuse = False
        await until(lambda: bus.connected)


async def test_sure_messages_fail_loudly_when_the_link_dies(relay: Relay, until: Until) -> None:
    async with Bus(options(relay.port)) as bus:
        await until(lambda: bus.connected)
        relay.stall(stalled=True)
        sends = [asyncio.create_task(bus.publish("a", b"x" * 100, qos=1)) for _ in range(300)]
        done, _ = await asyncio.wait(sends, timeout=0.3)
        assert not done  # nothing is said to be delivered without the broker's word
        relay.cut()
        relay.stall(stalled=False)
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert all(isinstance(result, BrokerUnavailableError) for result in results)
        await until(lambda: bus.connected)
        await bus.publish("a", b"again", qos=1)


async def test_a_silent_network_is_noticed_by_keepalive(relay: Relay, until: Until) -> None:
    async with Bus(msgspec.structs.replace(options(relay.port), keepalive_s=1)) as bus:
        await until(lambda: bus.connected)
        relay.stall(stalled=True)
        await until(lambda: not bus.connected, 6)
        relay.stall(stalled=False)
        await until(lambda: bus.connected)


async def test_a_slow_reader_loses_the_oldest_quick_messages_and_no_sure_one(
    mosquitto: Broker, until: Until
) -> None:
    small = msgspec.structs.replace(options(mosquitto.port), queue_limit=50)
    async with Bus(small) as bus, Bus(options(mosquitto.port, "two")) as sender:
        bus.subscribe("q")
        await until(lambda: bus.connected and sender.connected)
        for number in range(200):
            await sender.publish("q", b"%d" % number)
        await until(lambda: bus.dropped == 150)
        reader = Reader(bus)
        await until(lambda: reader.payloads() == [b"%d" % number for number in range(150, 200)])
        reader._task.cancel()
        for number in range(200):
            await sender.publish("q", b"%d" % number, qos=1)
        late = Reader(bus)
        await until(lambda: len(late.got) == 200)
        assert late.payloads() == [b"%d" % number for number in range(200)]
        assert bus.dropped == 150


async def test_size_limits_hold_both_ways(mosquitto: Broker, until: Until) -> None:
    narrow = msgspec.structs.replace(options(mosquitto.port), max_payload_bytes=1000)
    async with Bus(narrow) as bus, Bus(options(mosquitto.port, "two")) as sender:
        bus.subscribe("s")
        reader = Reader(bus)
        await until(lambda: bus.connected and sender.connected)
        with pytest.raises(BodyTooLargeError):
            await bus.publish("s", bytes(1001))
        await sender.publish("s", bytes(1001), qos=1)
        await sender.publish("s", bytes(1000), qos=1)
        await until(lambda: len(reader.got) == 1)
        assert len(reader.got[0].payload) == 1000
        assert bus.dropped == 1
        assert bus.connected


async def test_a_callback_that_raises_is_logged_and_changes_nothing(
    mosquitto: Broker, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise ValueError("a bug of the caller")

    async with Bus(options(mosquitto.port)) as bus:
        bus.on_connect(broken)
        bus.subscribe("a")
        reader = Reader(bus)
        await until(lambda: bus.connected)
        await bus.publish("a", b"1")
        await until(lambda: reader.payloads() == [b"1"])
    assert "a bug of the caller" in caplog.text


async def test_a_broker_that_talks_nonsense_is_left_and_tried_again(
    until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """A malformed packet makes paho raise in its thread: the thread must not die in silence."""
    tries: list[int] = []

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tries.append(1)
        await reader.read(1000)
        writer.write(b"\x20\x03\x00\x00\x00" + b"\x30\x02\xff\xff")  # CONNACK, a broken PUBLISH
        with contextlib.suppress(OSError):
            await reader.read(1000)
            await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    caplog.set_level(logging.INFO)
    async with server, Bus(options(server.sockets[0].getsockname()[1])) as bus:
        await until(lambda: len(tries) >= 2)
        assert not bus.connected


async def test_thousands_of_messages_take_little_time(mosquitto: Broker, until: Until) -> None:
    async with Bus(options(mosquitto.port)) as bus:
        bus.subscribe("m", 0)
        reader = Reader(bus)
        await until(lambda: bus.connected)
        began = time.process_time()
        for start in range(0, 5000, 500):
            for _ in range(500):
                await bus.publish("m", bytes(500))
            await until(reader.has(start + 500))
        assert bus.dropped == 0
        assert time.process_time() - began < 5
