"""Routes of models and releases. Needs the dependency `registry`.

Training and slicing are long work: the routes that start them belong to the app, which has jobs.
"""

from pathlib import Path

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from aimass_cloud.access import requires
from aimass_cloud.registry.graphs import MEDIA, Form, graph_file
from aimass_cloud.registry.service import Registry
from aimass_cloud.store.tables import ModelRow, ReleaseRow
from aimass_shared.manifest import Halves, decode
from aimass_shared.slices import SliceCost


class ModelView(msgspec.Struct, frozen=True):
    """A trained model; `created` is UTC ms, `parent` the id of the model it was trained from."""

    id: str
    name: str
    recipe: str
    parent: str
    parameters: int
    metrics: dict[str, object]
    created: int

    @classmethod
    def of(cls, row: ModelRow) -> "ModelView":
        """What callers may see of a row."""
        return cls(
            id=row.id,
            name=row.name,
            recipe=row.recipe,
            parent=row.parent,
            parameters=row.parameters,
            metrics=row.metrics,
            created=row.created,
        )


class SliceView(msgspec.Struct, frozen=True):
    """A slice of a release, and what it costs; of a cut one, how and what crosses."""

    name: str
    cost: SliceCost
    tolerance: float
    codec: str = ""
    halves: Halves | None = None


class ReleaseView(msgspec.Struct, frozen=True):
    """A signed release; `path` is its TUF target, `created` UTC ms."""

    id: str
    model: str
    channel: str
    path: str
    slices: tuple[SliceView, ...]
    created: int

    @classmethod
    def of(cls, row: ReleaseRow) -> "ReleaseView":
        """What callers may see of a row."""
        entries = decode(row.manifest).slices
        return cls(
            id=row.id,
            model=row.model,
            channel=row.channel,
            path=row.path,
            slices=tuple(
                SliceView(e.spec.name, e.cost, e.tolerance, e.codec, e.halves) for e in entries
            ),
            created=row.created,
        )


class NewReleaseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which sliced model to sign, for the devices of which channel."""

    model: str
    channel: str


class ModelsController(Controller):
    """Trained models."""

    path = "/api/v1/models"
    guards = (requires("model:read"),)
    tags = ("models",)

    @get()
    async def list_models(self, registry: NamedDependency[Registry]) -> list[ModelView]:
        """The newest models, newest first."""
        return [ModelView.of(row) for row in await registry.models()]

    @get("/{model:str}")
    async def get_model(
        self, registry: NamedDependency[Registry], model: FromPath[str]
    ) -> ModelView:
        """One model."""
        return ModelView.of(await registry.model(model))

    @get("/{model:str}/graph")
    async def get_graph(
        self,
        registry: NamedDependency[Registry],
        model: FromPath[str],
        form: FromQuery[Form] = "json",
    ) -> Response[bytes]:
        """The graph that a model learned: JSON, GraphML, or a picture (`form=png`)."""
        row = await registry.trained(model)
        graph = await graph_file(Path(row.directory), form)
        return Response(graph, media_type=MEDIA[form])


class ReleasesController(Controller):
    """Signed releases."""

    path = "/api/v1/releases"
    tags = ("releases",)

    @post(guards=[requires("release:write")])
    async def create_release(
        self, registry: NamedDependency[Registry], data: JSONBody[NewReleaseRequest]
    ) -> ReleaseView:
        """Sign the newest slices of a model, and publish them to a channel."""
        return ReleaseView.of(await registry.release_slices(data.model, data.channel))

    @get(guards=[requires("release:read")])
    async def list_releases(self, registry: NamedDependency[Registry]) -> list[ReleaseView]:
        """The newest releases, newest first."""
        return [ReleaseView.of(row) for row in await registry.releases()]

    @get("/{release:str}", guards=[requires("release:read")])
    async def get_release(
        self, registry: NamedDependency[Registry], release: FromPath[str]
    ) -> ReleaseView:
        """One release."""
        return ReleaseView.of(await registry.release(release))

    @get("/{release:str}/plans", guards=[requires("release:read")])
    async def get_plans(
        self, registry: NamedDependency[Registry], release: FromPath[str]
    ) -> Response[bytes]:
        """Every way to answer a request, measured: what `aimass slice plan` ranks."""
        return Response(await registry.plans(release), media_type="application/json")
