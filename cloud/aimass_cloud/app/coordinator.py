"""The coordinator's parts, each with its lifetime, and who talks to whom.

devices <-- fleet's broker --> bridge --> fleet, rollouts, rounds
callers --> routes --> workshop --> rounds, training, slicing, registry
callers, devices --> /v2 --> pool (the full model of the newest release)
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aimass_cloud.access import Attempts, DeviceTokens, Keys
from aimass_cloud.app.importer import Importer
from aimass_cloud.app.opening import (
    broker_address,
    claimed_folder,
    opened_store,
    reached_from_here,
    told_to_devices,
)
from aimass_cloud.app.roots import DataRoots
from aimass_cloud.app.workshop import Workshop
from aimass_cloud.bridge import Bridge
from aimass_cloud.broker import FleetBroker, TlsFiles
from aimass_cloud.config import CloudSettings, HttpSettings
from aimass_cloud.federation.rounds import Rounds
from aimass_cloud.federation.signals import FleetTransport
from aimass_cloud.fleet import (
    COORDINATOR,
    Authority,
    Fleet,
    TlsPaths,
    local_hosts,
    open_authority,
    write_service_files,
)
from aimass_cloud.jobs import Jobs
from aimass_cloud.registry import Registry, SigningKeys, TufRepository
from aimass_cloud.rollout import Rollouts
from aimass_cloud.serving import ModelPool, SliceFiles, TailFile
from aimass_cloud.store import Blobs, Store
from aimass_cloud.store.tables import ReleaseRow
from aimass_shared.errors import AimassError
from aimass_shared.manifest import Manifest, SliceEntry, decode
from aimass_shared.messages import BrokerAddress, Reported
from aimass_shared.slices import SliceSpec

log = logging.getLogger(__name__)

FULL = SliceSpec(width=1.0, precision="fp32")
RESIGN_S = 600.0
RESEND_S = 60.0


@dataclass(frozen=True, eq=False)
class Coordinator:
    """All parts, running. `dependencies` are what routes may ask for by name."""

    settings: CloudSettings
    store: Store
    blobs: Blobs
    tuf: TufRepository
    keys: Keys
    tokens: DeviceTokens
    attempts: Attempts
    fleet: Fleet
    registry: Registry
    rollouts: Rollouts
    rounds: Rounds
    jobs: Jobs
    workshop: Workshop
    importer: Importer
    bridge: Bridge
    pool: ModelPool
    server_tls: TlsPaths
    broker_note: str

    @property
    def dependencies(self) -> dict[str, object]:
        """Parts by the names that controllers use."""
        names = (
            "store blobs tuf keys attempts fleet registry rollouts jobs workshop importer bridge"
        )
        # Not `rounds`: in a wrong field of a body that has a part's name, Litestar sees our defect.
        return {name: getattr(self, name) for name in names.split()} | {"federation": self.rounds}

    async def serve_newest(self) -> None:
        """Serve the full model of each model's newest release that can be served."""
        served: set[str] = set()
        for row in await self.registry.releases():
            name = decode(row.manifest).model
            if name not in served and await self._load(row):
                served.add(name)

    async def serve_release(self, row: ReleaseRow) -> None:
        """Serve the full model of a release; what was served stays if it does not load."""
        await self._load(row)

    async def _load(self, row: ReleaseRow) -> bool:
        manifest = decode(row.manifest)
        try:
            entry = manifest.entry(FULL.name)
            await self.pool.load(
                manifest.model,
                row.id,
                path=self.blobs.path(entry.file("model").sha256),
                contract=manifest.contract,
                files=self._files(manifest),
            )
        except AimassError as error:
            log.warning("release %s is not served: %s", row.id, error)
            return False
        return True

    def _files(self, manifest: Manifest) -> SliceFiles:
        """What the pool needs beside the model: its vocabulary, and the tails of cut slices."""
        tails = {
            entry.spec.name: TailFile(
                self.blobs.path(entry.file("tail").sha256),
                entry.halves,
                manifest.contract,
                self._vocabulary(entry),
            )
            for entry in manifest.slices
            if entry.halves is not None
        }
        full = manifest.entry(FULL.name)
        return SliceFiles(self._vocabulary(full), FULL.name, tails)

    def _vocabulary(self, entry: SliceEntry) -> Path | None:
        return self.blobs.path(entry.file("vocabulary").sha256) if entry.has("vocabulary") else None


class _Online:
    """Which devices are online and what they run, from the fleet's rows."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def online(self) -> dict[str, Reported]:
        """Devices that are online, with what they report."""
        idle = Reported(v=0, ts=0, state="idle")
        devices = await self._fleet.devices()
        return {one.id: one.reported or idle for one in devices if one.online and not one.revoked}


@asynccontextmanager
async def running(settings: CloudSettings) -> AsyncIterator[Coordinator]:
    """Start every part, and end them in the reverse order.

    Raises:
        ConflictError: another coordinator uses the data directory.
        InvalidSettingError: a directory, address or URL of the settings cannot be used.
        StorageError: the database cannot be opened.
        PortInUseError: the broker's port is taken.
        BrokerUnavailableError: our own broker does not start.
        StateCorruptError: a file of the data directory is damaged.
    """
    async with AsyncExitStack() as stack:
        data = stack.enter_context(claimed_folder(Path(settings.data_dir)))
        coordinator = await _compose(settings, data, stack)
        await coordinator.serve_newest()
        coordinator.registry.on_release(coordinator.serve_release)
        yield coordinator


async def _compose(settings: CloudSettings, data: Path, stack: AsyncExitStack) -> Coordinator:
    store = await stack.enter_async_context(opened_store(settings.database_url, data))
    authority, blobs, tuf = open_authority(data / "ca"), Blobs(data / "blobs"), _tuf(settings, data)
    await asyncio.to_thread(tuf.open)
    address, note = await _broker(settings, authority, data, stack=stack)
    fleet = Fleet(
        store,
        authority,
        trust=settings.trust,
        broker=lambda: told_to_devices(address),
        tuf_root=lambda: tuf.root().decode(),
    )
    keys = Keys(store)
    await keys.ensure_admin_key(data)
    registry = Registry(store, blobs, tuf)
    importer = Importer(data, registry, blobs, settings=settings.slicing)
    await asyncio.to_thread(importer.sweep)
    bridge = Bridge(reached_from_here(address), _own_tls(authority, data, address), store)
    transport = await stack.enter_async_context(FleetTransport(bridge, blobs))
    rounds = Rounds(store, transport, data / "rounds")
    rollouts = Rollouts(store, publish=lambda topic, raw: bridge.publish(topic, raw, retain=True))
    bridge.on_state(fleet.record_state)
    bridge.on_state(transport.on_state)
    bridge.on_reported(fleet.record_reported)
    bridge.on_reported(rollouts.on_reported)
    bridge.on_round_reply(transport.on_round_reply)
    await stack.enter_async_context(bridge)

    async def resend() -> None:
        await bridge.wait_connected()
        await rollouts.republish()

    for seconds, work in ((RESIGN_S, registry.refresh_timestamp), (RESEND_S, resend)):
        stack.push_async_callback(_cancel, asyncio.create_task(_regularly(seconds, work)))
    return Coordinator(
        settings=settings,
        store=store,
        blobs=blobs,
        tuf=tuf,
        keys=keys,
        tokens=DeviceTokens(store),
        attempts=Attempts(),
        fleet=fleet,
        registry=registry,
        rollouts=rollouts,
        rounds=rounds,
        jobs=await stack.enter_async_context(Jobs(store)),
        workshop=Workshop(
            data,
            registry,
            rounds,
            devices=_Online(fleet),
            roots=_data_roots(settings, data),
        ),
        importer=importer,
        bridge=bridge,
        pool=await stack.enter_async_context(ModelPool(settings.serving)),
        server_tls=_server_tls(authority, data, settings.http),
        broker_note=note,
    )


def _data_roots(settings: CloudSettings, data: Path) -> DataRoots:
    return DataRoots(settings.training.data_roots, otherwise=(data / "data", Path.cwd()))


def _tuf(settings: CloudSettings, data: Path) -> TufRepository:
    return TufRepository(data / "tuf", SigningKeys(data / "keys"), settings.trust)


async def _broker(
    settings: CloudSettings, authority: Authority, data: Path, *, stack: AsyncExitStack
) -> tuple[BrokerAddress, str]:
    """Our own broker, started; or the address of the one that the settings name."""
    if settings.mqtt.url:
        return broker_address(settings.mqtt), ""
    host = settings.mqtt.host or settings.http.host
    hosts = (*local_hosts(host), *settings.http.names)
    tls = write_service_files(authority, data / "tls", "broker", purpose="server", hosts=hosts)
    own = msgspec.structs.replace(settings.mqtt, host=host)
    broker = await stack.enter_async_context(FleetBroker(own, TlsFiles(*tls), data))
    log.info("%s broker on %s:%d", broker.kind, host, broker.address.port)
    return broker.address, broker.note


def _own_tls(authority: Authority, data: Path, address: BrokerAddress) -> TlsFiles | None:
    """The coordinator's own MQTT identity; None on a broker without TLS."""
    if not address.tls:
        return None
    return TlsFiles(*write_service_files(authority, data / "tls", COORDINATOR, purpose="client"))


def _server_tls(authority: Authority, data: Path, settings: HttpSettings) -> TlsPaths:
    hosts = (*local_hosts(settings.host), *settings.names)
    return write_service_files(authority, data / "tls", "api", purpose="server", hosts=hosts)


async def _regularly(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    """Do something for ever; a failure is logged, and the next turn may do better."""
    while True:
        try:
            await work()
        except AimassError as error:
            log.warning("housekeeping: %s", error)
        except Exception:
            log.exception("housekeeping failed; it is tried again in %.0f s", seconds)
        await asyncio.sleep(seconds)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})
