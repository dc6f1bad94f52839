"""Measurements of devices: over HTTP with a device's own token, and by model and board."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import jwt
import msgspec
import pytest
from litestar import Litestar
from litestar.di import Provide

from aimass_cloud.access import EXCEPTION_HANDLERS, AccessMiddleware, Attempts, DeviceTokens, Keys
from aimass_cloud.config import TrustSettings
from aimass_cloud.fleet import Fleet, FleetController, open_authority
from aimass_cloud.fleet import measurements as module
from aimass_cloud.store import Store
from aimass_shared import identity
from aimass_shared.errors import NotFoundError
from aimass_shared.messages import (
    BrokerAddress,
    EnrollRequest,
    Inventory,
    Measurements,
    SliceMeasured,
)
from aimass_shared.slices import Board

INVENTORY = Inventory(Board("raspberry-pi-5", 512.0, 3.0, 50.0), "aarch64", "3.11", "0.1", "ort")
ONE = SliceMeasured(
    model="tep-monitor",
    release="r1",
    slice="w0.50-int8",
    board="raspberry-pi-5",
    provider="CPUExecutionProvider",
    runtime="onnxruntime 1.32.0",
    batch=1,
    runs=100,
    p50_ms=1.5,
    p99_ms=2.5,
    thread_ms=1.4,
    per_s=600.0,
    load_s=0.2,
    rss_mib=90.0,
    model_mib=20.0,
    energy_mj=4.5,
    at=1000,
)


def changed(**fields: object) -> SliceMeasured:
    return msgspec.structs.replace(ONE, **fields)


class Ground(NamedTuple):
    """The fleet's routes on a real server, with two enrolled devices and a reader."""

    fleet: Fleet
    devices: dict[str, httpx.AsyncClient]
    admin: httpx.AsyncClient
    reader: httpx.AsyncClient

    async def send(self, sender: str, about: str, *measured: SliceMeasured) -> httpx.Response:
        body = msgspec.json.encode(Measurements(measured=measured))
        url = f"/api/v1/devices/{about}/measurements"
        return await self.devices[sender].post(url, content=body)


@pytest.fixture
async def ground(
    store: Store, tmp_path: Path, serve: Callable[[Litestar], Awaitable[str]]
) -> AsyncIterator[Ground]:
    keys = Keys(store)
    fleet = Fleet(
        store,
        open_authority(tmp_path / "ca"),
        trust=TrustSettings(),
        broker=lambda: BrokerAddress("127.0.0.1", 8883, tls=True),
        tuf_root=lambda: "{}",
    )
    app = Litestar(
        [FleetController],
        middleware=[AccessMiddleware(keys, DeviceTokens(store, cache_s=0), Attempts(99))],
        exception_handlers=EXCEPTION_HANDLERS,
        dependencies={"fleet": Provide(lambda: fleet, sync_to_thread=False)},
    )
    url = await serve(app)
    devices = {}
    for _ in range(2):
        device, token = await enrolled(fleet)
        devices[device] = client(url, token)
    admin = client(url, (await keys.create("root", ["admin"])).key)
    reader = client(url, (await keys.create("reader", ["model:read"])).key)
    yield Ground(fleet, devices, admin, reader)
    for http in (*devices.values(), admin, reader):
        await http.aclose()


async def enrolled(fleet: Fleet) -> tuple[str, str]:
    key = identity.new_key()
    token = (await fleet.create_join_token("press", "stable")).text()
    request = EnrollRequest(token=token, csr=identity.make_csr(key), inventory=INVENTORY)
    device = (await fleet.enroll(request)).device
    now = int(time.time())
    claims = {"sub": device, "aud": identity.AUDIENCE, "iat": now, "exp": now + 60}
    return device, jwt.encode(claims, key, algorithm="ES256")


def client(url: str, credential: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {credential}"})


async def test_a_device_tells_and_an_admin_reads(ground: Ground) -> None:
    one, two = ground.devices
    sent = await ground.send(one, one, ONE, changed(batch=8, p50_ms=0.5))
    assert (sent.status_code, sent.json()) == (201, {"kept": 2})
    assert (await ground.send(two, two, changed(board="x86-gateway", p50_ms=0.1))).is_success
    answer = (await ground.admin.get("/api/v1/measurements?model=tep-monitor&release=r1")).json()
    assert {(row["device"], row["measured"]["batch"]) for row in answer} == {
        (one, 1),
        (one, 8),
        (two, 1),
    }
    assert (await ground.admin.get("/api/v1/measurements?release=r2")).json() == []
    boards = await ground.fleet.measurements.by_board("tep-monitor")
    assert {board: len(found) for board, found in boards.items()} == {
        "raspberry-pi-5": 2,
        "x86-gateway": 1,
    }
    assert boards["x86-gateway"][0].measured.p50_ms == 0.1


async def test_a_device_speaks_of_itself_only_and_reads_nothing(ground: Ground) -> None:
    one, two = ground.devices
    refused = await ground.send(one, two, ONE)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (await ground.devices[one].get("/api/v1/measurements")).status_code == 403
    assert (await ground.reader.get("/api/v1/measurements")).status_code == 403
    assert (await ground.admin.get("/api/v1/measurements")).json() == []


async def test_the_newest_stays_whatever_comes_when(ground: Ground) -> None:
    store, device = ground.fleet.measurements, next(iter(ground.devices))
    for p50_ms, at in ((1.0, 10), (3.0, 30), (2.0, 20), (3.0, 30)):
        await store.record(device, Measurements(measured=(changed(p50_ms=p50_ms, at=at),)))
    both = (changed(p50_ms=5.0, at=50), changed(p50_ms=4.0, at=40))
    assert [one.measured.p50_ms for one in await store.find()] == [3.0]
    await store.record(device, Measurements(measured=both))
    assert [one.measured.p50_ms for one in await store.find()] == [5.0]


async def test_a_clock_that_runs_ahead_does_not_win_for_ever(ground: Ground) -> None:
    store, device = ground.fleet.measurements, next(iter(ground.devices))
    ahead = changed(at=4_000_000_000_000_000)
    await store.record(device, Measurements(measured=(ahead,)))
    assert (await store.find())[0].measured.at <= time.time_ns() // 1_000_000


async def test_a_device_cannot_fill_the_database(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_OF_A_DEVICE", 3)
    store, (one, two) = ground.fleet.measurements, ground.devices
    await store.record(two, Measurements(measured=(ONE,)))
    for number in range(6):
        fresh = changed(release=f"r{number}", at=number)
        await store.record(one, Measurements(measured=(fresh,)))
    found = await store.find()
    assert [row.measured.release for row in found if row.device == one] == ["r3", "r4", "r5"]
    assert len(found) == 4


async def test_an_unknown_device_and_what_is_no_measurement_are_refused(ground: Ground) -> None:
    with pytest.raises(NotFoundError):
        await ground.fleet.measurements.record("nobody", Measurements(measured=(ONE,)))
    device, http = next(iter(ground.devices.items()))
    url = f"/api/v1/devices/{device}/measurements"
    good = msgspec.to_builtins(Measurements(measured=(ONE,)))
    for field, value in (("p50_ms", -1), ("slice", ""), ("batch", 0), ("release", "x" * 65)):
        bad = {**good, "measured": [{**good["measured"][0], field: value}]}
        answer = await http.post(url, json=bad)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed-message")
    assert (await http.post(url, content=b" " * (300 << 10))).status_code == 413
