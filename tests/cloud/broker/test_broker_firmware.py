"""`firmware_configs/mosquitto.conf` as shipped, run by a real mosquitto: only paths change."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from aimass_cloud.broker import TlsFiles
from aimass_edge.bus import Bus, BusOptions, Inbound
from aimass_edge.bus import TlsFiles as BusTlsFiles
from aimass_shared import topics
from aimass_shared.errors import BrokerUnavailableError
from aimass_shared.messages import BrokerAddress

Until = Callable[..., Awaitable[None]]
Connect = Callable[..., Bus]
CONFIGS = Path(__file__).parent.parent.parent.parent / "firmware_configs"
PLACES = {
    "/etc/aimass/tls/ca.pem": "ca.pem",
    "/etc/aimass/tls/broker.pem": "broker.pem",
    "/etc/aimass/tls/broker.key": "broker.key",
    "/etc/aimass/mosquitto.acl": "mosquitto.acl",
    "/var/lib/mosquitto/": "kept/",
}


class Ca(Protocol):
    folder: Path
    path: Path

    def files(self, name: str) -> TlsFiles: ...


@pytest.fixture
def shipped(ca: Ca, tmp_path: Path, free_port: Callable[[], int]) -> Iterator[BrokerAddress]:
    """The broker of the shipped files, with this machine's paths and a free port."""
    binary = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert binary, "install mosquitto: apt-get install mosquitto"
    ca.files("broker")
    (tmp_path / "kept").mkdir(mode=0o777)
    shutil.copy(CONFIGS / "mosquitto.acl", tmp_path / "mosquitto.acl")
    (tmp_path / "mosquitto.acl").chmod(0o600)
    address = BrokerAddress("localhost", free_port(), tls=True)
    text = (CONFIGS / "mosquitto.conf").read_text()
    for place, name in PLACES.items():
        assert text.count(place) == 1
        text = text.replace(place, str(tmp_path / name) + "/" * name.endswith("/"))
    assert text.count("listener 8883\n") == 1
    text = text.replace("listener 8883\n", f"listener {address.port} 127.0.0.1\nuser root\n")
    assert "/etc/" not in text
    (tmp_path / "mosquitto.conf").write_text(text)
    log = tmp_path / "mosquitto.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [binary, "-c", str(tmp_path / "mosquitto.conf")], stdout=out, stderr=out
        )
    try:
        yield address
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(10)
    assert "Unknown configuration" not in log.read_text()


class Ear:
    """A bus that remembers what it heard."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.got: list[Inbound] = []

    async def listen(self) -> None:
        async for message in self.bus.messages():
            self.got.append(message)


@contextlib.asynccontextmanager
async def listening(bus: Bus, until: Until, *filters: str) -> AsyncIterator[Ear]:
    ear = Ear(bus)
    for one in filters:
        bus.subscribe(one)
    async with bus:
        task = asyncio.create_task(ear.listen())
        await until(lambda: bus.connected)
        yield ear
        task.cancel()


async def test_each_device_has_its_own_subtree_and_no_other(
    shipped: BrokerAddress, connect: Connect, until: Until
) -> None:
    mine, theirs = topics.desired("press-7"), topics.desired("press-8")
    async with (
        listening(connect(shipped, "coordinator"), until, topics.all_up()) as cloud,
        listening(connect(shipped, "press-7"), until, topics.all_down("+"), "#") as device,
    ):
        await device.bus.publish(topics.state("press-7"), b"here", qos=1)
        await until(lambda: [one.payload for one in cloud.got] == [b"here"])
        for forbidden in (topics.state("press-8"), mine, theirs, "plant/command"):
            with pytest.raises(BrokerUnavailableError, match="refused"):
                await device.bus.publish(forbidden, b"evil", qos=1)
        await cloud.bus.publish(theirs, b"not for you", qos=1)
        await cloud.bus.publish(mine, b"for you", qos=1)
        await until(lambda: len(device.got) >= 1)
        assert {one.payload for one in device.got} == {b"for you"}
        assert [one.payload for one in cloud.got] == [b"here"]


async def test_nobody_connects_as_somebody_else(
    shipped: BrokerAddress, connect: Connect, until: Until
) -> None:
    """The certificate's name is the client id: a device cannot kick another one off."""
    async with (
        listening(connect(shipped, "press-7"), until) as device,
        listening(connect(shipped, "press-8", client_id="press-7"), until) as thief,
    ):
        await thief.bus.publish(topics.state("press-8"), b"as myself", qos=1)
        with pytest.raises(BrokerUnavailableError, match="refused"):
            await thief.bus.publish(topics.state("press-7"), b"as another", qos=1)
        await device.bus.publish(topics.state("press-7"), b"still here", qos=1)


@pytest.mark.parametrize("kind", ["none", "foreign"])
async def test_without_a_certificate_of_the_ca_there_is_no_connection(
    shipped: BrokerAddress, ca: Ca, connect: Connect, until: Until, kind: str
) -> None:
    async with listening(connect(shipped, "press-7"), until):
        pass
    tls = None
    if kind == "foreign":
        (ca.folder / "other").mkdir()
        other = type(ca)(ca.folder / "other").files("press-7")  # type: ignore[call-arg]  # of conftest.py
        tls = BusTlsFiles(str(ca.path), str(other.certificate), str(other.key))
    options = BusOptions(shipped.host, shipped.port, "press-7", tls=tls)
    async with Bus(options) as bus:
        with pytest.raises(BrokerUnavailableError):
            await bus._live_once()
        assert not bus.connected
