import base64
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import jwt
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from litestar import Litestar, asgi, get, post
from litestar.di import Provide
from litestar.params import FromQuery, JSONBody
from litestar.types import Receive, Scope, Send
from sqlalchemy import update

from aimass_cloud.access import (
    EXCEPTION_HANDLERS,
    AccessMiddleware,
    Attempts,
    DeviceTokens,
    Keys,
    KeysController,
    authorize_scope,
    requires,
)
from aimass_cloud.store import Store
from aimass_cloud.store.tables import DeviceRow
from aimass_shared import identity
from aimass_shared.errors import OverloadedError


class Thing(msgspec.Struct):
    name: str
    count: int


@get("/health/live")
async def live() -> str:
    return "ok"


@get("/health/live-details")
async def details() -> str:
    return "for the authenticated only"


@get("/fleet", guards=[requires("fleet:read")])
async def fleet(count: FromQuery[int] = 1) -> int:
    return count


@get("/busy", guards=[requires("fleet:read")])
async def busy() -> None:
    raise OverloadedError("the queue of 4 is full")


@get("/defect", guards=[requires("fleet:read")])
async def defect() -> None:
    raise RuntimeError("password=hunter2")


@post("/things", guards=[requires("fleet:write")])
async def things(data: JSONBody[Thing]) -> Thing:
    return data


@asgi("/v2", is_mount=True, copy_scope=True)
async def inference(scope: Scope, receive: Receive, send: Send) -> None:
    """As a plain ASGI app uses the hook."""
    del receive
    who = authorize_scope(scope, "infer").id.encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": who, "more_body": False})


class Device(NamedTuple):
    name: str
    key: ec.EllipticCurvePrivateKey

    def claims(self, **changes: object) -> dict[str, Any]:
        now = int(time.time())
        mine = {"sub": self.name, "aud": identity.AUDIENCE, "iat": now, "exp": now + 300}
        return {name: value for name, value in {**mine, **changes}.items() if value is not None}

    def token(self, **changes: object) -> str:
        return jwt.encode(self.claims(**changes), self.key, algorithm="ES256")


class Ground(NamedTuple):
    http: httpx.AsyncClient
    keys: Keys
    store: Store
    url: str

    async def device(self, name: str, *, days: float = 1) -> Device:
        key = identity.new_key()
        subject = x509.Name([])
        now = datetime.now(tz=UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
        builder = builder.public_key(key.public_key()).serial_number(1)
        builder = builder.not_valid_before(now - timedelta(days=9))
        certificate = builder.not_valid_after(now + timedelta(days=days)).sign(key, hashes.SHA256())
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        async with self.store.session() as session:
            session.add(
                DeviceRow(id=name, site="s", channel="c", certificate=pem, inventory={}, enrolled=1)
            )
        return Device(name, key)

    async def get(self, path: str, credential: str = "") -> httpx.Response:
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        return await self.http.get(path, headers=headers)


@pytest.fixture
def limit() -> int:
    return 1000


@pytest.fixture
async def ground(
    store: Store, limit: int, serve: Callable[[Litestar], Awaitable[str]]
) -> AsyncIterator[Ground]:
    keys = Keys(store)
    app = Litestar(
        [live, details, fleet, busy, defect, things, inference, KeysController],
        middleware=[AccessMiddleware(keys, DeviceTokens(store, cache_s=0), Attempts(limit))],
        exception_handlers=EXCEPTION_HANDLERS,
        dependencies={"keys": Provide(lambda: keys, sync_to_thread=False)},
    )
    url = await serve(app)
    async with httpx.AsyncClient(base_url=url) as http:
        yield Ground(http, keys, store, url)


def _code(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["type"] == f"urn:aimass:error:{problem['code']}"
    assert problem["title"]
    assert problem["detail"]
    return response.status_code, problem["code"]


async def test_open_paths_are_open_and_their_neighbours_are_not(ground: Ground) -> None:
    assert (await ground.get("/health/live")).status_code == 200
    for path in ("/health/live-details", "/fleet", "/v2/models", "/api/v1/keys"):
        response = await ground.get(path)
        assert _code(response) == (401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"


async def test_a_key_without_the_scope_is_told_which_one(ground: Ground) -> None:
    key = (await ground.keys.create("k", ["model:read"])).key
    response = await ground.get("/fleet", key)
    assert _code(response) == (403, "forbidden")
    assert "fleet:read" in response.json()["detail"]
    assert (await ground.get("/health/live-details", key)).status_code == 200


async def test_a_plain_asgi_app_asks_in_the_same_way(ground: Ground) -> None:
    weak = (await ground.keys.create("weak", ["fleet:read"])).key
    strong = await ground.keys.create("strong", ["infer"])
    device = await ground.device("press-1")
    assert _code(await ground.get("/v2/models", weak)) == (403, "forbidden")
    assert (await ground.get("/v2/models", strong.key)).text == strong.id
    assert (await ground.get("/v2/models", device.token())).text == "press-1"


async def test_a_device_may_infer_and_not_administrate(ground: Ground) -> None:
    device = await ground.device("press-1")
    assert (await ground.get("/v2/x", device.token())).status_code == 200
    assert _code(await ground.get("/fleet", device.token())) == (403, "forbidden")


async def test_tokens_that_are_not_the_devices_own_are_refused(ground: Ground) -> None:
    device, other = await ground.device("press-1"), await ground.device("press-2")
    now, claims = int(time.time()), device.claims()
    bad = {
        "another device's key": jwt.encode(claims, other.key, algorithm="ES256"),
        "alg none": f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}.",
        "the public key as a shared secret": _hs256(claims, device.key),
        "altered claims": _altered(device.token(), {**claims, "sub": "press-2"}),
        "unknown device": jwt.encode({**claims, "sub": "press-9"}, device.key, algorithm="ES256"),
        "no device": device.token(sub=None),
        "another audience": device.token(aud="elsewhere"),
        "no audience": device.token(aud=None),
        "no expiry": device.token(exp=None),
        "no issue time": device.token(iat=None),
        "expired": device.token(iat=now - 400, exp=now - 70),
        "from the future": device.token(iat=now + 120, exp=now + 300),
        "lives too long": device.token(exp=now + 3600),
        "lives for ever": device.token(exp=1e300),
        "infinite": device.token(exp=float("inf")),
        "text as a time": device.token(exp="tomorrow"),
        "no token": "x.y.z",
        "nothing like one": "\xe9" * 20,
        "too long": "x" * 5000,
    }
    for what, token in bad.items():
        headers = [(b"authorization", f"Bearer {token}".encode("latin-1"))]
        response = await ground.http.get("/v2/x", headers=headers)
        assert (what, *_code(response)) == (what, 401, "unauthenticated")
        assert token not in response.text


async def test_a_clock_may_be_off_by_a_minute_either_way(ground: Ground) -> None:
    device, now = await ground.device("press-1"), int(time.time())
    for shift in (-350, 50):
        token = device.token(iat=now + shift, exp=now + shift + 300)
        assert (await ground.get("/v2/x", token)).status_code == 200


async def test_a_revoked_device_and_an_ended_certificate_are_refused(ground: Ground) -> None:
    device, ended = await ground.device("press-1"), await ground.device("press-2", days=-1)
    assert _code(await ground.get("/v2/x", ended.token())) == (401, "unauthenticated")
    assert (await ground.get("/v2/x", device.token())).status_code == 200
    async with ground.store.session() as session:
        await session.execute(update(DeviceRow).values(revoked=True))
    assert _code(await ground.get("/v2/x", device.token())) == (401, "unauthenticated")


@pytest.mark.parametrize("scheme", ["Basic", "Token", ""])
async def test_only_bearer_credentials_count(ground: Ground, scheme: str) -> None:
    key = (await ground.keys.create("k", ["fleet:read"])).key
    response = await ground.http.get("/fleet", headers={"Authorization": f"{scheme} {key}".strip()})
    assert _code(response) == (401, "unauthenticated")


@pytest.mark.parametrize("limit", [3])
async def test_guessing_ends_soon_and_does_not_lock_out_the_neighbours(ground: Ground) -> None:
    key = (await ground.keys.create("k", ["fleet:read"])).key
    codes = [_code(await ground.get("/fleet", "aimass_guess"))[0] for _ in range(5)]
    assert codes == [401, 401, 401, 429, 429]
    limited = await ground.get("/fleet", "aimass_guess")
    assert limited.json()["code"] == "too-many-attempts"
    assert int(limited.headers["retry-after"]) > 0
    assert _code(await ground.get("/fleet"))[0] == 401  # nothing was guessed
    assert (await ground.get("/fleet", key)).status_code == 200


async def test_every_error_is_a_problem_document(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    key = (await ground.keys.create("k", ["fleet:read", "fleet:write"])).key
    ground.http.headers["Authorization"] = f"Bearer {key}"
    assert _code(await ground.http.get("/nowhere")) == (404, "not-found")
    assert _code(await ground.http.delete("/fleet")) == (405, "method-not-allowed")
    busy = await ground.http.get("/busy")
    assert _code(busy) == (503, "overloaded")
    assert busy.json()["detail"] == "the queue of 4 is full"
    assert _code(await ground.http.get("/fleet?count=many")) == (400, "request")
    assert _code(await ground.http.post("/things", content=b"{")) == (400, "request")
    wrong = await ground.http.post("/things", json={"name": "x", "count": "y"})
    assert _code(wrong) == (400, "request")
    assert "count" in str(wrong.json()["errors"])
    large = await ground.http.post("/things", content=b" " * 20_000_000)
    assert _code(large) == (413, "body-too-large")
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_defect_is_logged_and_not_told(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    key = (await ground.keys.create("k", ["fleet:read"])).key
    response = await ground.get("/defect", key)
    assert _code(response) == (500, "internal")
    assert "hunter2" not in response.text
    record = next(record for record in caplog.records if "aimass" in record.name)
    assert record.exc_info
    assert "hunter2" in str(record.exc_info[1])


def test_a_route_cannot_ask_for_a_scope_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="fleet:fly"):
        requires("fleet:fly")


def _part(data: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def _altered(token: str, claims: object) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{_part(claims)}.{signature}"


def _hs256(claims: object, key: ec.EllipticCurvePrivateKey) -> str:
    """The classic confusion: the public key, known to all, as the secret of an HMAC."""
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(claims)}"
    mac = hmac.digest(pem, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


async def test_keys_over_http(ground: Ground) -> None:
    admin = (await ground.keys.create("root", ["admin"])).key
    ground.http.headers["Authorization"] = f"Bearer {admin}"
    body = {"name": "dashboard", "scopes": ["fleet:read"]}
    made = await ground.http.post("/api/v1/keys", json=body)
    assert made.status_code == 201
    new = made.json()
    assert new["key"].startswith(f"aimass_{new['id']}_")
    listed = (await ground.http.get("/api/v1/keys")).json()
    assert [key["name"] for key in listed] == ["root", "dashboard"]
    assert all("key" not in key and "secret" not in str(key) for key in listed)
    assert (await ground.get("/fleet", new["key"])).status_code == 200
    refused = await ground.get("/api/v1/keys", new["key"])
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (await ground.http.delete(f"/api/v1/keys/{new['id']}")).status_code == 204
    assert (await ground.get("/fleet", new["key"])).status_code == 401
    assert _code(await ground.http.delete("/api/v1/keys/nobody")) == (404, "not-found")
    assert _code(await ground.http.post("/api/v1/keys", json=body)) == (409, "conflict")
    typo = {**body, "scope": []}
    assert _code(await ground.http.post("/api/v1/keys", json=typo)) == (400, "request")
