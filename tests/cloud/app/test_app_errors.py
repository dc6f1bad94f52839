"""Every error of the API is a problem document (RFC 9457), and the coordinator goes on."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus

import httpx
import pytest
from sqlalchemy import text

from aimass_cloud.app.coordinator import Coordinator

LIMIT = 100_000
JSON = {"content-type": "application/json"}

Key = Callable[..., Awaitable[dict[str, str]]]


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem document, once it is seen to be one."""
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:aimass:error:{problem['code']}"
    assert problem["status"] == answer.status_code
    assert problem["title"] == HTTPStatus(answer.status_code).phrase
    assert problem["detail"]
    assert "Traceback" not in answer.text
    return answer.status_code, problem["code"]


ROUTES = (
    ("GET", "/api/v1/devices"),
    ("GET", "/api/v1/devices/d1"),
    ("DELETE", "/api/v1/devices/d1"),
    ("GET", "/api/v1/devices/d1/predictions"),
    ("POST", "/api/v1/join-tokens"),
    ("POST", "/api/v1/jobs/train"),
    ("POST", "/api/v1/jobs/slice"),
    ("POST", "/api/v1/jobs/rounds"),
    ("GET", "/api/v1/jobs/train-1"),
    ("GET", "/api/v1/models"),
    ("GET", "/api/v1/releases"),
    ("POST", "/api/v1/releases"),
    ("GET", "/api/v1/rollouts"),
    ("POST", "/api/v1/rollouts"),
    ("GET", "/api/v1/rounds"),
    ("GET", "/api/v1/keys"),
    ("POST", "/api/v1/keys"),
    ("DELETE", "/api/v1/keys/k1"),
    ("GET", "/tuf/metadata/timestamp.json"),
    ("GET", f"/blobs/{'0' * 64}"),
    ("GET", "/v2"),
    ("GET", "/v2/models"),
    ("POST", "/v2/models/tiny/infer"),
)


async def test_no_credential_leads_nowhere(nobody: httpx.AsyncClient) -> None:
    for method, path in ROUTES:
        answer = await nobody.request(method, path)
        assert (path, *code_of(answer)) == (path, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_key_without_the_scope_is_told_which(admin: httpx.AsyncClient, key: Key) -> None:
    weak = await key("tuf:read")
    for method, path in ROUTES:
        if path.startswith(("/tuf", "/v2")):
            continue
        answer = await admin.request(method, path, headers=weak | JSON, content=b"{}")
        assert (path, *code_of(answer)) == (path, 403, "forbidden")
        assert "has not the scope" in answer.json()["detail"]


async def test_open_routes_need_none(nobody: httpx.AsyncClient) -> None:
    assert (await nobody.get("/health/live")).json() == {"status": "live"}
    assert (await nobody.get("/v2/health/live")).json() == {"live": True}
    assert (await nobody.get("/ca.pem")).text.startswith("-----BEGIN CERTIFICATE-----")
    waiting = await nobody.get("/health/ready")
    assert waiting.status_code == 503
    assert waiting.json() == {"status": "waiting for the broker", "broker": False}


async def test_a_wrong_credential(nobody: httpx.AsyncClient) -> None:
    for wrong in ("aimass_x", f"aimass_0123456789ab_{'x' * 43}", "e30.e30.e30", "x" * 5000):
        answer = await nobody.get("/api/v1/models", headers={"authorization": f"Bearer {wrong}"})
        assert code_of(answer) == (401, "unauthenticated")
        assert wrong not in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("jobs/train", b'{"seed": 1'),
        ("jobs/train", b"\xff\xfe"),
        ("jobs/train", b"[]"),
        ("jobs/train", b"null"),
        ("jobs/train", b""),
        ("jobs/train", b'{"speed": 1}'),
        ("jobs/train", b'{"seed": "one"}'),
        ("jobs/train", b'{"seed": -1}'),
        ("jobs/train", b'{"seed": 99999999999999999999}'),
        ("jobs/slice", b"{}"),
        ("jobs/rounds", b'{"kind": "fly"}'),
        ("jobs/rounds", b'{"kind": "train", "rounds": 0}'),
        ("jobs/rounds", b'{"kind": "train", "rounds": 2000000000}'),
        ("jobs/rounds", b'{"kind": "train", "epochs": 0}'),
        ("jobs/rounds", b'{"kind": "train", "learning_rate": 0}'),
        ("jobs/rounds", b'{"kind": "train", "deadline_s": -1}'),
        ("jobs/rounds", b'{"kind": "train", "deadline_s": 1e400}'),
        ("jobs/rounds", b'{"kind": "train", "deadline_s": NaN}'),
        ("join-tokens", b'{"site": 3}'),
        ("join-tokens", b'{"site": "a/b"}'),
        ("join-tokens", b'{"site": "a", "minutes": 0}'),
        ("keys", b'{"name": "x", "scopes": ["fly"]}'),
        ("releases", b'{"model": "m"}'),
        ("rollouts", b'{"release": "r", "devices": "d1"}'),
        ("enroll", b'{"token": "x"}'),
        ("enroll", b"\x00"),
    ],
)
async def test_a_body_that_cannot_be_worked_with(
    admin: httpx.AsyncClient, path: str, body: bytes
) -> None:
    answer = await admin.post(f"/api/v1/{path}", content=body, headers=JSON)
    status, code = code_of(answer)
    assert status == 400
    assert code in {"request", "malformed-message"}
    assert (await admin.get("/health/live")).status_code == 200


async def test_a_wrong_field_is_named(admin: httpx.AsyncClient) -> None:
    answer = await admin.post("/api/v1/jobs/train", json={"speed": 1})
    assert "`speed`" in json.dumps(answer.json()["errors"])
    answer = await admin.post("/api/v1/jobs/train", json={"seed": "one"})
    assert answer.json()["errors"][0]["key"] == "seed"


async def test_a_body_over_the_limit(admin: httpx.AsyncClient) -> None:
    body = b'{"recipe": "' + b"x" * LIMIT + b'"}'

    async def chunks() -> AsyncIterator[bytes]:
        yield body[:1000]
        yield body[1000:]

    for content in (body, chunks()):
        answer = await admin.post("/api/v1/jobs/train", content=content, headers=JSON)
        assert code_of(answer) == (413, "body-too-large")
    assert (await admin.get("/api/v1/models")).json() == []


async def test_a_wrong_method_and_an_unknown_route(admin: httpx.AsyncClient) -> None:
    answer = await admin.delete("/api/v1/models")
    assert code_of(answer) == (405, "method-not-allowed")
    assert "GET" in answer.headers["allow"]
    for path in ("/", "/api/v1/nothing", "/api/v1/models/a/b", "/metrics", "/v3"):
        assert code_of(await admin.get(path)) == (404, "not-found")


@pytest.mark.parametrize("thing", ["devices", "models", "releases", "rollouts", "jobs"])
async def test_an_unknown_name(admin: httpx.AsyncClient, thing: str) -> None:
    for name in ("nothing", "%00", "..%2f", "%F0%9F%98%80", "x" * 3000):
        assert code_of(await admin.get(f"/api/v1/{thing}/{name}")) == (404, "not-found")


async def test_wrong_queries(admin: httpx.AsyncClient) -> None:
    answer = await admin.get("/api/v1/devices/d1/predictions?limit=many")
    assert code_of(answer) == (400, "request")
    assert (await admin.get("/api/v1/rounds?run=nothing&color=red")).json() == []


async def test_a_defect_keeps_its_details_to_the_log(
    admin: httpx.AsyncClient, parts: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    """A table that is gone is nothing that anybody foresaw."""
    async with parts.store.session() as session:
        await session.execute(text("ALTER TABLE models RENAME TO elsewhere"))
    answer = await admin.get("/api/v1/models")
    assert code_of(answer) == (500, "internal")
    assert "models" not in answer.text
    assert "sqlite" not in answer.text.lower()
    assert "no such table: models" in caplog.text
    async with parts.store.session() as session:
        await session.execute(text("ALTER TABLE elsewhere RENAME TO models"))
    assert (await admin.get("/api/v1/models")).json() == []


async def test_guessing_is_slowed_down_but_not_for_those_who_know(
    admin: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    wrong = {"authorization": "Bearer aimass_guess"}
    codes = [code_of(await nobody.get("/api/v1/models", headers=wrong)) for _ in range(21)]
    assert codes[0] == (401, "unauthenticated")
    assert codes[-1] == (429, "too-many-attempts")
    assert (await admin.get("/api/v1/models")).status_code == 200


async def test_the_schema_lists_every_route(
    nobody: httpx.AsyncClient,
) -> None:
    schema = (await nobody.get("/schema/openapi.json")).json()
    assert schema["info"]["title"] == "aimass"
    listed = {
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, methods in schema["paths"].items()
        for method in methods
    }
    names = {"d1": "device", "k1": "key", "train-1": "job", "timestamp.json": "name"}
    for method, path in ROUTES:
        if path.startswith("/v2"):  # described by its own protocol
            continue
        parts = [names.get(part, part) for part in path.replace("0" * 64, "sha256").split("/")]
        assert (method, "/".join(parts)) in listed
    for path in ("/health/live", "/health/ready", "/ca.pem"):
        assert ("GET", path) in listed
    assert ("POST", "/api/v1/enroll") in listed
