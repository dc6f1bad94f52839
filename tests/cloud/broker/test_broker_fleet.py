"""Both kinds of broker, as real processes, with real certificates and the agent's own client."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Literal, Protocol

import pytest

from aimass_cloud.broker import FleetBroker, PlantBroker, TlsFiles, mosquitto
from aimass_cloud.broker.own import choose_kind
from aimass_cloud.config import MqttSettings
from aimass_edge.bus import Bus, Inbound, Will
from aimass_shared import topics
from aimass_shared.errors import BrokerUnavailableError, MissingExtraError, PortInUseError

Until = Callable[..., Awaitable[None]]
Connect = Callable[..., Bus]


class Ca(Protocol):
    def files(self, name: str) -> TlsFiles: ...


def fleet(ca: Ca, folder: Path, settings: MqttSettings) -> FleetBroker:
    return FleetBroker(settings, ca.files("broker"), folder)


@pytest.fixture(params=["mosquitto", "embedded"])
async def broker(
    request: pytest.FixtureRequest, ca: Ca, tmp_path: Path
) -> AsyncIterator[FleetBroker]:
    async with fleet(ca, tmp_path, MqttSettings(broker=request.param)) as running:
        assert running.kind == request.param
        yield running


class Reader:
    def __init__(self, bus: Bus) -> None:
        self.got: list[Inbound] = []
        self._task = asyncio.create_task(self._read(bus))

    async def _read(self, bus: Bus) -> None:
        async for message in bus.messages():
            self.got.append(message)


@contextlib.asynccontextmanager
async def listening(bus: Bus, topic: str, until: Until) -> AsyncIterator[list[Inbound]]:
    bus.subscribe(topic)
    async with bus:
        reader = Reader(bus)
        await until(lambda: bus.connected)
        yield reader.got


def sever(bus: Bus) -> None:
    """Break the TCP connection, without a goodbye."""
    assert bus._link is not None
    sock = bus._link._client.socket()
    assert isinstance(sock, socket.socket)
    sock.shutdown(socket.SHUT_RDWR)


async def test_state_goes_up_and_orders_go_down(
    broker: FleetBroker, connect: Connect, until: Until
) -> None:
    address = broker.address
    assert (address.tls, address.version) == (True, 5 if broker.kind == "mosquitto" else 4)
    assert bool(broker.note) == (broker.kind == "embedded")
    async with (
        listening(connect(address, "coordinator"), topics.all_up(), until) as up,
        listening(connect(address, "press-7"), topics.all_down("press-7"), until) as down,
    ):
        async with connect(address, "press-8") as device:
            await until(lambda: device.connected)
            await device.publish(topics.state("press-8"), b"1", qos=1, retain=True)
        await until(lambda: up == [Inbound(topics.state("press-8"), b"1", retain=False)])
        async with connect(address, "coordinator2", client_id="coordinator2") as stranger:
            await until(lambda: stranger.connected)
            with contextlib.suppress(BrokerUnavailableError):  # MQTT 5 says so, 3.1.1 is silent
                await stranger.publish(topics.desired("press-7"), b"evil", qos=1, retain=True)
        assert down == []
    late = connect(address, "coordinator")
    async with listening(late, topics.all_up(), until) as kept:
        await until(lambda: kept == [Inbound(topics.state("press-8"), b"1", retain=True)])
        await late.publish(topics.desired("press-7"), b"2", qos=1, retain=True)
    async with listening(connect(address, "press-7"), topics.all_down("press-7"), until) as orders:
        await until(lambda: orders == [Inbound(topics.desired("press-7"), b"2", retain=True)])


async def test_the_last_will_is_published_and_retained(
    broker: FleetBroker, connect: Connect, until: Until
) -> None:
    topic = topics.state("press-7")
    device = connect(broker.address, "press-7", will=Will(topic, b"gone", 1, retain=True))
    watcher = listening(connect(broker.address, "coordinator"), topics.all_up(), until)
    async with watcher as up, device:
        await until(lambda: device.connected)
        sever(device)
        await until(lambda: up == [Inbound(topic, b"gone", retain=False)])
    late = connect(broker.address, "coordinator")
    async with listening(late, topics.all_up(), until) as kept:
        await until(lambda: kept == [Inbound(topic, b"gone", retain=True)])


async def test_sure_messages_wait_for_a_device_that_is_away(
    broker: FleetBroker, connect: Connect, until: Until
) -> None:
    def device() -> Bus:
        return connect(broker.address, "press-7", expiry_s=60)

    async with (
        listening(device(), topics.all_down("press-7"), until),
        connect(broker.address, "coordinator") as coordinator,
    ):
        await until(lambda: coordinator.connected)
    async with connect(broker.address, "coordinator") as coordinator:
        await until(lambda: coordinator.connected)
        await coordinator.publish(topics.round_task("press-7", "r1"), b"task", qos=1)
        await asyncio.sleep(0.2)  # amqtt acknowledges before it has queued
    async with listening(device(), topics.all_down("press-7"), until) as down:
        await until(lambda: [message.payload for message in down] == [b"task"])


async def test_nobody_reads_or_writes_for_another(
    broker: FleetBroker, connect: Connect, until: Until
) -> None:
    device, thief = connect(broker.address, "press-7"), connect(broker.address, "press-8")
    async with (
        listening(connect(broker.address, "coordinator"), topics.all_up(), until) as up,
        listening(thief, topics.all_down("press-7"), until) as stolen,
        listening(device, topics.all_down("press-7"), until) as down,
        connect(broker.address, "coordinator", client_id="coordinator") as coordinator,
    ):
        await until(lambda: coordinator.connected)
        with contextlib.suppress(BrokerUnavailableError):
            await thief.publish(topics.state("press-7"), b"forged", qos=1)
        await thief.publish(topics.state("press-8"), b"own", qos=1)
        await until(lambda: coordinator.connected)
        await coordinator.publish(topics.desired("press-7"), b"secret", qos=1)
        await until(lambda: [message.payload for message in down] == [b"secret"])
        assert stolen == []
        assert b"forged" not in {message.payload for message in up}


async def test_a_certificate_of_another_does_not_take_a_place(
    broker: FleetBroker, connect: Connect, until: Until
) -> None:
    """Clean start and persistent session: amqtt trusts the client id in different places."""
    device = connect(broker.address, "press-7", expiry_s=60)
    lost: list[str] = []

    async def note_loss() -> None:
        lost.append("lost")

    device.on_disconnect(note_loss)
    async with (
        listening(device, topics.all_down("press-7"), until) as down,
        connect(broker.address, "coordinator") as coordinator,
    ):
        for expiry in (0, 60):
            thief = connect(broker.address, "press-8", client_id="press-7", expiry_s=expiry)
            async with listening_or_refused(thief, topics.all_down("press-7")) as stolen:
                await until(lambda: coordinator.connected)
                await coordinator.publish(topics.desired("press-7"), b"secret", qos=1)
                await asyncio.sleep(0.3)
                assert stolen == []
        await until(lambda: [message.payload for message in down] == [b"secret"] * 2)
        assert lost == []


@contextlib.asynccontextmanager
async def listening_or_refused(bus: Bus, topic: str) -> AsyncIterator[list[Inbound]]:
    bus.subscribe(topic)
    async with bus:
        reader = Reader(bus)
        await asyncio.sleep(0.5)
        yield reader.got


async def test_without_a_certificate_of_our_ca_there_is_no_connection(
    broker: FleetBroker, ca: Ca
) -> None:
    context = ssl.create_default_context(cafile=str(ca.files("nobody").ca))
    with contextlib.suppress(OSError):  # TLS 1.3 tells on the first read
        reader, writer = await asyncio.open_connection(
            broker.address.host, broker.address.port, ssl=context
        )
        writer.write(b"\x10\x13\x00\x04MQTT\x04\x02\x00\x3c\x00\x07press-7")
        assert await reader.read(4) != b"\x20\x02\x00\x00"  # CONNACK, accepted
        writer.close()


async def test_a_broker_that_is_killed_is_started_again(
    broker: FleetBroker, connect: Connect, until: Until
) -> None:
    async with connect(broker.address, "press-7") as device:
        await until(lambda: device.connected)
        os.kill(broker.pid, signal.SIGKILL)
        await until(lambda: not device.connected)
        await until(lambda: device.connected, 20)
        await device.publish(topics.state("press-7"), b"1", qos=1)


async def test_the_port_is_kept_and_a_taken_one_is_a_clear_error(
    ca: Ca, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    async with fleet(ca, tmp_path, MqttSettings()) as first:
        port = first.address.port
        with pytest.raises(PortInUseError, match=str(port)):
            async with fleet(ca, tmp_path, MqttSettings()):
                pass
    async with fleet(ca, tmp_path, MqttSettings()) as second:
        assert second.address.port == port
    wanted = free_port()
    async with fleet(ca, tmp_path / "other", MqttSettings(port=wanted)) as third:
        assert third.address.port == wanted


async def test_a_broker_that_does_not_start_says_why(ca: Ca, tmp_path: Path) -> None:
    files = ca.files("broker")
    wrong = TlsFiles(ca=files.ca, certificate=files.certificate, key=tmp_path / "none.key")
    with pytest.raises(BrokerUnavailableError, match=r"none\.key"):
        async with FleetBroker(MqttSettings(broker="mosquitto"), wrong, tmp_path):
            pass


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
async def test_the_plants_broker_is_plain(
    kind: Literal["mosquitto", "embedded"], tmp_path: Path, connect: Connect, until: Until
) -> None:
    async with PlantBroker(tmp_path / "plant", wanted=kind) as plant:
        machine = connect(plant.address, "machine", will=Will("dead", b"x", 1, retain=False))
        async with listening(connect(plant.address, "agent"), "#", until) as got, machine:
            await until(lambda: machine.connected)
            for number in range(300):
                await machine.publish("line/telemetry", b"%d" % number)
            await until(lambda: len(got) == 300)
            sever(machine)
            await until(lambda: got[-1].topic == "dead")
        assert [message.payload for message in got[:-1]] == [b"%d" % n for n in range(300)]


def test_a_missing_broker_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_kind("auto") == "mosquitto"
    assert choose_kind("embedded") == "embedded"
    monkeypatch.setattr(mosquitto, "find", lambda: None)
    assert choose_kind("auto") == "embedded"
    with pytest.raises(MissingExtraError, match="apt-get install mosquitto"):
        choose_kind("mosquitto")


_OWNER = """
import asyncio, sys
from pathlib import Path
from aimass_cloud.broker import PlantBroker

async def main():
    async with PlantBroker(Path(sys.argv[1]), wanted=sys.argv[2]) as plant:
        print(plant.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
async def test_a_broker_cannot_outlive_its_owner(kind: str, tmp_path: Path, until: Until) -> None:
    owner = subprocess.Popen(  # noqa: ASYNC220 - started once, nothing else runs in this loop
        [sys.executable, "-c", _OWNER, tmp_path, kind], stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    pid = int(await asyncio.to_thread(owner.stdout.readline))
    os.kill(pid, 0)
    owner.kill()
    owner.wait(10)
    owner.stdout.close()
    await until(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    """A zombie is not: in a container nobody may collect it."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
