"""The slices of a model as people see them: over real HTTP, and typed as commands."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cloud.app.conftest import CONTRACT

from aimass_cloud.app.coordinator import Coordinator
from aimass_cloud.app.slice_views import boards_of
from aimass_cloud.cli import main
from aimass_cloud.fleet.measurements import DeviceMeasured
from aimass_cloud.registry import NewModel
from aimass_cloud.store.tables import DeviceRow
from aimass_shared.manifest import SliceArtifact
from aimass_shared.messages import Measurements, SliceMeasured
from aimass_shared.slices import Precision, SliceCost, SliceSpec

Say = Callable[..., Awaitable[tuple[int, str, str]]]


def artifact(folder: Path, width: float, precision: Precision, **cost: Any) -> SliceArtifact:  # noqa: ANN401  fields
    files = {"model": folder / "model.onnx", "selftest": folder / "selftest.npz"}
    for path in files.values():
        path.write_bytes(b"of no use here")
    given = {"model_bytes": 1000, "memory_mib": 20.0, "reference_ms": 1.0, "val_error": 0.5}
    return SliceArtifact(
        spec=SliceSpec(width, precision),
        cost=SliceCost(**{**given, **cost}),
        files=(("model", str(files["model"])), ("selftest", str(files["selftest"]))),
        tolerance=0.01,
    )


def measured(release: str, slice_: str, **of: Any) -> SliceMeasured:  # noqa: ANN401  fields
    given = {
        "model": "tiny",
        "board": "pi",
        "provider": "CPU",
        "runtime": "onnxruntime 1",
        "batch": 1,
        "runs": 10,
        "p50_ms": 4.0,
        "p99_ms": 5.0,
        "thread_ms": 4.0,
        "per_s": 250.0,
        "load_s": 0.1,
        "rss_mib": 60.0,
        "model_mib": 10.0,
        "at": 1,
    }
    return SliceMeasured(release=release, slice=slice_, **{**given, **of})


@pytest.fixture
async def models(parts: Coordinator, tmp_path: Path) -> tuple[str, str]:
    """A model and the child of it, both sliced; the child is released and was measured."""
    parent = await parts.registry.add_model(NewModel("tiny", "tep", 1, {}, str(tmp_path / "a")))
    child = await parts.registry.add_model(
        NewModel("tiny", "tep", 1, {}, str(tmp_path / "b"), parent=parent.id)
    )
    old = [artifact(tmp_path, 1.0, "fp32", val_error=0.6), artifact(tmp_path, 0.5, "fp32")]
    new = [
        artifact(tmp_path, 1.0, "fp32"),
        artifact(tmp_path, 0.25, "int8", model_bytes=100, reference_ms=0.2, val_error=0.55),
    ]
    await parts.registry.save_slices(parent.id, CONTRACT, old)
    await parts.registry.save_slices(child.id, CONTRACT, new)
    release = await parts.registry.release_slices(child.id, "stable")
    async with parts.store.session() as session:
        for device in ("one", "two"):
            row = DeviceRow(id=device, site="s", channel="stable", certificate="", enrolled=1)
            row.inventory = {}
            session.add(row)
    for device, p50_ms in (("one", 3.0), ("two", 5.0)):
        told = (measured(release.id, "w0.25-int8", p50_ms=p50_ms, energy_mj=2.0),)
        await parts.fleet.measurements.record(device, Measurements(measured=told))
    return parent.id, child.id


@pytest.fixture
def say(opened: tuple[Coordinator, str], data: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Type a command at this coordinator: exit code, what it printed, what it said beside it."""
    key = (data / "admin.key").read_text().strip()

    async def typed(*words: str) -> tuple[int, str, str]:
        line = ["slice", *words, "--url", opened[1], "--key", key]
        code = await asyncio.to_thread(main, line)
        out, err = capsys.readouterr()
        return code, out, err

    return typed


async def test_a_slice_is_shown_with_its_error_its_releases_and_every_board(
    admin: httpx.AsyncClient, models: tuple[str, str]
) -> None:
    answer = (await admin.get(f"/api/v1/models/{models[1]}/slices")).json()
    assert (answer["name"], answer["lineage"]) == ("tiny", [models[0]])
    full, quarter = answer["slices"]
    assert (full["slice"], full["error_change"], full["boards"]) == ("w1.00-fp32", 0, [])
    assert quarter["error_change"] == pytest.approx(0.1)
    assert len(quarter["releases"]) == 1
    (pi,) = quarter["boards"]
    assert (pi["board"], pi["devices"], pi["p50_ms"], pi["energy_mj"]) == ("pi", 2, 4.0, 2.0)


async def test_who_may_not_see_models_or_devices_sees_no_slices(
    nobody: httpx.AsyncClient, key: Callable[..., Any], models: tuple[str, str]
) -> None:
    path = f"/api/v1/models/{models[0]}/slices"
    for scopes in (("model:read",), ("fleet:read",)):
        assert (await nobody.get(path, headers=await key(*scopes))).status_code == 403
    both = await key("model:read", "fleet:read")
    assert (await nobody.get(path, headers=both)).status_code == 200


async def test_slices_are_listed_and_compared(
    say: Say, models: tuple[str, str], tmp_path: Path
) -> None:
    old, new = models
    code, out, _ = await say("list", new)
    assert code == 0
    assert "pi 4 ms" in out
    picture = tmp_path / "slices.png"
    code, out, err = await say("compare", new, "--json", "--png", str(picture))
    rows = {row["slice"]: row for row in json.loads(out)}
    assert (code, err.strip()) == (0, str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    quarter = rows["w0.25-int8"]
    assert (quarter["times smaller"], quarter["times faster"]) == ("10", "5")
    assert quarter["error change"] == "+10.0%"
    code, out, _ = await say("compare", new, old, "--json")
    rows = {row["slice"]: row for row in json.loads(out)}
    assert rows["w1.00-fp32"]["error change"] == "-16.7%"
    assert {name: row["only in"] for name, row in rows.items()} == {
        "w1.00-fp32": "",
        "w0.25-int8": new,
        "w0.50-fp32": old,
    }


async def test_what_cannot_be_compared_says_what_to_do(
    say: Say, parts: Coordinator, models: tuple[str, str], tmp_path: Path
) -> None:
    code, _, err = await say("compare", models[1], "--board", "orin")
    assert (code, "only on: pi; `aimass-edge bench` measures" in err) == (1, True)
    row = await parts.registry.add_model(NewModel("bare", "tep", 1, {}, str(tmp_path / "c")))
    code, _, err = await say("list", row.id)
    assert (code, f"run `aimass slice {row.id}` first" in err) == (1, True)
    await parts.registry.save_slices(row.id, CONTRACT, [artifact(tmp_path, 0.5, "fp32")])
    code, _, err = await say("compare", row.id)
    assert (code, "has no slice w1.00-fp32" in err) == (1, True)


def test_of_one_device_the_newest_counts_and_batches_of_one_window() -> None:
    def one(device: str, **of: Any) -> DeviceMeasured:  # noqa: ANN401  fields
        return DeviceMeasured(device, measured("r", "s", **of))

    (found,) = boards_of(
        [
            one("a", p50_ms=9.0, at=2),
            one("a", p50_ms=1.0, at=1),
            one("b", p50_ms=3.0, p99_ms=7.0),
            one("b", p50_ms=0.1, batch=8),
        ]
    )
    assert (found.devices, found.p50_ms, found.p99_ms, found.energy_mj) == (2, 6.0, 7.0, None)
