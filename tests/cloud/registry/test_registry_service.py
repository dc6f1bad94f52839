"""Models and releases in a real database, signed by a real repository."""

import hashlib
from pathlib import Path

import msgspec
import pytest
from tests.tiny_models import ALL, NAMES, RANKER, SPEC, Tiny, name_of

from aimass_cloud.registry import NewModel, Registry
from aimass_cloud.store import Blobs
from aimass_cloud.store.tables import ModelRow
from aimass_shared import manifest as manifests
from aimass_shared.errors import (
    ConflictError,
    MalformedMessageError,
    NotFoundError,
    RequestError,
    UnfitReleaseError,
)
from aimass_shared.fleet import Fleet, pack
from aimass_shared.manifest import Contract, SliceArtifact
from aimass_shared.moments import Moments
from aimass_shared.slices import SliceCost


def read(path: str) -> bytes:
    return Path(path).read_bytes()


async def add(registry: Registry, tmp_path: Path, parent: str = "") -> ModelRow:
    metrics: dict[str, object] = {"val_mse": 0.5}
    folder = tmp_path / "model"
    return await registry.add_model(
        NewModel("tep-monitor", "tep", 1000, metrics, str(folder), parent)
    )


async def test_models_have_ids_and_lineage(registry: Registry, tmp_path: Path) -> None:
    first = await add(registry, tmp_path)
    second = await add(registry, tmp_path, parent=first.id)
    assert first.id != second.id
    assert (await registry.model(second.id)).parent == first.id
    assert {row.id for row in await registry.models()} == {first.id, second.id}
    assert (await registry.model(first.id)).metrics == {"val_mse": 0.5}


async def test_unknown_names_are_said(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no-such-model"):
        await registry.model("no-such-model")
    with pytest.raises(NotFoundError):
        await registry.release("no-such-release")
    with pytest.raises(NotFoundError):
        await add(registry, tmp_path, parent="no-such-parent")
    with pytest.raises(MalformedMessageError):
        await registry.add_model(NewModel("a/b", "tep", 1, {}, "x"))


async def test_release_is_signed_listed_and_its_files_are_kept(
    registry: Registry,
    blobs: Blobs,
    contract: Contract,
    artifacts: list[SliceArtifact],
    tmp_path: Path,
) -> None:
    model = await add(registry, tmp_path)
    row = await registry.create_release(model.id, contract, artifacts, channel="stable")
    assert row.path == f"stable/tep-monitor/{row.id}.json"
    manifest = manifests.decode(row.manifest)
    assert manifest.release == row.id
    assert manifest.contract == contract
    assert [entry.spec for entry in manifest.slices] == [a.spec for a in artifacts]
    for entry, artifact in zip(manifest.slices, artifacts, strict=True):
        for ref, (role, path) in zip(entry.files, artifact.files, strict=True):
            assert ref.role == role
            assert blobs.path(ref.sha256).read_bytes() == read(path)
            assert ref.size == len(read(path))
    digest = hashlib.sha256(row.manifest).hexdigest()
    signed = registry._tuf.target(f"stable/tep-monitor/{digest}.{row.id}.json")
    assert signed == row.manifest
    assert [r.id for r in await registry.releases()] == [row.id]
    assert (await registry.release(row.id)).model == model.id


async def test_slices_are_remembered_until_they_are_released(
    registry: Registry, contract: Contract, artifacts: list[SliceArtifact], tmp_path: Path
) -> None:
    model = await add(registry, tmp_path)
    with pytest.raises(ConflictError, match="aimass slice"):
        await registry.release_slices(model.id, "stable")
    await registry.save_slices(model.id, contract, artifacts)
    row = await registry.release_slices(model.id, "stable")
    assert len(manifests.decode(row.manifest).slices) == len(artifacts)


def artifact_of(tiny: Tiny, folder: Path) -> SliceArtifact:
    tiny.write(folder)
    files = tuple((role, str(folder / NAMES[role])) for role in tiny.contents)
    return SliceArtifact(SPEC, SliceCost(100, 20, 1.0, 0.5), files, 0.01)


@pytest.mark.parametrize("tiny", ALL, ids=name_of)
async def test_a_slice_of_any_task_is_released_with_all_its_files(
    registry: Registry, blobs: Blobs, tmp_path: Path, tiny: Tiny
) -> None:
    model = await add(registry, tmp_path)
    artifact = artifact_of(tiny, tmp_path / "slice")
    await registry.save_slices(model.id, tiny.contract, [artifact])
    row = await registry.release_slices(model.id, "stable")
    manifest = manifests.decode(row.manifest)
    assert manifest.contract == tiny.contract
    for role, body in tiny.contents.items():
        assert blobs.path(manifest.slices[0].file(role).sha256).read_bytes() == body


async def test_a_slice_of_texts_is_not_released_without_a_vocabulary_that_can_be_used(
    registry: Registry, tmp_path: Path
) -> None:
    model = await add(registry, tmp_path)
    whole = artifact_of(RANKER, tmp_path / "slice")
    path = tmp_path / "slice" / "vocabulary.json"
    bare = msgspec.structs.replace(whole, files=whole.files[:2])
    with pytest.raises(RequestError, match="one each of model, selftest, vocabulary"):
        await registry.create_release(model.id, RANKER.contract, [bare], channel="stable")
    path.write_bytes(b'{"kind": "items"}')
    with pytest.raises(RequestError, match="vocabulary does not decode"):
        await registry.create_release(model.id, RANKER.contract, [whole], channel="stable")
    path.unlink()
    with pytest.raises(RequestError, match="is gone"):
        await registry.save_slices(model.id, RANKER.contract, [whole])
    assert not await registry.releases()


async def test_slices_of_another_version_are_told(
    registry: Registry, contract: Contract, artifacts: list[SliceArtifact], tmp_path: Path
) -> None:
    model = await add(registry, tmp_path)
    await registry.save_slices(model.id, contract, artifacts)
    path = Path(model.directory) / "slices.json"
    path.write_bytes(path.read_bytes().replace(b"val_error", b"val_mse"))
    with pytest.raises(ConflictError, match=r"of another version .* run `aimass slice"):
        await registry.release_slices(model.id, "stable")


async def test_what_is_no_release_leaves_no_trace(
    registry: Registry, contract: Contract, artifacts: list[SliceArtifact], tmp_path: Path
) -> None:
    model = await add(registry, tmp_path)
    first = artifacts[0]
    bare = msgspec.structs.replace(first, files=first.files[:1])
    gone = msgspec.structs.replace(first, files=(*first.files[1:], ("model", "/nowhere")))
    cases: list[tuple[str, list[SliceArtifact], str, type[Exception], str]] = [
        ("no-such-model", artifacts, "stable", NotFoundError, "no model"),
        (model.id, [], "stable", RequestError, "at least one slice"),
        (model.id, [first, first], "stable", ConflictError, "the same name"),
        (
            model.id,
            [bare],
            "stable",
            RequestError,
            "one each of model, selftest; a whole one may have one train",
        ),
        (model.id, [gone], "stable", RequestError, "is gone"),
        (model.id, artifacts, "a/b", MalformedMessageError, "channel"),
    ]
    for model_id, slices, channel, kind, says in cases:
        with pytest.raises(kind, match=says):
            await registry.create_release(model_id, contract, slices, channel=channel)
    odd = msgspec.structs.replace(contract, model="a/b")
    with pytest.raises(UnfitReleaseError):
        await registry.create_release(model.id, odd, artifacts, channel="stable")
    assert await registry.releases() == []
    with pytest.raises(NotFoundError):
        registry._tuf.metadata("1.channel-stable.json")


async def test_a_fleet_is_released_and_one_of_other_sensors_is_not(
    registry: Registry,
    contract: Contract,
    artifacts: list[SliceArtifact],
    blobs: Blobs,
    tmp_path: Path,
) -> None:
    model = await add(registry, tmp_path)
    path = tmp_path / "fleet.bin"
    files = (*artifacts[0].files, ("fleet", str(path)))
    sliced = [msgspec.structs.replace(artifacts[0], files=files)]
    path.write_bytes(pack(Fleet(Moments.empty(("B",), 3), 300.0, 20.0)))
    with pytest.raises(RequestError, match="other sensors"):
        await registry.create_release(model.id, contract, sliced, channel="stable")
    path.write_bytes(pack(Fleet(Moments.empty(("A",), 3), 300.0, 20.0)))
    row = await registry.create_release(model.id, contract, sliced, channel="stable")
    reference = manifests.decode(row.manifest).slices[0].file("fleet")
    assert blobs.path(reference.sha256).read_bytes() == path.read_bytes()
