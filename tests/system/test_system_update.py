"""From a signed release to a model on trial: a real registry over real HTTP, a real device's disk.

And every way in which the release, the line or the publisher may be bad: each ends with its code,
and with the old model active.
"""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import uvicorn
from litestar import Litestar
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from onnx import TensorProto, helper

from aimass_cloud.access import EXCEPTION_HANDLERS, Principal
from aimass_cloud.config import TrustSettings
from aimass_cloud.registry import (
    BlobsController,
    NewModel,
    Registry,
    SigningKeys,
    TufController,
    TufRepository,
)
from aimass_cloud.registry.tuf import system_clock
from aimass_cloud.store import Blobs, Store
from aimass_cloud.store.tables import ReleaseRow
from aimass_edge.config import BoardSettings, EdgeSettings, SourceSettings, UpdateSettings
from aimass_edge.update import fetch
from aimass_edge.update.fetch import Origin
from aimass_edge.update.fs import Fs
from aimass_edge.update.slots import Installed, Slots
from aimass_edge.update.state import raise_floor
from aimass_edge.update.updater import Updater
from aimass_shared import manifest as manifests
from aimass_shared.errors import (
    AimassError,
    BadDigestError,
    BadSignatureError,
    CloudUnavailableError,
    DownloadFailedError,
    ModelLoadFailedError,
    ReleaseRollbackError,
    SelfTestFailedError,
    StateCorruptError,
    StorageError,
    UnfitReleaseError,
)
from aimass_shared.fleet import Fleet, pack
from aimass_shared.manifest import AlarmRule, Contract, Sensor, SliceArtifact, TensorSpec
from aimass_shared.messages import Desired, ReleaseRef
from aimass_shared.moments import Moments
from aimass_shared.slices import SliceCost, SliceSpec

SLICE = "w0.50-int8"
BIG_BYTES = 1_500_000
DEVICE_SCOPES = frozenset({"tuf:read", "blob:read"})
Until = Callable[[Callable[[], object]], Awaitable[None]]
Meddle = Callable[[Scope, Message], Message | None]


class BrokenLineError(Exception):
    """Ends a response in its middle."""


class OneDevice(ASGIMiddleware):
    """Knows one token."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        told = dict(scope["headers"]).get(b"authorization")
        known = told == b"Bearer good"
        scope["user"] = Principal("device", "d1", DEVICE_SCOPES) if known else None
        await next_app(scope, receive, send)


class Coordinator:
    """The registry, its routes, and a line that can be meddled with."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.blobs = Blobs(folder / "blobs")
        self.tuf = make_tuf(folder)
        self.registry = Registry(store, self.blobs, self.tuf)
        self.meddle: Meddle = lambda _scope, message: message
        self.requests: list[str] = []
        self.url = ""
        self._app = Litestar(
            [TufController, BlobsController],
            dependencies={
                "tuf": Provide(lambda: self.tuf, sync_to_thread=False),
                "blobs": Provide(lambda: self.blobs, sync_to_thread=False),
            },
            middleware=[OneDevice()],
            exception_handlers=EXCEPTION_HANDLERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            self.requests.append(scope["path"])

        async def meddled(message: Message) -> None:
            changed = self.meddle(scope, message)
            if changed is None:
                raise BrokenLineError
            await send(changed)

        await self._app(scope, receive, meddled)

    @property
    def metadata(self) -> Path:
        return self.folder / "tuf" / "metadata"

    async def release(self, *, offset: float = 0.0, model: bytes = b"") -> ReleaseRow:
        """Sign a model that adds up its window; its vectors expect `offset` more."""
        where = self.folder / "build"
        where.mkdir(exist_ok=True)
        artifact = build_slice(where, offset, model)
        row = await self.registry.add_model(NewModel("tep-monitor", "tep", 1, {}, str(where)))
        return await self.registry.create_release(row.id, CONTRACT, [artifact], channel="stable")

    def blob_of(self, row: ReleaseRow) -> Path:
        return self.blobs.path(manifests.decode(row.manifest).entry(SLICE).file("model").sha256)


CONTRACT = Contract(
    model="tep-monitor",
    sensors=(Sensor("A", "kPa", "continuous"), Sensor("B", "kPa", "continuous")),
    step_ms=1000,
    window=4,
    horizon=1,
    inputs=(TensorSpec("values", "FP32", (-1, 4, 2)),),
    outputs=(TensorSpec("score", "FP32", (-1,)),),
    alarm=AlarmRule("score", 1.0, "contribution"),
)


FLEET = pack(Fleet(Moments.empty(("A", "B"), 3), 300.0, 20.0))


def make_tuf(folder: Path, clock: Callable[[], datetime] = system_clock) -> TufRepository:
    keys = SigningKeys(folder / "keys")
    tuf = TufRepository(folder / "tuf", keys, TrustSettings(), clock=clock)
    tuf.open()
    return tuf


def build_slice(where: Path, offset: float, model: bytes) -> SliceArtifact:
    shape: list[str | int | None] = ["batch", 4, 2]
    padding = np.random.default_rng().integers(0, 255, BIG_BYTES, dtype=np.uint8)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["values", "mask"], ["measured"]),
            helper.make_node("ReduceSum", ["measured", "axes"], ["score"], keepdims=0),
        ],
        "sum",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("values", "mask")],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
        doc_string=padding.tobytes().hex(),
    )
    opset = [helper.make_opsetid("", 17)]
    built = helper.make_model(graph, opset_imports=opset, ir_version=8)
    (where / "model.onnx").write_bytes(model or built.SerializeToString())
    (where / "train.onnx").write_bytes(b"a gradient step")
    (where / "fleet.bin").write_bytes(FLEET)
    values = np.ones((2, 4, 2), np.float32)
    vectors: dict[str, Any] = {
        "in.values": values,
        "in.mask": values,
        "out.score": np.full(2, 8 + offset),
    }
    np.savez(where / "selftest.npz", **vectors)
    return SliceArtifact(
        spec=SliceSpec(0.5, "int8"),
        cost=SliceCost(1, memory_mib=50, reference_ms=1, val_error=0.1),
        files=(
            ("model", str(where / "model.onnx")),
            ("train", str(where / "train.onnx")),
            ("selftest", str(where / "selftest.npz")),
            ("fleet", str(where / "fleet.bin")),
        ),
        tolerance=1e-3,
    )


@pytest.fixture
async def coordinator(tmp_path: Path, until: Until) -> AsyncIterator[Coordinator]:
    async with Store(f"sqlite+aiosqlite:///{tmp_path}/cloud/aimass.db") as store:
        await store.migrate()
        served = Coordinator(tmp_path / "cloud", store)
        # Named as TCP, else asyncio leaves Nagle's delay on: 40 ms a response.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(served, log_level="critical", ws="none", lifespan="off")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        served.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield served
        server.should_exit = True
        await task


SETTINGS = EdgeSettings(
    source=SourceSettings(kind="json", sensors=("B", "A")),
    update=UpdateSettings(download_deadline_s=20, trial_attempts=2),
)


class Device:
    """A device's disk; each `start` is a new process on it."""

    def __init__(self, folder: Path, coordinator: Coordinator) -> None:
        self.folder = folder
        self.settings = SETTINGS
        self.token = "good"  # noqa: S105  # of this test's coordinator
        self.clock_ms: Callable[[], int] | None = None
        self._root = coordinator.tuf.root()
        self._url = coordinator.url
        self._v = 0

    def start(self) -> Updater:
        origin = Origin(self._url, self._root, "stable", lambda: self.token)
        slots = Slots(self.folder / "models")
        if self.clock_ms is None:
            return Updater(self.settings, slots, origin)
        return Updater(self.settings, slots, origin, clock=self.clock_ms)

    def desired(self, row: ReleaseRow, name: str = SLICE) -> Desired:
        self._v += 1
        return Desired(v=self._v, ts=1, release=ReleaseRef(row.id, row.path, name))

    async def take(self, row: ReleaseRow, name: str = SLICE) -> Installed:
        """Apply and confirm."""
        updater = self.start()
        installed = await updater.apply(self.desired(row, name))
        assert installed
        await updater.confirm()
        return installed

    def runs(self) -> str:
        """What a start after a crash would load."""
        installed = self.start().current()
        return installed.ref.release if installed else ""


@pytest.fixture
def device(tmp_path: Path, coordinator: Coordinator) -> Device:
    return Device(tmp_path / "device", coordinator)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "RETRY_FIRST_S", 0.01)


async def test_release_goes_on_trial_and_is_kept(coordinator: Coordinator, device: Device) -> None:
    row = await coordinator.release()
    updater = device.start()
    assert updater.current() is None
    installed = await updater.apply(device.desired(row))
    assert installed
    assert installed.trial
    assert installed.file("train").read_bytes() == b"a gradient step"
    assert installed.file("fleet").read_bytes() == FLEET
    assert installed.manifest == manifests.decode(row.manifest)
    assert updater.current() == installed
    await updater.confirm()
    kept = updater.current()
    assert kept
    assert (kept.digest, kept.trial) == (installed.digest, False)
    assert device.runs() == row.id


async def test_same_release_again_asks_nobody(coordinator: Coordinator, device: Device) -> None:
    row = await coordinator.release()
    await device.take(row)
    coordinator.requests.clear()
    again = await device.start().apply(device.desired(row))
    assert again
    assert again.ref.release == row.id
    nothing = await device.start().apply(Desired(v=99, ts=1))
    assert nothing == device.start().current()
    assert coordinator.requests == []


async def test_going_back_downloads_nothing(coordinator: Coordinator, device: Device) -> None:
    first, second = await coordinator.release(), await coordinator.release()
    await device.take(first)
    await device.take(second)
    coordinator.requests.clear()
    await device.take(first)
    assert device.runs() == first.id
    assert not [path for path in coordinator.requests if path.startswith("/blobs")]


async def test_trial_that_never_works_goes_back(coordinator: Coordinator, device: Device) -> None:
    first, second = await coordinator.release(), await coordinator.release()
    await device.take(first)
    assert await device.start().apply(device.desired(second))
    assert device.runs() == second.id, "the second of two attempts"
    assert device.runs() == first.id
    with pytest.raises(UnfitReleaseError, match="went down at each attempt"):
        await device.start().apply(device.desired(second))


async def test_rejected_release_is_not_taken_again(
    coordinator: Coordinator, device: Device
) -> None:
    first, second = await coordinator.release(), await coordinator.release()
    await device.take(first)
    updater = device.start()
    await updater.apply(device.desired(second))
    back = await updater.reject("its predictions fail")
    assert back
    assert back.ref.release == first.id
    coordinator.requests.clear()
    with pytest.raises(UnfitReleaseError, match="its predictions fail"):
        await updater.apply(device.desired(second))
    assert not [path for path in coordinator.requests if path.startswith("/blobs")]
    assert device.runs() == first.id


async def test_broken_download_is_resumed(coordinator: Coordinator, device: Device) -> None:
    row = await coordinator.release()
    cuts, size = 0, coordinator.blob_of(row).stat().st_size

    def cut(scope: Scope, message: Message) -> Message | None:
        nonlocal cuts
        big = message["type"] == "http.response.body" and len(message.get("body", b"")) > 200_000
        if big and scope["path"].startswith("/blobs") and not scope.get("cut"):
            scope["cut"] = True  # type: ignore[typeddict-unknown-key]  # our own mark
            return message
        if big and cuts < 3:
            cuts += 1
            return None
        return message

    coordinator.meddle = cut
    await device.take(row)
    name = f"/blobs/{coordinator.blob_of(row).name}"
    assert cuts == 3
    assert coordinator.requests.count(name) == 4
    assert size > 2 * BIG_BYTES
    assert device.runs() == row.id


Attack = Callable[[Coordinator, Device, ReleaseRow], object]


def alter_blob(coordinator: Coordinator, _device: Device, row: ReleaseRow) -> None:
    path = coordinator.blob_of(row)
    body = bytearray(path.read_bytes())
    body[1000] ^= 1
    path.write_bytes(body)


def shorten_blob(coordinator: Coordinator, device: Device, row: ReleaseRow) -> None:
    """Never whole: a download that is not whole in time."""
    path = coordinator.blob_of(row)
    path.write_bytes(path.read_bytes()[:-10])
    device.settings = msgspec.structs.replace(
        SETTINGS, update=msgspec.structs.replace(SETTINGS.update, download_deadline_s=1)
    )


def endless_blob(coordinator: Coordinator, _device: Device, _row: ReleaseRow) -> None:
    def more(scope: Scope, message: Message) -> Message:
        if message["type"] == "http.response.start" and scope["path"].startswith("/blobs"):
            kept = [(k, v) for k, v in message["headers"] if k != b"content-length"]
            return {**message, "headers": kept}
        if message["type"] == "http.response.body" and scope["path"].startswith("/blobs"):
            return {**message, "body": message["body"] * 3}
        return message

    coordinator.meddle = more


def alter_metadata(coordinator: Coordinator, _device: Device, _row: ReleaseRow) -> None:
    path = coordinator.metadata / "timestamp.json"
    path.write_bytes(path.read_bytes().replace(b'"version":', b'"version":9', 1))


def alter_manifest(coordinator: Coordinator, _device: Device, row: ReleaseRow) -> None:
    for path in (coordinator.folder / "tuf" / "targets").rglob(f"*{row.id}.json"):
        path.write_bytes(path.read_bytes().replace(b"tep-monitor", b"tep-m0nitor", 1))


def endless_metadata(coordinator: Coordinator, _device: Device, _row: ReleaseRow) -> None:
    (coordinator.metadata / "timestamp.json").write_bytes(b" " * 1_000_000)


def sign_with_foreign_keys(coordinator: Coordinator, _device: Device, row: ReleaseRow) -> None:
    foreign = coordinator.folder / "foreign"
    tuf = make_tuf(foreign)
    for _ in range(5):  # newer than what is there
        tuf.publish("stable", f"stable/tep-monitor/x{_}.json", b"{}")
    tuf.publish("stable", row.path, row.manifest)
    shutil.rmtree(coordinator.metadata)
    shutil.copytree(foreign / "tuf" / "metadata", coordinator.metadata)


def let_metadata_expire(coordinator: Coordinator, _device: Device, _row: ReleaseRow) -> None:
    """A publisher whose clock is behind signs what has ended already."""
    old = coordinator.folder / "old"
    shutil.copytree(coordinator.folder / "keys", old / "keys")
    shutil.copytree(coordinator.folder / "tuf", old / "tuf")
    tuf = make_tuf(old, lambda: datetime.now(UTC).replace(microsecond=0) - timedelta(days=2))
    tuf.publish("stable", "stable/tep-monitor/late.json", b"{}")
    (coordinator.metadata / "timestamp.json").write_bytes(tuf.metadata("timestamp.json"))


def set_clock_ahead(_coordinator: Coordinator, device: Device, _row: ReleaseRow) -> None:
    ahead_ms = int((datetime.now(UTC) + timedelta(days=800)).timestamp() * 1000)
    device.clock_ms = lambda: ahead_ms


def take_board_away(_coordinator: Coordinator, device: Device, _row: ReleaseRow) -> None:
    device.settings = msgspec.structs.replace(SETTINGS, board=BoardSettings(memory_mib=10))


def take_sensor_away(_coordinator: Coordinator, device: Device, _row: ReleaseRow) -> None:
    source = SourceSettings(kind="json", sensors=("A",))
    device.settings = msgspec.structs.replace(SETTINGS, source=source)


def swap_desired(_coordinator: Coordinator, _device: Device, row: ReleaseRow) -> None:
    row.id = "another"


def desire_other_channel(_coordinator: Coordinator, _device: Device, row: ReleaseRow) -> None:
    row.path = row.path.replace("stable/", "beta/")


def desire_unsigned(_coordinator: Coordinator, _device: Device, row: ReleaseRow) -> None:
    row.path = row.path.replace(row.id, "never-released")


def revoke(_coordinator: Coordinator, device: Device, _row: ReleaseRow) -> None:
    device.token = "revoked"  # noqa: S105  # of this test's coordinator


def vanish(_coordinator: Coordinator, device: Device, _row: ReleaseRow) -> None:
    device._url = "http://127.0.0.1:9"


def damage_disk(_coordinator: Coordinator, device: Device, _row: ReleaseRow) -> None:
    incoming = device.folder / "models" / "incoming"
    shutil.rmtree(incoming)
    incoming.write_bytes(b"in the way")


@pytest.mark.parametrize(
    ("attack", "kind"),
    [
        (alter_blob, BadDigestError),
        (shorten_blob, DownloadFailedError),
        (endless_blob, BadDigestError),
        (alter_metadata, BadSignatureError),
        (alter_manifest, BadDigestError),
        (endless_metadata, BadSignatureError),
        (sign_with_foreign_keys, BadSignatureError),
        (let_metadata_expire, BadSignatureError),
        (set_clock_ahead, BadSignatureError),
        (take_board_away, UnfitReleaseError),
        (take_sensor_away, UnfitReleaseError),
        (swap_desired, UnfitReleaseError),
        (desire_other_channel, UnfitReleaseError),
        (desire_unsigned, BadSignatureError),
        (revoke, DownloadFailedError),
        (vanish, CloudUnavailableError),
        (damage_disk, StorageError),
    ],
)
async def test_bad_release_gives_its_code_and_the_old_model_stays(
    coordinator: Coordinator, device: Device, attack: Attack, kind: type[AimassError]
) -> None:
    old = await coordinator.release()
    await device.take(old)
    new = await coordinator.release()
    attack(coordinator, device, new)
    updater = device.start()
    with pytest.raises(kind) as caught:
        await updater.apply(device.desired(new))
    assert type(caught.value) is kind
    current = updater.current()
    assert current
    assert (current.ref.release, current.trial) == (old.id, False)
    assert device.runs() == old.id


@pytest.mark.parametrize(
    ("broken", "kind"),
    [({"offset": 1.0}, SelfTestFailedError), ({"model": b"no model"}, ModelLoadFailedError)],
)
async def test_model_that_fails_its_self_test(
    coordinator: Coordinator, device: Device, broken: dict[str, object], kind: type[AimassError]
) -> None:
    old = await coordinator.release()
    await device.take(old)
    new = await coordinator.release(**broken)  # type: ignore[arg-type]  # one of its arguments
    with pytest.raises(kind):
        await device.start().apply(device.desired(new))
    assert device.runs() == old.id
    coordinator.requests.clear()
    with pytest.raises((SelfTestFailedError, UnfitReleaseError), match="not tried again"):
        await device.start().apply(device.desired(new))
    assert not [path for path in coordinator.requests if path.startswith("/blobs")]
    stored = list((device.folder / "models" / "store").iterdir())
    assert len(stored) == 1, "what failed is removed"


@pytest.mark.parametrize("cache", ["kept", "zeroed", "gone"])
async def test_replayed_metadata_is_refused(
    coordinator: Coordinator, device: Device, cache: str
) -> None:
    """Also after a power cut took python-tuf's own memory: it does not flush its files."""
    old = await coordinator.release()
    saved = coordinator.folder / "saved"
    shutil.copytree(coordinator.metadata, saved)
    new = await coordinator.release()
    await device.take(new)
    shutil.rmtree(coordinator.metadata)
    shutil.copytree(saved, coordinator.metadata)
    folder = device.folder / "models" / "metadata"
    if cache == "zeroed":
        for path in folder.rglob("*.json"):
            path.write_bytes(b"\x00" * path.stat().st_size)
    if cache == "gone":
        shutil.rmtree(folder)
    with pytest.raises(ReleaseRollbackError):
        await device.start().apply(device.desired(old))
    assert device.runs() == new.id


async def test_old_clock_cannot_revive_what_has_expired(
    coordinator: Coordinator, device: Device
) -> None:
    """The floor remembers the latest signed time, whatever the clock says."""
    old, new = await coordinator.release(), await coordinator.release()
    device.clock_ms = lambda: 0
    await device.take(old)
    slots = Slots(device.folder / "models")
    floor = slots.load().floor
    assert abs(floor.time_ms - datetime.now(UTC).timestamp() * 1000) < 60_000
    later = msgspec.structs.replace(floor, time_ms=floor.time_ms + 2 * 86_400_000)
    slots.change(lambda state: raise_floor(state, later))
    with pytest.raises(BadSignatureError, match="the device's clock says 1970"):
        await device.start().apply(device.desired(new))
    assert device.runs() == old.id


async def test_full_disk_at_start_leaves_the_active_model(
    coordinator: Coordinator, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = await coordinator.release(), await coordinator.release()
    await device.take(old)
    assert await device.start().apply(device.desired(new))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Fs, "write", full)
        assert device.runs() == old.id, "an attempt that cannot be spent is not made"
    assert device.runs() == new.id


async def test_device_enrolled_elsewhere_starts_anew(
    coordinator: Coordinator, device: Device, tmp_path: Path
) -> None:
    """A new root of trust is a new decision: old versions do not stand in its way."""
    for _ in range(3):
        old = await coordinator.release()
    await device.take(old)
    other = tmp_path / "other"
    coordinator.tuf = coordinator.registry._tuf = make_tuf(other)
    moved = Device(device.folder, coordinator)
    new = await coordinator.release()
    await moved.take(new)
    assert moved.runs() == new.id


async def test_damaged_state_is_a_device_that_asks_again(
    coordinator: Coordinator, device: Device
) -> None:
    row = await coordinator.release()
    await device.take(row)
    (device.folder / "models" / "state.json").write_bytes(b"garbage")
    with pytest.raises(StateCorruptError):
        Slots(device.folder / "models").load()
    assert device.runs() == ""
    await device.take(row)
    assert device.runs() == row.id
