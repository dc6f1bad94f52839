"""The demo's stage: data directories, ports, and the processes that play on it.

Everything is started with the commands of the README; nothing here reaches into a process.
"""

import asyncio
import inspect
import random
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Self

import httpx
import msgspec

from aimass_cloud.admin import Admin
from aimass_cloud.broker import PlantBroker
from aimass_cloud.broker.own import Wanted
from aimass_cloud.demo.plant import Plant, connect
from aimass_cloud.demo.processes import Process, output_of
from aimass_cloud.demo.replay import AgentView
from aimass_cloud.demo.sites import SITES, Site, site_config
from aimass_cloud.recipes import ShippedPlant
from aimass_shared.errors import DeadlineExceededError, PortInUseError

START_S = 30.0
PORTS = range(20_000, 30_000)
POLL_S = 0.1
Condition = Callable[[], object]
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


class Stage:
    """Coordinator, plant broker, agents and plants of one run of the demo."""

    def __init__(self, root: Path, plant: ShippedPlant, broker: Wanted) -> None:
        self.root = root
        # What torch leaves in the temporary directory goes away with the run.
        self._environ = {**QUIET, "TMPDIR": str(root / "tmp")}
        self._plant = plant
        self._wanted = broker
        self.api_port, *others = free_ports(1 + len(SITES))
        self.agent_ports = {site.name: port for site, port in zip(SITES, others, strict=True)}
        self.coordinator = self._coordinator()
        self.broker = PlantBroker(root / "plant", wanted=broker)
        self.agents: dict[str, Process] = {}
        self.devices: dict[str, str] = {}
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """The coordinator's API."""
        return f"http://127.0.0.1:{self.api_port}"

    async def __aenter__(self) -> Self:
        """Nothing plays yet."""
        (self.root / "tmp").mkdir()
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        """End every process, in the reverse order."""
        await self._stack.aclose()

    async def start_coordinator(self) -> Admin:
        """`aimass serve`; returns its admin API once it is ready."""
        await self._stack.enter_async_context(self.coordinator)
        key_file = self.root / "cloud" / "admin.key"
        await self.until(key_file.is_file, "the coordinator's admin key")
        key = await asyncio.to_thread(key_file.read_text)
        admin = await self._stack.enter_async_context(Admin.connect(self.url, key.strip()))
        await self.until_ready(admin)
        return admin

    async def until_ready(self, admin: Admin) -> None:
        """Wait until the coordinator and its broker answer."""
        await self.until(admin.ready, "the coordinator")

    async def start_plant_broker(self) -> None:
        """The factory's own broker."""
        await self._stack.enter_async_context(self.broker)

    async def enroll(self, site: Site, token: str) -> str:
        """`aimass-edge enroll` for a site's device; returns the device's id."""
        config = await asyncio.to_thread(self._write_config, site)
        options = ["--cloud", self.url, "--token", token, "--json"]
        command = [*_edge("enroll", site, config=config, data=self._edge_dir(site)), *options]
        out = await output_of(f"enrolment of {site.name}", command, environ=self._environ)
        return str(msgspec.json.decode(out)["device"])

    async def start_agent(self, site: Site) -> None:
        """`aimass-edge run` for a site's device."""
        config = self._config_path(site)
        agent = Process(
            f"agent of {site.name}",
            _edge("run", site, config=config, data=self._edge_dir(site)),
            self.root / f"agent-{site.name}.log",
            environ=self._environ,
        )
        self.agents[site.name] = await self._stack.enter_async_context(agent)

    async def views(self) -> dict[str, AgentView]:
        """The agents' own endpoints."""
        client = await self._stack.enter_async_context(httpx.AsyncClient(timeout=10))
        return {
            name: AgentView(f"http://127.0.0.1:{port}", client)
            for name, port in self.agent_ports.items()
        }

    @asynccontextmanager
    async def plants(self, sensors: tuple[str, ...]) -> AsyncIterator[Mapping[str, Plant]]:
        """All sites' plants, connected."""
        async with AsyncExitStack() as stack:
            yield {
                site.name: await stack.enter_async_context(
                    connect(site, self.broker.address, sensors)
                )
                for site in SITES
            }

    async def until(self, holds: Condition, what: str, seconds: float = START_S) -> None:
        """Poll a condition; a process that ends meanwhile is an error at once.

        Raises:
            ChildFailedError: a process ended.
            DeadlineExceededError: it does not hold after so many seconds.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not await _true(holds):
            self.check()
            if loop.time() > end:
                raise DeadlineExceededError(f"{what} did not come within {seconds:.0f} s")
            await asyncio.sleep(POLL_S)

    def check(self) -> None:
        """Raise if a process ended by itself."""
        for process in (self.coordinator, *self.agents.values()):
            process.check()

    def _coordinator(self) -> Process:
        data = str(self.root / "cloud")
        options = ["--data-dir", data, "--port", str(self.api_port), "--broker", self._wanted]
        return Process(
            "coordinator",
            [sys.executable, "-m", "aimass_cloud", "serve", *options],
            self.root / "coordinator.log",
            environ=self._environ,
        )

    def _edge_dir(self, site: Site) -> Path:
        return self.root / f"edge-{site.name}"

    def _config_path(self, site: Site) -> Path:
        return self.root / f"{site.name}.toml"

    def _write_config(self, site: Site) -> Path:
        address = self.broker.address
        path = self._config_path(site)
        path.write_bytes(
            site_config(
                site,
                self._plant,
                broker_port=address.port,
                broker_version=address.version,
                api_port=self.agent_ports[site.name],
            )
        )
        return path


def _edge(verb: str, site: Site, *, config: Path, data: Path) -> list[str]:
    """A command line of `aimass-edge`, as the README shows it."""
    options = ["--profile", site.profile, "--config", str(config), "--data-dir", str(data)]
    return [sys.executable, "-m", "aimass_edge", verb, *options]


async def _true(holds: Condition) -> bool:
    result = holds()
    return bool(await result if inspect.isawaitable(result) else result)


def free_ports(count: int) -> list[int]:
    """Different ports of loopback that nobody listens on now.

    They lie below those that systems give to outgoing connections (Linux from 32768, others from
    49152), one of which could take a port before its process listens, or while it is away.

    Raises:
        PortInUseError: there are not so many.
    """
    found = list(islice(filter(_is_free, random.sample(PORTS, len(PORTS))), count))
    if len(found) < count:
        raise PortInUseError(f"no free ports on 127.0.0.1 from {PORTS.start} to {PORTS.stop - 1}")
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do, so that connections of the past do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
