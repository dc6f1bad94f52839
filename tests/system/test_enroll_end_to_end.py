"""The device's side of enrolment against the coordinator's, over a real server."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import uvicorn
from litestar import Litestar, get
from litestar.di import Provide

from aimass_cloud.access import (
    EXCEPTION_HANDLERS,
    AccessMiddleware,
    Attempts,
    DeviceTokens,
    Keys,
    requires,
)
from aimass_cloud.config import TrustSettings
from aimass_cloud.fleet import (
    EnrollController,
    Fleet,
    FleetController,
    get_ca,
    local_hosts,
    open_authority,
    write_service_files,
)
from aimass_cloud.store import Store
from aimass_edge.enroll import Identity, enroll
from aimass_shared.errors import BadJoinTokenError
from aimass_shared.messages import BrokerAddress, Inventory
from aimass_shared.slices import Board

INVENTORY = Inventory(Board("raspberry-pi-5", 512.0, 3.0, 50.0), "aarch64", "3.11", "0.1", "ort")
BROKER = BrokerAddress("127.0.0.1", 8883, tls=True)


@get("/infer", guards=[requires("infer")])
async def infer() -> str:
    return "ok"


class Ground(NamedTuple):
    fleet: Fleet
    url: str
    ca: Path

    async def token(self) -> str:
        return (await self.fleet.create_join_token("press", "stable")).text()

    async def infer(self, identity: Identity) -> int:
        headers = {"Authorization": f"Bearer {identity.bearer()}"}
        async with httpx.AsyncClient(verify=_context(identity.tls_files().ca)) as http:
            return (await http.get(f"{self.url}/infer", headers=headers)).status_code


def _context(ca: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    """The coordinator's enrolment and devices over https, with certificates of its own CA."""
    authority = open_authority(tmp_path / "ca")
    tls = write_service_files(
        authority, tmp_path / "tls", "api", purpose="server", hosts=local_hosts("")
    )
    async with Store(f"sqlite+aiosqlite:///{tmp_path}/aimass.db") as store:
        await store.migrate()
        fleet = Fleet(
            store,
            authority,
            trust=TrustSettings(),
            broker=lambda: BROKER,
            tuf_root=lambda: '{"signed": {}}',
        )
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(_app(store, fleet), log_level="error", ws="none")
        config.ssl_certfile, config.ssl_keyfile = tls.certificate, tls.key
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            assert not task.done(), "the server ended while it started"
            await asyncio.sleep(0.01)
        yield Ground(fleet, f"https://127.0.0.1:{listener.getsockname()[1]}", tls.ca)
        server.should_exit = True
        await task


def _app(store: Store, fleet: Fleet) -> Litestar:
    attempts = Attempts()
    return Litestar(
        [get_ca, EnrollController, FleetController, infer],
        middleware=[AccessMiddleware(Keys(store), DeviceTokens(store, cache_s=0), attempts)],
        exception_handlers=EXCEPTION_HANDLERS,
        dependencies={
            "fleet": Provide(lambda: fleet, sync_to_thread=False),
            "attempts": Provide(lambda: attempts, sync_to_thread=False),
        },
    )


async def _join(ground: Ground, token: str, data_dir: Path) -> Identity:
    return await enroll(cloud_url=ground.url, token=token, data_dir=data_dir, inventory=INVENTORY)


async def test_a_device_joins_speaks_for_itself_and_is_revoked(
    ground: Ground, tmp_path: Path
) -> None:
    mine = await _join(ground, await ground.token(), tmp_path / "edge")
    assert (mine.broker, mine.tuf_root()) == (BROKER, b'{"signed": {}}')
    known = await ground.fleet.device(mine.device)
    assert (known.site, known.inventory) == (mine.site, INVENTORY)
    assert await ground.infer(Identity.load(tmp_path / "edge")) == 200
    await ground.fleet.revoke(mine.device)
    assert await ground.infer(mine) == 401


async def test_of_two_devices_with_one_token_one_joins_and_one_is_left_clean(
    ground: Ground, tmp_path: Path
) -> None:
    token = await ground.token()
    results = await asyncio.gather(
        *(_join(ground, token, tmp_path / name) for name in ("a", "b")), return_exceptions=True
    )
    joined = [result for result in results if isinstance(result, Identity)]
    lost = [result for result in results if isinstance(result, BadJoinTokenError)]
    assert (len(joined), len(lost)) == (1, 1)
    loser = "b" if joined[0].directory.is_relative_to(tmp_path / "a") else "a"
    assert list((tmp_path / loser).iterdir()) == []


async def test_a_token_of_another_coordinator_is_refused_before_anything_is_sent(
    ground: Ground, tmp_path: Path
) -> None:
    token = await ground.token()
    other = token.replace(token.split(".")[1], "0" * 64)
    with pytest.raises(BadJoinTokenError, match="not sent"):
        await _join(ground, other, tmp_path / "edge")
    assert await ground.fleet.devices() == []
