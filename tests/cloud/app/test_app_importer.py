"""Importing an ONNX model over the API: blobs, the job, slices made again, and what is refused."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests import graphs

from aimass_cloud.admin import Admin, ApiError
from aimass_cloud.app.coordinator import Coordinator
from aimass_shared.manifest import decode

Key = Callable[..., Awaitable[dict[str, str]]]


async def put(client: httpx.AsyncClient, content: bytes) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    answer = await client.put(f"/blobs/{sha256}", content=content)
    assert answer.status_code == 201, answer.text
    return sha256


async def run(client: httpx.AsyncClient, kind: str, body: dict[str, Any]) -> dict[str, Any]:
    admin = Admin(client)
    return await admin.wait(await admin.start(kind, body))


def archive(folder: Path, **arrays: Any) -> bytes:  # noqa: ANN401  # arrays
    np.savez(folder / "samples.npz", **arrays)
    return (folder / "samples.npz").read_bytes()


async def test_a_model_is_imported_and_sliced_again_and_what_is_none_leaves_nothing(
    admin: httpx.AsyncClient, parts: Coordinator, data: Path, tmp_path: Path
) -> None:
    graphs.with_files(graphs.late_input(), tmp_path / "late.onnx")
    files = {
        name: await put(admin, (tmp_path / name).read_bytes())
        for name in ("late.onnx", "weights.bin")
    }
    random = np.random.default_rng(0)
    given = {one: random.standard_normal((6, 8)).astype(np.float32) for one in ("values", "mask")}
    samples = await put(admin, archive(tmp_path, **given))
    body = {"name": "late", "graph": "late.onnx", "files": files, "samples": samples, "cuts": 2}
    body |= {"classes": ["cpu"]}
    made, _ = await asyncio.gather(run(admin, "import", body), _no_model(admin))
    assert [path.name[:5] for path in (data / "imports").iterdir()] == ["late-"]
    assert made["metrics"]["samples"] == 6
    assert [one["name"] for one in made["inputs"]] == ["values", "mask"]
    row = await parts.registry.model(made["model"])
    assert (row.recipe, row.name) == ("imported", "late")
    assert Path(row.directory).parent == data / "imports"
    again = await run(admin, "slice", {"model": row.id, "cuts": 0, "classes": ["cpu"]})
    names = [one["slice"] for one in again["slices"]]
    assert names[0] == "w1.00-fp32"
    assert any("-cut-" in one["slice"] for one in made["slices"])
    assert not any("-cut-" in name for name in names)
    release = (
        await admin.post("/api/v1/releases", json={"model": row.id, "channel": "stable"})
    ).json()
    assert [one["name"] for one in release["slices"]] == names
    manifest = decode((await parts.registry.release(release["id"])).manifest)
    assert manifest.contract.task == "other"
    assert parts.pool.models() == ["late"]
    plans = (await admin.get(f"/api/v1/releases/{release['id']}/plans")).json()
    assert {one["candidate"]["place"] for one in plans["profiles"]} == {"edge", "cloud"}
    with pytest.raises(ApiError, match="imported as ONNX") as caught:
        await run(admin, "rounds", {"kind": "train", "model": row.id})
    assert caught.value.code == "request"


async def _no_model(client: httpx.AsyncClient) -> None:
    files = {"m.onnx": await put(client, b"\x08\x01nothing"), "w.bin": await put(client, b"w")}
    with pytest.raises(ApiError, match="no valid ONNX model") as caught:
        await run(client, "import", {"name": "m", "graph": "m.onnx", "files": files})
    assert caught.value.code == "model-load-failed"


GONE = "0" * 64


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"files": {"m.onnx": GONE}}, "not-found", "no blob"),
        ({"graph": "n.onnx"}, "request", "none of the files"),
        ({"files": {"../m.onnx": GONE}}, "request", "is no name"),
        ({"files": {"/m.onnx": GONE}}, "request", "is no name"),
        ({"files": {"a//m.onnx": GONE}}, "request", "is no name"),
        ({"files": {"a\\m.onnx": GONE}}, "request", "is no name"),
        ({"files": {"m\n.onnx": GONE}}, "request", "is no name"),
        ({"name": "a/b"}, "malformed-message", "model"),
    ],
)
async def test_an_order_that_leads_elsewhere_is_refused(
    admin: httpx.AsyncClient, data: Path, change: dict[str, Any], code: str, said: str
) -> None:
    content = graphs.mobilenet().SerializeToString()
    body = {"name": "m", "graph": "m.onnx", "files": {"m.onnx": await put(admin, content)}}
    with pytest.raises(ApiError, match=said) as caught:
        await run(admin, "import", body | change)
    assert caught.value.code == code
    assert not list((data / "imports").glob("*"))


async def test_an_order_out_of_bounds_is_the_callers_mistake(
    admin: httpx.AsyncClient, nobody: httpx.AsyncClient, key: Key
) -> None:
    body = {"name": "m", "graph": "m.onnx", "files": {"m.onnx": GONE}}
    changes: list[dict[str, Any]] = [
        {"cuts": 17},
        {"cuts": -1},
        {"sizes": {"n": 0}},
        {"files": {}},
        {"other": 1},
    ]
    for change in changes:
        answer = await admin.post("/api/v1/jobs/import", json=body | change)
        assert answer.status_code == 400, change
    assert (await nobody.post("/api/v1/jobs/import", json=body)).status_code == 401
    reader = await key("model:read")
    answer = await nobody.post("/api/v1/jobs/import", json=body, headers=reader)
    assert answer.status_code == 403


def test_what_a_crash_left_is_swept_at_the_next_start(parts: Coordinator, data: Path) -> None:
    for name, files in {"half": ("unfinished", "order.json"), "whole": ("order.json",)}.items():
        (data / "imports" / name).mkdir(parents=True)
        for file in files:
            (data / "imports" / name / file).touch()
    parts.importer.sweep()
    assert [path.name for path in (data / "imports").iterdir()] == ["whole"]


async def test_a_file_is_uploaded_in_pieces_and_only_as_it_is(
    admin: httpx.AsyncClient, parts: Coordinator, tmp_path: Path
) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 4096)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    await Admin(admin).upload(path, sha256)
    assert parts.blobs.size(sha256) == 1 << 20
    with pytest.raises(ApiError) as caught:
        await Admin(admin).upload(path, GONE)
    assert caught.value.code == "bad-digest"
