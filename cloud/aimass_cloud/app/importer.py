"""A user's own ONNX model: from uploaded blobs to a registered model with slices.

Nothing of it is parsed here: that is done in a process of its own (`slicing.isolating`).
"""

import asyncio
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from aimass_cloud.config import SlicingSettings
from aimass_cloud.jobs import Progress
from aimass_cloud.models.files import refused, write_whole
from aimass_cloud.registry import NewModel, Registry
from aimass_cloud.registry.service import IMPORTED as RECIPE
from aimass_cloud.slicing.isolating import (
    IMPORTED,
    MOST_CUTS,
    ORDER,
    SOURCE,
    Imported,
    Limits,
    Order,
    isolated,
)
from aimass_cloud.slicing.pareto import DeviceClass
from aimass_cloud.store import Blobs
from aimass_cloud.store.tables import ModelRow
from aimass_shared.errors import RequestError
from aimass_shared.manifest import SliceArtifact
from aimass_shared.topics import check_segment

MOST_FILES = 256
SAMPLES = "samples.npz"
LONGEST = 255
AT_ONCE = 2
"""Models that are looked at together: each may take as much memory as the settings allow."""
UNFINISHED = "unfinished"

Result = dict[str, object]
Cuts = Annotated[int, msgspec.Meta(ge=0, le=MOST_CUTS)]
Classes = Annotated[tuple[DeviceClass, ...], msgspec.Meta(min_length=1)]
Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class ImportOnnxRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/v1/jobs/import`: all files are blobs that were put before.

    Attributes:
        name: of the model. graph: its ONNX file among `files`.
        files: SHA-256 by name, as the ONNX file names those beside it.
        samples: SHA-256 of an `.npz` file with an array for each input; "" for none.
        labels: names of the classes, in the order of the last axis of the first output.
        sizes: of symbolic axes, such as a length. cuts: cut slices, at most.
        classes: of devices that number formats are tried for.
    """

    name: str
    graph: str
    files: Annotated[dict[str, str], msgspec.Meta(min_length=1, max_length=MOST_FILES)]
    samples: str = ""
    labels: tuple[str, ...] = ()
    sizes: dict[str, Size] = {}
    cuts: Cuts = 3
    classes: Classes = ("cpu", "tensorrt")


class SliceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/v1/jobs/slice`.

    Attributes:
        cuts: the number of cut slices, at most.
        budget: what a number format may lose against float, in the recipe's measure; None = 0.005,
            or 2 % of the error where that is more. It is not for models that were imported.
        classes: of devices that slices are for.
    """

    model: str
    cuts: Cuts = 0
    budget: Annotated[float, msgspec.Meta(ge=0)] | None = None
    classes: Classes = ("cpu", "tensorrt")


class Importer:
    """Imports models of users. `data_dir` keeps them."""

    def __init__(
        self, data_dir: Path, registry: Registry, blobs: Blobs, *, settings: SlicingSettings
    ) -> None:
        self._folder = data_dir / "imports"
        self._registry = registry
        self._blobs = blobs
        self._limits = Limits(settings.deadline_s, settings.memory_mib)
        self._few = asyncio.Semaphore(AT_ONCE)

    def sweep(self) -> None:
        """Remove what a crash left half-made; only at start, when nothing is being imported."""
        for mark in self._folder.glob(f"*/{UNFINISHED}"):
            shutil.rmtree(mark.parent, ignore_errors=True)

    async def take(self, request: ImportOnnxRequest, progress: Progress) -> Result:
        """Import a model and make its slices; it is registered when all of it is there.

        Raises:
            NotFoundError: a blob is not there.
            RequestError: a file's name leads elsewhere, or there is no graph of that name.
            AimassError: the model cannot be served or shown to work; see `isolated`.
        """
        check_segment(request.name, "model")
        order = _order(request)
        folder = self._folder / f"{request.name[:32]}-{secrets.token_hex(8)}"
        try:
            await asyncio.to_thread(self._staged, folder, request, order)
            found = await self._made(folder, progress)
            await asyncio.to_thread((folder / UNFINISHED).unlink)
            row = await self._registry.add_model(
                NewModel(
                    name=request.name,
                    recipe=RECIPE,
                    parameters=found.parameters,
                    metrics=found.metrics,
                    directory=str(folder),
                )
            )
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        return await self._saved(row, found)

    async def found(self, model: str) -> ModelRow | None:
        """A model that was imported; None of a recipe's.

        Raises:
            NotFoundError: there is no such model.
        """
        row = await self._registry.model(model)
        return row if row.recipe == RECIPE else None

    async def slice(self, row: ModelRow, request: SliceRequest, progress: Progress) -> Result:
        """Make the slices of a model that was imported again, with other cuts or for others.

        Raises:
            AimassError: as `isolated`.
        """
        folder = Path(row.directory)
        path = folder / ORDER
        order = msgspec.json.decode(await asyncio.to_thread(path.read_bytes), type=Order)
        order = msgspec.structs.replace(order, cuts=request.cuts, classes=request.classes)
        await asyncio.to_thread(write_whole, path, msgspec.json.encode(order))
        return await self._saved(row, await self._made(folder, progress))

    async def _made(self, folder: Path, progress: Progress) -> Imported:
        progress(0.0, "waiting for its turn")
        async with self._few:
            await isolated(folder, self._limits, progress)
        raw = await asyncio.to_thread((folder / IMPORTED).read_bytes)
        return msgspec.json.decode(raw, type=Imported)

    async def _saved(self, row: ModelRow, found: Imported) -> Result:
        await self._registry.save_slices(row.id, found.contract, found.slices)
        return {
            "model": row.id,
            "inputs": msgspec.to_builtins(found.contract.inputs),
            "outputs": msgspec.to_builtins(found.contract.outputs),
            "metrics": found.metrics,
            "slices": [described(artifact) for artifact in found.slices],
        }

    def _staged(self, folder: Path, request: ImportOnnxRequest, order: Order) -> None:
        """Copy the blobs to where the ONNX file looks for them."""
        source = folder / SOURCE
        files = {**request.files, **({order.samples: request.samples} if order.samples else {})}
        paths = {name: self._blobs.path(sha256) for name, sha256 in files.items()}
        write_whole(folder / UNFINISHED, b"")
        for name, blob in paths.items():
            place = source / name
            with refused(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                # A copy: onnx refuses weights in a file that has another name too.
                shutil.copyfile(blob, place)
        write_whole(folder / ORDER, msgspec.json.encode(order))


def described(artifact: SliceArtifact) -> Result:
    """A slice in the result of a job."""
    cost, halves = artifact.cost, artifact.halves
    told: Result = {
        "slice": artifact.spec.name,
        "width": artifact.spec.width,
        "precision": artifact.spec.precision,
        "bytes": cost.model_bytes,
        "memory_mib": cost.memory_mib,
        "p50_ms": cost.reference_ms,
        "val_error": cost.val_error,
    }
    if halves is None:
        return told
    return {**told, "codec": artifact.codec, "max_abs_error": halves.max_abs_error}


def _order(request: ImportOnnxRequest) -> Order:
    for name in request.files:
        _check_name(name)
    if request.graph not in request.files:
        raise RequestError(f"the graph {request.graph!r} is none of the files")
    samples = _free_name(request.files) if request.samples else ""
    return Order(
        name=request.name,
        graph=request.graph,
        samples=samples,
        labels=request.labels,
        sizes=dict(request.sizes),
        cuts=request.cuts,
        classes=request.classes,
    )


def _check_name(name: str) -> None:
    """A relative path that stays below its folder."""
    parts = name.split("/")
    odd = "\\" in name or not name.isprintable() or len(name) > LONGEST
    if odd or any(part in {"", ".", ".."} for part in parts):
        raise RequestError(f"{name!r} is no name of a file beside the model")


def _free_name(files: Mapping[str, str]) -> str:
    name = SAMPLES
    while name in files:
        name = f"_{name}"
    return name
