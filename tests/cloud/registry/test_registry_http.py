"""The registry's routes over real HTTP: ranges, uploads, what is refused, and to whom."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from aimass_cloud.access import EXCEPTION_HANDLERS, Principal
from aimass_cloud.models.samples import Part, Samples
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_cloud.registry import (
    BlobsController,
    ModelsController,
    NewModel,
    Registry,
    ReleasesController,
    TufController,
)
from aimass_cloud.registry.files import Span, parse_range
from aimass_cloud.store import Blobs
from aimass_shared.manifest import Contract, Sensor, SliceArtifact

BODY = bytes(range(256)) * 2000
SHA = hashlib.sha256(BODY).hexdigest()
LIMIT = 1 << 20


class Scopes(ASGIMiddleware):
    """Takes the scopes from a header, as if a credential had been checked."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        told = dict(scope["headers"]).get(b"x-scopes", b"").decode().split()
        scope["user"] = Principal("device", "d1", frozenset(told))
        await next_app(scope, receive, send)


@pytest.fixture
async def client(
    registry: Registry, blobs: Blobs, serve: Callable[[Litestar], Awaitable[str]]
) -> AsyncIterator[httpx.AsyncClient]:
    app = Litestar(
        [TufController, BlobsController, ModelsController, ReleasesController],
        dependencies={
            "registry": Provide(lambda: registry, sync_to_thread=False),
            "tuf": Provide(lambda: registry._tuf, sync_to_thread=False),
            "blobs": Provide(lambda: blobs, sync_to_thread=False),
        },
        middleware=[Scopes()],
        exception_handlers=EXCEPTION_HANDLERS,
        state=State({"max_blob_bytes": LIMIT}),
    )
    scopes = "tuf:read blob:read blob:write model:read release:read release:write"
    async with httpx.AsyncClient(
        base_url=await serve(app), headers={"x-scopes": scopes}
    ) as session:
        yield session


async def test_blob_goes_up_and_comes_down(client: httpx.AsyncClient) -> None:
    reply = await client.put(f"/blobs/{SHA}", content=BODY)
    assert (reply.status_code, reply.json()) == (201, {"sha256": SHA, "size": len(BODY)})
    assert (await client.put(f"/blobs/{SHA}", content=BODY)).status_code == 201
    reply = await client.get(f"/blobs/{SHA}")
    assert reply.status_code == 200
    assert reply.content == BODY
    assert reply.headers["content-length"] == str(len(BODY))
    assert reply.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, len(BODY)),
        ("bytes=100-199", 100, 200),
        ("bytes=-10", len(BODY) - 10, len(BODY)),
        ("bytes=511999-9999999", 511_999, 512_000),
    ],
)
async def test_range_of_a_blob(
    client: httpx.AsyncClient, blobs: Blobs, asked: str, start: int, stop: int
) -> None:
    blobs.put(BODY)
    reply = await client.get(f"/blobs/{SHA}", headers={"range": asked})
    assert reply.status_code == 206
    assert reply.content == BODY[start:stop]
    assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(BODY)}"


async def test_range_beyond_the_end(client: httpx.AsyncClient, blobs: Blobs) -> None:
    blobs.put(BODY)
    reply = await client.get(f"/blobs/{SHA}", headers={"range": f"bytes={len(BODY)}-"})
    assert reply.status_code == 416
    assert reply.headers["content-range"] == f"bytes */{len(BODY)}"


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_any_range_is_within_the_blob(size: int, first: int, last: int) -> None:
    for header in (f"bytes={first}-{last}", f"bytes={first}-", f"bytes=-{last}"):
        span = parse_range(header, size)
        assert span is None or 0 <= span.start <= size
        assert span is None or span.stop <= size
    inside = parse_range(f"bytes={first}-{first + last}", size)
    if first < size:
        assert inside == Span(first, min(size, first + last + 1))


@pytest.mark.parametrize("header", ["", "bytes=5-1", "items=0-1", "bytes=0-1,5-6", "bytes=-"])
def test_what_is_no_range_gives_the_whole(header: str) -> None:
    assert parse_range(header, 100) is None


async def test_upload_of_other_bytes_is_refused(client: httpx.AsyncClient, blobs: Blobs) -> None:
    reply = await client.put(f"/blobs/{SHA}", content=BODY[:-1])
    assert (reply.status_code, reply.json()["code"]) == (422, "bad-digest")
    assert not blobs.has(SHA)


async def test_upload_over_the_limit_is_refused(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(LIMIT // 1000 + 100):
            yield b"x" * 1000

    reply = await client.put(f"/blobs/{SHA}", content=b"x" * (LIMIT + 1))
    assert (reply.status_code, reply.json()["code"]) == (413, "body-too-large")
    reply = await client.put(f"/blobs/{SHA}", content=endless())
    assert (reply.status_code, reply.json()["code"]) == (413, "body-too-large")


@pytest.mark.parametrize("name", ["0" * 64, "..%2f..%2fkeys%2froot.pem", "x"])
async def test_unknown_blob(client: httpx.AsyncClient, name: str) -> None:
    reply = await client.get(f"/blobs/{name}")
    assert (reply.status_code, reply.json()["code"]) == (404, "not-found")


async def test_metadata_is_fresh_and_the_rest_is_for_ever(client: httpx.AsyncClient) -> None:
    reply = await client.get("/tuf/metadata/timestamp.json")
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.json()["signed"]["version"] == 1
    assert "immutable" in (await client.get("/tuf/metadata/1.root.json")).headers["cache-control"]
    assert (await client.get("/tuf/metadata/2.root.json")).status_code == 404
    assert (await client.get("/tuf/metadata/..%2f..%2fkeys%2froot.pem")).status_code == 404


async def test_release_from_slices_over_http(
    client: httpx.AsyncClient,
    registry: Registry,
    contract: Contract,
    artifacts: list[SliceArtifact],
    tmp_path: Path,
) -> None:
    model = await registry.add_model(NewModel("tep-monitor", "tep", 9, {}, str(tmp_path / "m")))
    body = {"model": model.id, "channel": "stable"}
    assert (await client.post("/api/v1/releases", json=body)).json()["code"] == "conflict"
    await registry.save_slices(model.id, contract, artifacts)
    made = await client.post("/api/v1/releases", json=body)
    assert made.status_code == 201
    release = made.json()
    assert [entry["name"] for entry in release["slices"]] == ["w0.50-int8", "w1.00-int8"]
    assert (await client.get("/api/v1/releases")).json() == [release]
    assert (await client.get(f"/api/v1/releases/{release['id']}")).json() == release
    assert [row["id"] for row in (await client.get("/api/v1/models")).json()] == [model.id]
    assert (await client.get(f"/api/v1/models/{model.id}")).json()["parameters"] == 9
    folder, _, name = release["path"].rpartition("/")
    digest = hashlib.sha256((await registry.release(release["id"])).manifest).hexdigest()
    target = await client.get(f"/tuf/targets/{folder}/{digest}.{name}")
    assert msgspec.json.decode(target.content)["release"] == release["id"]


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/tuf/metadata/timestamp.json", "tuf:read"),
        ("GET", f"/tuf/targets/stable/m/{SHA}.r.json", "tuf:read"),
        ("GET", f"/blobs/{SHA}", "blob:read"),
        ("PUT", f"/blobs/{SHA}", "blob:write"),
        ("GET", "/api/v1/models", "model:read"),
        ("GET", "/api/v1/models/x", "model:read"),
        ("GET", "/api/v1/releases", "release:read"),
        ("GET", "/api/v1/releases/x", "release:read"),
        ("POST", "/api/v1/releases", "release:write"),
    ],
)
async def test_every_route_needs_its_scope(
    client: httpx.AsyncClient, method: str, path: str, scope: str
) -> None:
    reply = await client.request(method, path, headers={"x-scopes": "infer fleet:read"})
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    reply = await client.request(method, path, headers={"x-scopes": scope})
    assert reply.status_code != 403


async def test_a_models_graph_comes_as_json_graphml_and_picture(
    client: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    sensors = (Sensor("a", "%", "continuous"), Sensor("b", "%", "continuous"))
    contract = Contract(model="m", inputs=(), outputs=(), sensors=sensors, window=1, horizon=1)
    nothing = Part({"values": np.zeros(1)}, {})
    edges = np.array([[0, 1], [0, 0]], np.float32)
    TrainedModel(
        ModelInfo("m-1", "sensor-graph", "", 0, {}, contract, {}, 1),
        {},
        {"graph.inward": edges},
        Samples(nothing, nothing, {}),
    ).save(tmp_path / "m")
    row = await registry.add_model(NewModel("m", "sensor-graph", 1, {}, str(tmp_path / "m")))
    path = f"/api/v1/models/{row.id}/graph"
    assert (await client.get(path)).json()["edges"] == [
        {"source": "b", "target": "a", "relation": "inward", "weight": 1.0}
    ]
    for form, kind, start in (
        ("graphml", "application/xml", b"<?xml"),
        ("png", "image/png", b"\x89PNG"),
    ):
        reply = await client.get(path, params={"form": form})
        assert reply.headers["content-type"].startswith(kind)
        assert reply.content.startswith(start)
    assert (await client.get(path, params={"form": "gif"})).status_code == 400
