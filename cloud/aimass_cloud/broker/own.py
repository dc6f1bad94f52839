"""Which broker to run, with which files: mosquitto where it is installed, else the embedded one."""

import importlib.util
import sys
from pathlib import Path
from typing import Literal, Self

from aimass_cloud.broker import embedded, mosquitto
from aimass_cloud.broker.child import Child, Command, choose_port
from aimass_cloud.broker.mosquitto import TlsFiles
from aimass_cloud.config import MqttSettings
from aimass_shared.errors import MissingExtraError
from aimass_shared.messages import BrokerAddress

Kind = Literal["mosquitto", "embedded"]
Wanted = Literal["auto", "mosquitto", "embedded"]

LOOPBACK = "127.0.0.1"
NOTE = (
    "mosquitto is not used: the pure-Python broker runs instead (MQTT 3.1.1, for trials; sessions "
    "and retained messages are lost when it ends). For more: apt-get install mosquitto"
)


class _OwnBroker:
    """What both brokers share: a folder, a port, a child process."""

    def __init__(self, host: str, port: int, folder: Path, *, wanted: Wanted) -> None:
        self._host = host
        self._wanted_port = port
        self._folder = folder
        self._wanted: Wanted = wanted
        self._port = 0
        self.kind: Kind = "mosquitto"

    @property
    def note(self) -> str:
        """What a person should know about the broker that runs; "" = nothing."""
        return NOTE if self.kind == "embedded" else ""

    @property
    def pid(self) -> int:
        """Of the broker's process."""
        return self._child.pid

    async def __aenter__(self) -> Self:
        """Start it and wait until it listens.

        Raises:
            PortInUseError: another process has the port.
            MissingExtraError: the wanted broker is not installed.
            BrokerUnavailableError: it does not start; the detail has its last words.
        """
        self.kind = choose_kind(self._wanted)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._port = choose_port(self._host, self._wanted_port, self._folder / "port")
        line = self._mosquitto() if self.kind == "mosquitto" else self._embedded()
        self._child = Child(
            Command(name=f"{self.kind} broker", line=line, host=self._host, port=self._port)
        )
        await self._child.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        """End it."""
        await self._child.__aexit__(*error)

    def _address(self, *, tls: bool) -> BrokerAddress:
        version: Literal[4, 5] = 5 if self.kind == "mosquitto" else 4
        return BrokerAddress(host=self._host, port=self._port, tls=tls, version=version)

    def _mosquitto(self) -> tuple[str, ...]:
        path = self._folder / "mosquitto.conf"
        path.write_text(self._mosquitto_text())
        return (mosquitto.find() or "mosquitto", "-c", str(path))

    def _embedded(self) -> tuple[str, ...]:
        path = self._folder / "embedded.json"
        path.write_bytes(embedded.configuration(self._embedded_options()))
        return (sys.executable, "-m", "aimass_cloud.broker.embedded", str(path))

    def _mosquitto_text(self) -> str:
        return mosquitto.plant_configuration(self._host, self._port)

    def _embedded_options(self) -> embedded.EmbeddedOptions:
        return embedded.EmbeddedOptions(host=self._host, port=self._port)


class FleetBroker(_OwnBroker):
    """The fleet's broker: client certificates required, every device in its own subtree.

    `tls` is the broker's own certificate, whose names must include the host that devices use;
    its CA is the one that signs devices. The coordinator's certificate is that of the common name
    "coordinator", which no device may get.
    """

    def __init__(self, settings: MqttSettings, tls: TlsFiles, data_dir: Path) -> None:
        host = settings.host or LOOPBACK
        super().__init__(host, settings.port, data_dir / "broker", wanted=settings.broker)
        self._tls = TlsFiles(*(path.resolve() for path in (tls.ca, tls.certificate, tls.key)))

    @property
    def address(self) -> BrokerAddress:
        """Where devices find it."""
        return self._address(tls=True)

    def _mosquitto_text(self) -> str:
        folder = self._folder.resolve()
        (folder / "acl").write_text(mosquitto.ACL)
        return mosquitto.fleet_configuration(self._host, self._port, tls=self._tls, folder=folder)

    def _embedded_options(self) -> embedded.EmbeddedOptions:
        return embedded.EmbeddedOptions(host=self._host, port=self._port, tls=self._tls)


class PlantBroker(_OwnBroker):
    """A plain broker on loopback that plays the factory's; anybody on this machine may do all."""

    def __init__(self, folder: Path, *, port: int = 0, wanted: Wanted = "auto") -> None:
        super().__init__(LOOPBACK, port, folder, wanted=wanted)

    @property
    def address(self) -> BrokerAddress:
        """Where the plant and its agents find it."""
        return self._address(tls=False)


def choose_kind(wanted: Wanted) -> Kind:
    """The broker to run.

    Raises:
        MissingExtraError: it is not installed.
    """
    if wanted != "embedded" and mosquitto.find() is not None:
        return "mosquitto"
    if wanted == "mosquitto":
        raise MissingExtraError(
            "mosquitto is not installed: apt-get install mosquitto, or set mqtt.broker to embedded"
        )
    if importlib.util.find_spec("amqtt") is None:
        raise MissingExtraError(
            "no broker is installed: apt-get install mosquitto, or pip install 'aimass[cloud]'"
        )
    return "embedded"
