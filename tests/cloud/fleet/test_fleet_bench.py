"""What `aimass-edge bench` measures, and fetches for that, at a real coordinator."""

import asyncio
import importlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from litestar import Litestar
from litestar.di import Provide
from tests.edge.bench.conftest import WHOLE, brief, installed
from tests.tiny_models import CLASSIFIER

from aimass_cloud.access import EXCEPTION_HANDLERS, AccessMiddleware, Attempts, DeviceTokens, Keys
from aimass_cloud.config import TrustSettings
from aimass_cloud.fleet import EnrollController, Fleet, FleetController, get_ca, open_authority
from aimass_cloud.registry import BlobsController
from aimass_cloud.store import Blobs, Store
from aimass_edge.cli import main
from aimass_edge.config import BoardSettings
from aimass_edge.enroll import enroll
from aimass_edge.inventory import take_inventory
from aimass_shared.messages import BrokerAddress
from aimass_shared.slices import SliceSpec

OFFERED = (WHOLE, SliceSpec(0.5, "fp32"), SliceSpec(0.25, "fp32"))


class Ground(NamedTuple):
    """A coordinator's fleet and files, and the folder of a device that is enrolled with it."""

    fleet: Fleet
    blobs: Blobs
    folder: Path

    async def bench(self, *words: str) -> int:
        return await asyncio.to_thread(main, ["bench", *brief(self.folder), *words])

    async def kept(self) -> set[tuple[str, int]]:
        found = await self.fleet.measurements.find("surface", "r1")
        return {(one.measured.slice, one.measured.batch) for one in found}


@pytest.fixture
async def ground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Litestar], Awaitable[str]]
) -> AsyncIterator[Ground]:
    module = importlib.import_module("aimass_edge.cli.main")
    monkeypatch.setattr(module, "DEFAULT_CONFIG", tmp_path / "no.toml")
    async with Store(f"sqlite+aiosqlite:///{tmp_path}/aimass.db") as store:
        await store.migrate()
        fleet = Fleet(
            store,
            open_authority(tmp_path / "ca"),
            trust=TrustSettings(),
            broker=lambda: BrokerAddress("127.0.0.1", 8883, tls=True),
            tuf_root=lambda: "{}",
        )
        blobs = Blobs(tmp_path / "blobs")
        attempts = Attempts(9)
        app = Litestar(
            [get_ca, EnrollController, FleetController, BlobsController],
            middleware=[AccessMiddleware(Keys(store), DeviceTokens(store, cache_s=0), attempts)],
            exception_handlers=EXCEPTION_HANDLERS,
            dependencies={
                "fleet": Provide(lambda: fleet, sync_to_thread=False),
                "blobs": Provide(lambda: blobs, sync_to_thread=False),
                "attempts": Provide(lambda: attempts, sync_to_thread=False),
            },
        )
        url = await serve(app)
        await enroll(
            cloud_url=url,
            token=(await fleet.create_join_token("press", "stable")).text(),
            data_dir=tmp_path / "edge",
            inventory=take_inventory(BoardSettings()),
        )
        yield Ground(fleet, blobs, tmp_path)


async def test_a_measurement_arrives_without_being_asked_for(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(ground.folder / "edge")
    assert await ground.bench() == 0
    assert "report: 2 kept by the coordinator" in capsys.readouterr().out
    assert await ground.kept() == {("w1.00-fp32", 1), ("w1.00-fp32", 8)}
    assert not (ground.folder / "edge" / "measurements.json").exists()
    one = (await ground.fleet.measurements.by_board("surface"))["x86-gateway"][0]
    assert one.measured.p50_ms > 0
    assert await ground.bench("--no-report") == 0
    assert "report: not asked for" in capsys.readouterr().out


async def test_slices_that_fit_are_fetched_measured_and_forgotten(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ground.folder / "edge"
    installed(data, *OFFERED)
    assert await ground.bench("--all", "--batch", "1") == 1
    assert "answers 404" in capsys.readouterr().err
    for body in CLASSIFIER.contents.values():
        ground.blobs.put(body)
    (data / "benching-killed").mkdir()
    before = sorted(path.name for path in (data / "models").rglob("*"))
    assert await ground.bench("--all", "--batch", "1") == 0
    assert await ground.kept() == {(spec.name, 1) for spec in OFFERED}
    assert sorted(path.name for path in (data / "models").rglob("*")) == before
    assert not list(data.glob("benching-*"))


async def test_what_does_not_fit_is_not_fetched(ground: Ground) -> None:
    installed(ground.folder / "edge", *OFFERED, memory_mib=1e6)
    assert await ground.bench("--all", "--batch", "1") == 0
    assert await ground.kept() == {("w1.00-fp32", 1)}


async def test_nothing_is_lost_while_the_coordinator_refuses(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ground.folder / "edge"
    installed(data)
    device = (await ground.fleet.devices())[0].id
    waiting = data / "measurements.json"
    identity = (data / "identity" / "identity.json").read_bytes()
    (data / "identity" / "identity.json").write_bytes(
        identity.replace(device.encode(), b"someone-else")
    )
    assert await ground.bench() == 0
    assert "kept for the next time" in capsys.readouterr().out
    assert await ground.kept() == set()
    kept = json.loads(waiting.read_bytes())
    assert [row["batch"] for row in kept] == [1, 8]
    kept[1]["batch"] = 16  # of another call, as it were
    waiting.write_text(json.dumps(kept))
    (data / "identity" / "identity.json").write_bytes(identity)
    assert await ground.bench("--batch", "1") == 0
    assert await ground.kept() == {("w1.00-fp32", 1), ("w1.00-fp32", 16)}
    assert not waiting.exists()
