"""What is known of models and releases, and the making of a release. Bytes and keys are others'."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
from sqlalchemy import select

from aimass_cloud.models.files import write_whole
from aimass_cloud.registry.checking import check_slices
from aimass_cloud.registry.tuf import TufRepository
from aimass_cloud.store import Blobs, Store
from aimass_cloud.store.tables import ModelRow, ReleaseRow
from aimass_shared.errors import ConflictError, NotFoundError, RequestError
from aimass_shared.manifest import (
    Contract,
    FileRef,
    Manifest,
    Role,
    SliceArtifact,
    SliceEntry,
    decode,
    encode,
    target_path,
)
from aimass_shared.topics import check_segment

LISTED = 500
SLICES_FILE = "slices.json"
IMPORTED = "imported"
"""Recipe of a user's own model: an ONNX file, of which no network is known."""


class NewModel(msgspec.Struct, frozen=True):
    """A trained model as training describes it.

    Attributes:
        name: of the model, as predictions carry it. recipe: what it was trained by.
        parameters: how many. metrics: how well it does.
        directory: where its files are. parent: id of the model that it was trained from.
    """

    name: str
    recipe: str
    parameters: int
    metrics: dict[str, object]
    directory: str
    parent: str = ""


class SlicedModel(msgspec.Struct, frozen=True):
    """What slicing made of a model, as `slices.json` in the model's directory keeps it."""

    contract: Contract
    slices: tuple[SliceArtifact, ...]


class Registry:
    """Models and releases. `tuf` must be open."""

    def __init__(self, store: Store, blobs: Blobs, tuf: TufRepository) -> None:
        self._store = store
        self._blobs = blobs
        self._tuf = tuf
        self._on_release: list[Callable[[ReleaseRow], Awaitable[None]]] = []

    async def add_model(self, model: NewModel) -> ModelRow:
        """Register a trained model; it gets an id of its own.

        Raises:
            MalformedMessageError: the name cannot stand in a path.
            NotFoundError: there is no such parent.
        """
        check_segment(model.name, "model")
        if model.parent:
            await self.model(model.parent)
        row = ModelRow(
            id=_new_id(model.name),
            name=model.name,
            recipe=model.recipe,
            parent=model.parent,
            parameters=model.parameters,
            metrics=model.metrics,
            directory=model.directory,
            created=_now_ms(),
        )
        async with self._store.session() as session:
            session.add(row)
        return row

    async def models(self) -> Sequence[ModelRow]:
        """The newest models, newest first."""
        query = select(ModelRow).order_by(ModelRow.created.desc(), ModelRow.id).limit(LISTED)
        async with self._store.reading() as session:
            return (await session.scalars(query)).all()

    async def model(self, model: str) -> ModelRow:
        """A model by its id.

        Raises:
            NotFoundError: there is none of that id.
        """
        async with self._store.reading() as session:
            row = await session.get(ModelRow, model)
        if row is None:
            raise NotFoundError(f"there is no model {model!r}: see `aimass model list`")
        return row

    async def trained(self, model: str) -> ModelRow:
        """A model that a recipe made, with its network.

        Raises:
            NotFoundError: there is none of that id.
            RequestError: it was imported as ONNX.
        """
        row = await self.model(model)
        if row.recipe == IMPORTED:
            raise RequestError(
                f"model {model} was imported as ONNX: aimass runs it, and knows no network of it to"
                " train or to look into"
            )
        return row

    async def save_slices(
        self, model: str, contract: Contract, slices: Sequence[SliceArtifact]
    ) -> None:
        """Remember what slicing made, for `release_slices`; earlier slices are forgotten.

        Raises:
            NotFoundError: there is no such model.
            RequestError: a slice lacks a file, or its vocabulary is none.
            ConflictError: two slices are the same.
        """
        await asyncio.to_thread(check_slices, contract, slices)
        row = await self.model(model)
        body = msgspec.json.encode(SlicedModel(contract, tuple(slices)))
        await asyncio.to_thread(write_whole, Path(row.directory) / SLICES_FILE, body)

    async def sliced(self, model: str) -> SlicedModel:
        """What slicing made of a model last.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: the model was not sliced yet, or by another version.
        """
        row = await self.model(model)
        try:
            body = await asyncio.to_thread((Path(row.directory) / SLICES_FILE).read_bytes)
        except FileNotFoundError as error:
            raise ConflictError(
                f"model {model} has no slices yet: run `aimass slice {model}` first"
            ) from error
        try:
            return msgspec.json.decode(body, type=SlicedModel)
        except msgspec.DecodeError as error:
            raise ConflictError(
                f"the slices of {model} are of another version ({error}): run `aimass slice"
                f" {model}` again"
            ) from error

    async def release_slices(self, model: str, channel: str) -> ReleaseRow:
        """Sign what `save_slices` remembers; see `create_release` and `sliced`."""
        found = await self.sliced(model)
        return await self.create_release(model, found.contract, found.slices, channel=channel)

    async def create_release(
        self, model: str, contract: Contract, slices: Sequence[SliceArtifact], *, channel: str
    ) -> ReleaseRow:
        """Keep the files of the slices, sign their manifest for a channel, publish it.

        Args:
            model: id of the model that the slices are of.
            contract: what the slices need and give.
            slices: as slicing made them; their files are copied.
            channel: devices of this channel may run the release.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: two slices are the same.
            RequestError: there are no slices, a file of one is gone, or its vocabulary is none.
        """
        check_segment(channel, "channel")
        await self.model(model)
        await asyncio.to_thread(check_slices, contract, slices)
        entries = [await asyncio.to_thread(self._keep, artifact) for artifact in slices]
        release = _new_id("r")
        manifest = Manifest(release, contract.model, contract, tuple(entries), created=_now_ms())
        row = ReleaseRow(
            id=release,
            model=model,
            channel=channel,
            path=target_path(channel, contract.model, release),
            manifest=encode(manifest),
            created=manifest.created,
        )
        # Signed first: a release that is only signed runs nowhere, one that is only listed fails.
        await asyncio.to_thread(self._tuf.publish, channel, row.path, row.manifest)
        async with self._store.session() as session:
            session.add(row)
        for listener in self._on_release:
            await listener(row)
        return row

    def on_release(self, listener: Callable[[ReleaseRow], Awaitable[None]]) -> None:
        """Hear of every release after it is signed and listed."""
        self._on_release.append(listener)

    async def releases(self) -> Sequence[ReleaseRow]:
        """The newest releases, newest first."""
        query = select(ReleaseRow).order_by(ReleaseRow.created.desc(), ReleaseRow.id).limit(LISTED)
        async with self._store.reading() as session:
            return (await session.scalars(query)).all()

    async def release(self, release: str) -> ReleaseRow:
        """A release by its id.

        Raises:
            NotFoundError: there is none of that id.
        """
        async with self._store.reading() as session:
            row = await session.get(ReleaseRow, release)
        if row is None:
            raise NotFoundError(f"there is no release {release!r}: see `aimass release list`")
        return row

    async def plans(self, release: str) -> bytes:
        """The plans of a release: a `aimass_shared.planning.ProfileSet` as JSON.

        Raises:
            NotFoundError: there is no such release, or it carries none.
        """
        row = await self.release(release)
        for entry in decode(row.manifest).slices:
            if entry.has("plans"):
                path = self._blobs.path(entry.file("plans").sha256)
                return await asyncio.to_thread(path.read_bytes)
        raise NotFoundError(f"release {release} carries no plans: slice its model again")

    async def refresh_timestamp(self) -> list[str]:
        """Sign again what is due; call it often (it is cheap), at least every hour."""
        return await asyncio.to_thread(self._tuf.refresh_timestamp)

    def _keep(self, artifact: SliceArtifact) -> SliceEntry:
        return SliceEntry(
            spec=artifact.spec,
            cost=artifact.cost,
            files=tuple(self._keep_file(role, Path(path)) for role, path in artifact.files),
            tolerance=artifact.tolerance,
            tolerances=artifact.tolerances,
            latency_ms=artifact.latency_ms,
            codec=artifact.codec,
            halves=artifact.halves,
        )

    def _keep_file(self, role: Role, path: Path) -> FileRef:
        if not path.is_file():
            raise RequestError(f"the {role} file {path.name} is gone: slice the model again")
        sha256 = self._blobs.put_file(path)
        return FileRef(role, path.name, sha256, self._blobs.size(sha256))


def _new_id(prefix: str) -> str:
    """An id that sorts by time and is never used twice."""
    return f"{prefix[:32]}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
