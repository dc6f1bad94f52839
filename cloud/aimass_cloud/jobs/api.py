"""The route that shows a job. Needs the dependency `jobs`.

Who may see jobs is the app's choice, as scopes are a sibling's matter: it passes the guard, so
the route cannot be mounted without one.
"""

from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import Guard

from aimass_cloud.jobs.service import Job, Jobs


@get("/{job:str}", tags=["jobs"])
async def get_job(jobs: NamedDependency[Jobs], job: FromPath[str]) -> Job:
    """A job: its state, progress and, at the end, its result or error."""
    return await jobs.get(job)


def jobs_router(guard: Guard) -> Router:
    """`GET /api/v1/jobs/{id}` behind a guard, such as `requires("model:read")`."""
    return Router("/api/v1/jobs", route_handlers=[get_job], guards=[guard])
