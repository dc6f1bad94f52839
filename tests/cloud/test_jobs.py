import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import httpx
import pytest
from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.di import Provide
from litestar.exceptions import PermissionDeniedException
from litestar.handlers.base import BaseRouteHandler

from aimass_cloud.jobs import Jobs, Progress, jobs_router
from aimass_cloud.store import Store
from aimass_shared.errors import NotFoundError, TrainingFailedError


@pytest.fixture
async def jobs(store: Store) -> AsyncIterator[Jobs]:
    async with Jobs(store) as running:
        yield running


async def test_a_job_ends_with_its_result(jobs: Jobs) -> None:
    async def work(progress: Progress) -> Mapping[str, object]:
        progress(0.5, "half")
        return {"model": "m1", "loss": 0.25}

    job = await jobs.wait(await jobs.start("train", work))
    assert (job.kind, job.state, job.progress, job.message) == ("train", "succeeded", 1.0, "")
    assert job.result == {"model": "m1", "loss": 0.25}
    assert job.finished >= job.created > 0


async def test_progress_from_a_thread_is_seen_at_once(jobs: Jobs) -> None:
    go_on, reported = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work(progress: Progress) -> Mapping[str, object]:
        def compute() -> None:
            progress(7.0, "epoch 1")
            progress(0.25, "epoch 2")
            loop.call_soon_threadsafe(reported.set)
            go_on.wait(10)

        await asyncio.to_thread(compute)
        return {}

    name = await jobs.start("train", work)
    await asyncio.wait_for(reported.wait(), 10)
    job = await jobs.get(name)
    assert (job.state, job.progress, job.message, job.finished) == ("running", 0.25, "epoch 2", 0)
    go_on.set()
    assert (await jobs.wait(name)).state == "succeeded"


async def test_an_error_of_ours_is_told_with_its_code(jobs: Jobs) -> None:
    async def work(_progress: Progress) -> Mapping[str, object]:
        raise TrainingFailedError("the loss is not finite")

    job = await jobs.wait(await jobs.start("train", work))
    found = (job.state, job.code, job.message)
    assert found == ("failed", "training-failed", "the loss is not finite")


@pytest.mark.parametrize("result", [{"x": object()}, None])
async def test_a_defect_is_logged_and_not_told(
    jobs: Jobs, caplog: pytest.LogCaptureFixture, result: dict[str, object] | None
) -> None:
    async def work(_progress: Progress) -> Mapping[str, object]:
        if result is None:
            raise RuntimeError("password=hunter2")
        return result

    job = await jobs.wait(await jobs.start("train", work))
    assert (job.state, job.code) == ("failed", "internal")
    assert "hunter2" not in job.message
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR]


async def _for_ever(progress: Progress) -> Mapping[str, object]:
    progress(0.5, "half")
    await asyncio.Event().wait()
    return {}


async def test_stopping_says_what_did_not_end(
    store: Store, until: Callable[..., Awaitable[None]]
) -> None:
    async with Jobs(store) as jobs:
        name = await jobs.start("train", _for_ever)
        await until(lambda: jobs._steps[name].progress)
    job = await Jobs(store).get(name)
    assert (job.state, job.code) == ("failed", "job-interrupted")
    assert "50%" in job.message
    assert job.finished


async def test_stopping_before_the_first_step_is_recorded_too(store: Store) -> None:
    async with Jobs(store) as jobs:
        name = await jobs.start("train", _for_ever)
    assert (await Jobs(store).get(name)).code == "job-interrupted"


async def test_what_a_crash_left_running_is_failed_at_the_next_start(store: Store) -> None:
    crashed = Jobs(store)
    name = await crashed.start("train", _for_ever)
    async with Jobs(store) as jobs:
        job = await jobs.get(name)
    assert (job.state, job.code) == ("failed", "job-interrupted")
    await crashed.__aexit__(None, None, None)


async def test_an_unknown_job_is_not_found(jobs: Jobs) -> None:
    with pytest.raises(NotFoundError):
        await jobs.get("nobody")
    with pytest.raises(NotFoundError):
        await jobs.wait("nobody")


async def test_the_route_shows_a_job_behind_its_guard(
    jobs: Jobs, serve: Callable[[Litestar], Awaitable[str]]
) -> None:
    def guard(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        if "x-friend" not in connection.headers:
            raise PermissionDeniedException

    async def work(_progress: Progress) -> Mapping[str, object]:
        return {"model": "m1"}

    app = Litestar(
        [jobs_router(guard)],
        dependencies={"jobs": Provide(lambda: jobs, sync_to_thread=False)},
    )
    name = await jobs.start("slice", work)
    await jobs.wait(name)
    async with httpx.AsyncClient(base_url=await serve(app)) as http:
        path = f"/api/v1/jobs/{name}"
        assert (await http.get(path)).status_code == 403
        found = (await http.get(path, headers={"x-friend": "1"})).json()
    assert (found["id"], found["state"], found["result"]) == (name, "succeeded", {"model": "m1"})
