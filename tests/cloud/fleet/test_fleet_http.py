import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import jwt
import msgspec
import pytest
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
from aimass_cloud.fleet import EnrollController, Fleet, FleetController, get_ca, open_authority
from aimass_cloud.store import Store
from aimass_shared import identity, messages
from aimass_shared.messages import BrokerAddress, EnrollReply, EnrollRequest, Inventory
from aimass_shared.slices import Board

INVENTORY = Inventory(Board("raspberry-pi-5", 512.0, 3.0, 50.0), "aarch64", "3.11", "0.1", "ort")
LIMIT = 5


@get("/infer", guards=[requires("infer")])
async def infer() -> str:
    return "ok"


class Ground(NamedTuple):
    """The fleet's routes on a real server; `http` is an admin, `anyone` has no credential."""

    http: httpx.AsyncClient
    anyone: httpx.AsyncClient
    keys: Keys

    async def token(self, site: str = "press") -> str:
        response = await self.http.post("/api/v1/join-tokens", json={"site": site})
        assert response.status_code == 201
        return str(response.json()["token"])

    async def enroll(self, token: str, **changes: object) -> httpx.Response:
        csr = identity.make_csr(identity.new_key())
        body = msgspec.to_builtins(EnrollRequest(token=token, csr=csr, inventory=INVENTORY))
        return await self.anyone.post("/api/v1/enroll", json={**body, **changes})


@pytest.fixture
async def ground(
    store: Store, tmp_path: Path, serve: Callable[[Litestar], Awaitable[str]]
) -> AsyncIterator[Ground]:
    keys, attempts = Keys(store), Attempts(LIMIT)
    fleet = Fleet(
        store,
        open_authority(tmp_path / "ca"),
        trust=TrustSettings(),
        broker=lambda: BrokerAddress("127.0.0.1", 8883, tls=True),
        tuf_root=lambda: "{}",
    )
    app = Litestar(
        [get_ca, EnrollController, FleetController, infer],
        middleware=[AccessMiddleware(keys, DeviceTokens(store, cache_s=0), attempts)],
        exception_handlers=EXCEPTION_HANDLERS,
        dependencies={
            "fleet": Provide(lambda: fleet, sync_to_thread=False),
            "attempts": Provide(lambda: attempts, sync_to_thread=False),
        },
    )
    admin = (await keys.create("root", ["admin"])).key
    url = await serve(app)
    async with (
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {admin}"}) as http,
        httpx.AsyncClient(base_url=url) as anyone,
    ):
        yield Ground(http, anyone, keys)


def _code(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


async def test_a_device_joins_and_is_seen(ground: Ground) -> None:
    token = await ground.token()
    pem = (await ground.anyone.get("/ca.pem")).text
    identity.check_ca(pem, identity.JoinToken.parse(token))
    response = await ground.enroll(token)
    assert response.status_code == 201
    reply = messages.decode(response.content, EnrollReply)
    assert reply.ca == pem
    listed = (await ground.http.get("/api/v1/devices")).json()
    shown = (await ground.http.get(f"/api/v1/devices/{reply.device}")).json()
    assert listed == [shown]
    assert (shown["id"], shown["site"], shown["channel"]) == (reply.device, "press", "stable")
    assert shown["inventory"]["board"]["name"] == "raspberry-pi-5"
    pages = await ground.http.get(f"/api/v1/devices/{reply.device}/predictions?after=&limit=10")
    assert pages.json() == {"items": [], "next": None}


async def test_a_revoked_device_is_refused(ground: Ground) -> None:
    key = identity.new_key()
    response = await ground.enroll(await ground.token(), csr=identity.make_csr(key))
    device = response.json()["device"]
    now = int(time.time())
    claims = {"sub": device, "aud": "aimass", "iat": now, "exp": now + 300}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, key, algorithm='ES256')}"}
    assert (await ground.anyone.get("/infer", headers=headers)).status_code == 200
    assert _code(await ground.anyone.get("/api/v1/devices", headers=headers)) == (403, "forbidden")
    assert (await ground.http.delete(f"/api/v1/devices/{device}")).status_code == 204
    refused = await ground.anyone.get("/infer", headers=headers)
    assert _code(refused) == (401, "unauthenticated")
    assert (await ground.http.get(f"/api/v1/devices/{device}")).json()["revoked"]


async def test_refusals_of_enrolment_have_their_codes(ground: Ground) -> None:
    token = await ground.token()
    assert _code(await ground.enroll(token, csr="no csr")) == (400, "malformed-message")
    assert _code(await ground.enroll(token, inventory={})) == (400, "malformed-message")
    assert _code(await ground.enroll(token, schema=2)) == (400, "malformed-message")
    assert _code(await ground.enroll(token, csr="x" * 100_000)) == (413, "body-too-large")
    assert _code(await ground.enroll(token[:-1] + "!")) == (401, "bad-join-token")
    assert (await ground.enroll(token)).status_code == 201
    assert _code(await ground.enroll(token)) == (401, "bad-join-token")


async def test_guessing_tokens_ends_soon(ground: Ground) -> None:
    token = await ground.token()
    codes = [_code(await ground.enroll("guess"))[1] for _ in range(LIMIT + 2)]
    assert codes == ["bad-join-token"] * LIMIT + ["too-many-attempts"] * 2
    assert _code(await ground.enroll(token)) == (429, "too-many-attempts")


async def test_scopes_are_asked_for(ground: Ground) -> None:
    reader = (await ground.keys.create("reader", ["fleet:read"])).key
    headers = {"Authorization": f"Bearer {reader}"}
    tokens = "/api/v1/join-tokens"
    body = {"site": "press"}
    assert (await ground.anyone.get("/api/v1/devices", headers=headers)).status_code == 200
    refused = await ground.anyone.post(tokens, json=body, headers=headers)
    assert _code(refused) == (403, "forbidden")
    removed = await ground.anyone.delete("/api/v1/devices/x", headers=headers)
    assert _code(removed) == (403, "forbidden")
    assert _code(await ground.anyone.post(tokens, json=body)) == (401, "unauthenticated")
    assert _code(await ground.anyone.get("/api/v1/devices")) == (401, "unauthenticated")


async def test_what_is_not_there_is_not_found(ground: Ground) -> None:
    for path in ("/api/v1/devices/nobody", "/api/v1/devices/nobody/predictions"):
        assert _code(await ground.http.get(path)) == (404, "not-found")
    assert _code(await ground.http.delete("/api/v1/devices/nobody")) == (404, "not-found")
    wrong = await ground.http.post("/api/v1/join-tokens", json={"site": "a/b"})
    assert _code(wrong) == (400, "malformed-message")
