"""Routes that put parts together: long work, health. All other routes stand with their parts."""

from http import HTTPStatus

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from aimass_cloud.access import requires
from aimass_cloud.app.explanations import ExplainRequest, Explanation, explained
from aimass_cloud.app.importer import Importer, ImportOnnxRequest, SliceRequest
from aimass_cloud.app.workshop import (
    ImportRequest,
    Result,
    RoundsRequest,
    TrainRequest,
    Workshop,
)
from aimass_cloud.bridge import Bridge
from aimass_cloud.jobs import Jobs, Progress
from aimass_cloud.registry import Registry
from aimass_cloud.registry.api import ModelView


class Started(msgspec.Struct, frozen=True):
    """Long work that began; `GET /api/v1/jobs/{job}` follows it."""

    job: str


class Live(msgspec.Struct, frozen=True):
    """The process answers; of its parts this says nothing."""

    status: str = "live"


class Health(msgspec.Struct, frozen=True):
    """Whether the parts do their work."""

    status: str
    broker: bool


class WorkController(Controller):
    """Starting long work."""

    path = "/api/v1/jobs"
    tags = ("jobs",)
    status_code = HTTPStatus.ACCEPTED

    @post("/train", guards=[requires("model:write")], status_code=HTTPStatus.ACCEPTED)
    async def train(
        self,
        jobs: NamedDependency[Jobs],
        workshop: NamedDependency[Workshop],
        data: JSONBody[TrainRequest],
    ) -> Started:
        """Train a recipe's model."""
        return Started(await jobs.start("train", lambda report: workshop.train(data, report)))

    @post("/slice", guards=[requires("model:write")], status_code=HTTPStatus.ACCEPTED)
    async def slice(
        self,
        jobs: NamedDependency[Jobs],
        workshop: NamedDependency[Workshop],
        importer: NamedDependency[Importer],
        *,
        data: JSONBody[SliceRequest],
    ) -> Started:
        """Make the slices of a model, and measure their plans."""

        async def work(report: Progress) -> Result:
            again = await importer.found(data.model)
            if again is not None:
                return await importer.slice(again, data, report)
            return await workshop.slice(data, report)

        return Started(await jobs.start("slice", work))

    @post("/import", guards=[requires("model:write")], status_code=HTTPStatus.ACCEPTED)
    async def import_onnx(
        self,
        jobs: NamedDependency[Jobs],
        importer: NamedDependency[Importer],
        data: JSONBody[ImportOnnxRequest],
    ) -> Started:
        """Import a user's own ONNX model, whose files were put as blobs, and make its slices."""
        return Started(await jobs.start("import", lambda report: importer.take(data, report)))

    @post("/rounds", guards=[requires("round:write")], status_code=HTTPStatus.ACCEPTED)
    async def rounds(
        self,
        jobs: NamedDependency[Jobs],
        workshop: NamedDependency[Workshop],
        data: JSONBody[RoundsRequest],
    ) -> Started:
        """Run federated rounds over the devices that are online."""
        return Started(await jobs.start("rounds", lambda report: workshop.rounds(data, report)))


@post("/api/v1/models/import", guards=[requires("model:write")], tags=["models"])
async def import_model(
    workshop: NamedDependency[Workshop], data: JSONBody[ImportRequest]
) -> ModelView:
    """Register the model of a run that was trained elsewhere."""
    return ModelView.of(await workshop.import_model(data))


@post("/api/v1/models/{model:str}/explain", guards=[requires("model:read")], tags=["models"])
async def explain_model(
    registry: NamedDependency[Registry], model: FromPath[str], data: JSONBody[ExplainRequest]
) -> Explanation:
    """Explain an answer of the full model by its gradients or its graph, and say what it cost."""
    return await explained(registry, model, data)


@get("/health/live", tags=["health"])
async def live() -> Live:
    """The process answers."""
    return Live()


@get("/health/ready", tags=["health"])
async def ready(bridge: NamedDependency[Bridge]) -> Response[Health]:
    """All parts run: 200, or 503 while the fleet's broker is away."""
    status = HTTPStatus.OK if bridge.connected else HTTPStatus.SERVICE_UNAVAILABLE
    word = "ready" if bridge.connected else "waiting for the broker"
    return Response(Health(status=word, broker=bridge.connected), status_code=status)
