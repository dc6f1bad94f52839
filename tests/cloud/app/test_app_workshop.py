"""Long work that cannot be done: each job ends with one clear line and a code."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from aimass_cloud.admin import Admin, ApiError
from aimass_cloud.app.coordinator import Coordinator
from aimass_cloud.models.contract import contract_for
from aimass_cloud.models.samples import Part, Samples
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_cloud.registry import NewModel
from aimass_shared.manifest import Sensor

PART = Part({"values": np.zeros((2, 12, 1), np.float32)}, {})
MODEL = TrainedModel(
    ModelInfo(
        "tiny-1",
        "sensor-graph",
        "",
        0,
        {},
        contract_for("tiny", (Sensor("a", "%", "continuous"),), step_ms=1, window=12, horizon=3),
        {"val_mse": 0.5},
        1,
    ),
    {"w": np.ones(1, np.float32)},
    {},
    Samples(PART, PART, {}),
)

NO_TORCH = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnxscript"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


async def _fails(admin: httpx.AsyncClient, kind: str, body: dict[str, object]) -> str:
    """Start a job that fails; what it says."""
    client = Admin(admin)
    with pytest.raises(ApiError) as caught:
        await client.wait(await client.start(kind, body))
    return str(caught.value)


async def test_rounds_need_devices(admin: httpx.AsyncClient) -> None:
    said = await _fails(admin, "rounds", {"kind": "statistics"})
    assert said == "no device is online: see `aimass device list` [no-clients]"
    assert (await admin.get("/api/v1/rounds")).json() == []


@pytest.mark.parametrize(
    ("kind", "body", "hint"),
    [
        ("slice", {"model": "m"}, "no model 'm'"),
        ("train", {"recipe": "bread"}, "no recipe 'bread'; there are: sensor-graph"),
        ("train", {"base": "stat-0"}, "no statistics run 'stat-0'"),
        ("rounds", {"kind": "train", "model": "m"}, "no model 'm'"),
        ("rounds", {"kind": "statistics", "recipe": "bread"}, "no recipe 'bread'"),
    ],
)
async def test_what_is_not_there_is_named(
    admin: httpx.AsyncClient, kind: str, body: dict[str, object], hint: str
) -> None:
    said = await _fails(admin, kind, body)
    assert hint in said
    assert said.endswith(" [not-found]")


async def test_a_base_cannot_leave_its_directory(admin: httpx.AsyncClient) -> None:
    said = await _fails(admin, "train", {"base": "../keys/root"})
    assert said.endswith(" [malformed-message]")


@pytest.mark.parametrize(
    ("body", "code", "hint"),
    [
        ({"data": "/etc"}, "invalid-setting", "training.data_roots"),
        ({"data": "/etc"}, "invalid-setting", "aimass train --data PATH --out DIRECTORY"),
        ({"config": {"data": "s3://bucket/x"}}, "invalid-setting", "s3://bucket/x is not below"),
        ({"config": {"step": 3}}, "unknown-setting", "did you mean `steps`"),
        ({"config": {"optimizer": {"rate": 0}}}, "invalid-setting", "`optimizer.rate`"),
        ({"size": "huge"}, "invalid-setting", "one of 'tiny', 'base', 'large', 'xl'"),
    ],
)
async def test_a_training_that_may_not_be_is_refused(
    admin: httpx.AsyncClient, body: dict[str, object], code: str, hint: str
) -> None:
    said = await _fails(admin, "train", body)
    assert hint in said
    assert said.endswith(f" [{code}]")


async def test_a_field_of_a_wrong_type_is_the_callers_mistake(admin: httpx.AsyncClient) -> None:
    for body in ({"data": 3}, {"seed": "x"}, {"config": 1}):
        assert (await admin.post("/api/v1/jobs/train", json=body)).status_code == 400


async def test_a_model_trained_elsewhere_is_registered(
    admin: httpx.AsyncClient, data: Path, tmp_path: Path
) -> None:
    run = data / "data" / "run"
    MODEL.save(run / "model")
    client = Admin(admin)
    row = await client.call("POST", "/api/v1/models/import", {"directory": str(run)})
    assert (row["recipe"], row["parameters"]) == ("sensor-graph", 1)
    shutil.rmtree(run)
    shown = await client.call("GET", f"/api/v1/models/{row['id']}")
    assert shown["metrics"] == {"val_mse": 0.5}
    for directory, code in (
        (run, "not-found"),
        (tmp_path, "invalid-setting"),
        ("", "invalid-setting"),
    ):
        with pytest.raises(ApiError) as caught:
            await client.call("POST", "/api/v1/models/import", {"directory": str(directory)})
        assert caught.value.code == code


async def test_a_model_whose_files_are_gone_or_damaged(
    admin: httpx.AsyncClient, parts: Coordinator, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    row = await parts.registry.add_model(NewModel("tiny", "tep", 1, {}, str(folder)))
    assert (await _fails(admin, "slice", {"model": row.id})).endswith(" [not-found]")
    folder.mkdir()
    (folder / "model.json").write_bytes(b"{")
    (folder / "arrays.safetensors").write_bytes(b"")
    assert (await _fails(admin, "slice", {"model": row.id})).endswith(" [state-corrupt]")


async def test_a_model_without_sensors_is_trained_by_no_device(
    admin: httpx.AsyncClient, parts: Coordinator, tmp_path: Path
) -> None:
    contract = msgspec.structs.replace(MODEL.info.contract, sensors=(), task="classify")
    info = msgspec.structs.replace(MODEL.info, contract=contract, recipe="image")
    replace(MODEL, info=info).save(tmp_path / "m")
    new = NewModel("tiny", "image", 1, {}, str(tmp_path / "m"))
    row = await parts.registry.add_model(new)
    said = await _fails(admin, "rounds", {"kind": "train", "model": row.id})
    assert said.startswith("models of image learn nothing on devices")


async def test_a_model_without_slices_is_not_released(
    admin: httpx.AsyncClient, parts: Coordinator, tmp_path: Path
) -> None:
    row = await parts.registry.add_model(NewModel("tiny", "tep", 1, {}, str(tmp_path)))
    client = Admin(admin)
    with pytest.raises(ApiError, match=f"run `aimass slice {row.id}` first") as caught:
        await client.release(row.id)
    assert (caught.value.code, caught.value.status) == ("conflict", 409)
    assert (await admin.get("/api/v1/releases")).json() == []
    with pytest.raises(ApiError) as caught:
        await client.release("nothing")
    assert caught.value.code == "not-found"
    with pytest.raises(ApiError) as caught:
        await client.rollout("nothing")
    assert caught.value.code == "not-found"


async def test_no_field_of_a_request_has_the_name_of_a_part(
    nobody: httpx.AsyncClient, parts: Coordinator
) -> None:
    """Litestar would take a wrong value in it for a defect of ours: 500 instead of 400."""
    schema = (await nobody.get("/schema/openapi.json")).json()
    fields: set[str] = set()
    for methods in schema["paths"].values():
        for operation in methods.values():
            fields |= {one["name"] for one in operation.get("parameters", [])}
            for content in operation.get("requestBody", {}).get("content", {}).values():
                name = content["schema"].get("$ref", "").rpartition("/")[2]
                fields |= set(schema["components"]["schemas"].get(name, {}).get("properties", {}))
    assert {"rounds", "seed", "site", "device", "run"} <= fields
    assert fields & parts.dependencies.keys() == set()


def _python(code: str, tmp_path: Path) -> str:
    """Run code in a fresh interpreter; its standard output."""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cloud")],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def test_a_coordinator_starts_without_what_only_training_and_rounds_need(tmp_path: Path) -> None:
    code = (
        "import sys, aimass_cloud.app, aimass_cloud.cli, aimass_cloud.app.server\n"
        "heavy = {'torch', 'flwr', 'onnx', 'onnxscript', 'torch_geometric', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert _python(code, tmp_path).strip() == "[]"


def test_without_torch_it_serves_and_training_says_what_to_install(tmp_path: Path) -> None:
    code = f"""{NO_TORCH}
import asyncio, json
from pathlib import Path
import httpx
from aimass_cloud.admin import Admin, ApiError
from aimass_cloud.app.coordinator import running
from aimass_cloud.app.server import listen, listening
from aimass_cloud.config import CloudSettings, HttpSettings, MqttSettings
from aimass_cloud.registry import NewModel

settings = CloudSettings(
    data_dir=sys.argv[1], http=HttpSettings(port=0), mqtt=MqttSettings(url="mqtt://127.0.0.1:1")
)

async def main():
    told = []
    with listen(settings.http) as listener:
        async with running(settings) as parts, listening(parts, listener) as url:
            key = Path(sys.argv[1], "admin.key").read_text().strip()
            async with Admin.connect(url, key) as admin:
                for _ in range(2):
                    try:
                        await admin.wait(await admin.start("train", {{}}))
                    except ApiError as error:
                        told.append(str(error))
                told.append(await admin.call("GET", "/v2"))
    print(json.dumps(told))

asyncio.run(main())
"""
    first, second, server = msgspec.json.decode(_python(code, tmp_path))
    assert first == 'this needs torch: pip install "aimass[cloud,train]" [missing-extra]'
    assert second == first
    assert server["name"] == "aimass"
