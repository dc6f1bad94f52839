"""The Litestar application over a running coordinator, with the inference protocol in front."""

from collections.abc import Mapping
from typing import Any

from litestar import Litestar, asgi
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.types import Receive, Scope, Send

from aimass_cloud.access import (
    EXCEPTION_HANDLERS,
    AccessMiddleware,
    KeysController,
    authorize_scope,
    requires,
)
from aimass_cloud.app.api import WorkController, explain_model, import_model, live, ready
from aimass_cloud.app.coordinator import Coordinator
from aimass_cloud.app.slice_views import slices_of_model
from aimass_cloud.federation.api import RoundsController
from aimass_cloud.fleet import EnrollController, FleetController, get_ca
from aimass_cloud.jobs import jobs_router
from aimass_cloud.registry import (
    BlobsController,
    ModelsController,
    ReleasesController,
    TufController,
)
from aimass_cloud.rollout import RolloutsController
from aimass_shared import __version__
from aimass_shared.inference import InferenceApp


def make_app(coordinator: Coordinator) -> Litestar:
    """All routes of a coordinator."""
    settings = coordinator.settings.http
    inference = InferenceApp(
        coordinator.pool,
        max_body_bytes=settings.max_body_bytes,
        authorize=_may_infer,
    )

    @asgi("/v2", is_mount=True, copy_scope=True)
    async def infer(scope: Scope, receive: Receive, send: Send) -> None:
        await inference(scope, receive, send)

    middleware = AccessMiddleware(coordinator.keys, coordinator.tokens, coordinator.attempts)
    return Litestar(
        route_handlers=[
            infer,
            live,
            ready,
            get_ca,
            EnrollController,
            FleetController,
            KeysController,
            WorkController,
            explain_model,
            import_model,
            slices_of_model,
            jobs_router(requires("model:read")),
            ModelsController,
            ReleasesController,
            RolloutsController,
            RoundsController,
            TufController,
            BlobsController,
        ],
        dependencies={name: _given(part) for name, part in coordinator.dependencies.items()},
        middleware=[middleware],
        exception_handlers=EXCEPTION_HANDLERS,
        request_max_body_size=settings.max_body_bytes,
        state=State({"max_blob_bytes": settings.max_blob_bytes}),
        logging_config=None,
        openapi_config=OpenAPIConfig(title="aimass", version=__version__),
    )


def _may_infer(scope: Mapping[str, Any]) -> None:
    authorize_scope(scope, "infer")


def _given(part: object) -> Provide:
    """A dependency that is there already."""

    def provide() -> Any:  # noqa: ANN401  each name is another type
        return part

    return Provide(provide, sync_to_thread=False)
