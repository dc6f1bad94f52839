"""Hand-off over real HTTP: to a cloud that answers, is slow, dead, trickles or talks nonsense."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import httpx
import numpy as np
import pytest

from aimass_edge.config import BoardSettings, CapacitySettings, HandoffSettings
from aimass_edge.handoff import Handoff
from aimass_edge.predict import Predictor
from aimass_shared.errors import (
    AimassError,
    CloudUnavailableError,
    InvalidSettingError,
    StateCorruptError,
)
from aimass_shared.inference import InferRequest, WantedOutput

Make = Callable[..., Any]
Until = Callable[..., Awaitable[None]]
CloudServer: TypeAlias = Any  # of conftest, which cannot be imported from
SETTINGS = HandoffSettings(failures_to_open=2, retry_after_ms=100)
# Longer than any of these answers takes on a busy machine, shorter than a slow cloud's.
BUDGET_MS = 10_000.0


@asynccontextmanager
async def handing_off(cloud: CloudServer, token: str = "") -> AsyncIterator[Handoff]:
    async with Handoff(cloud.url, SETTINGS, bearer=lambda: token) as handoff:
        yield handoff


async def test_the_cloud_answers(cloud: CloudServer, make_request: Make) -> None:
    async with handing_off(cloud, "secret") as handoff:
        request: InferRequest = make_request(2.0, batch=3, outputs=(WantedOutput("score"),))
        answer = await handoff.infer(request, BUDGET_MS)
        np.testing.assert_array_equal(answer.outputs["score"], [12.0] * 3)
        assert list(answer.outputs) == ["score"]
        assert answer.version == "r9"
        assert cloud.headers[0][b"authorization"] == b"Bearer secret"
        asked = cloud.backend.asked[0]
        assert asked.deadline_ms == BUDGET_MS
        np.testing.assert_array_equal(asked.inputs["values"], request.inputs["values"])
        assert 0 < handoff.round_trip_ms() < BUDGET_MS


async def test_without_a_token_none_is_sent(cloud: CloudServer, make_request: Make) -> None:
    async with handing_off(cloud) as handoff:
        await handoff.infer(make_request(), BUDGET_MS)
        assert b"authorization" not in cloud.headers[0]


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("busy", "HTTP 503 overloaded the queue is full"),
        ("forbidden", "HTTP 401"),
        ("garbage", "does not decode"),
        ("huge", "more than"),
    ],
)
async def test_no_answer_is_one_error_that_says_why(
    cloud: CloudServer, make_request: Make, mode: str, told: str
) -> None:
    cloud.mode = mode
    async with handing_off(cloud) as handoff:
        with pytest.raises(CloudUnavailableError, match=told) as failure:
            await handoff.infer(make_request(), BUDGET_MS)
        assert cloud.url in failure.value.detail


async def test_a_cloud_that_is_not_there(free_port: Callable[[], int], make_request: Make) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with Handoff(url, SETTINGS, bearer=str) as handoff:
        with pytest.raises(CloudUnavailableError, match="ConnectError"):
            await handoff.infer(make_request(), BUDGET_MS)


async def test_a_slow_cloud_costs_the_budget_and_is_learnt(
    cloud: CloudServer, make_request: Make
) -> None:
    cloud.backend.delay_s = 2.0
    async with handing_off(cloud) as handoff:
        start = time.monotonic()
        with pytest.raises(CloudUnavailableError, match="no answer within 200 ms"):
            await handoff.infer(make_request(), 200.0)
        assert time.monotonic() - start < 1.5
        assert handoff.round_trip_ms() >= 190


async def test_a_cloud_that_trickles_does_not_get_past_the_budget(
    cloud: CloudServer, make_request: Make
) -> None:
    cloud.mode = "trickle"
    async with handing_off(cloud) as handoff:
        start = time.monotonic()
        with pytest.raises(CloudUnavailableError, match="no answer within 200 ms"):
            await handoff.infer(make_request(), 200.0)
        assert time.monotonic() - start < 5, "the trickle would go on for 10 s"


async def test_it_stops_asking_and_finds_the_cloud_again(
    cloud: CloudServer, make_request: Make, until: Until
) -> None:
    cloud.mode = "busy"
    async with handing_off(cloud) as handoff:
        for _ in range(2):
            assert handoff.ready()
            with pytest.raises(CloudUnavailableError, match="503"):
                await handoff.infer(make_request(), BUDGET_MS)
        assert not handoff.ready()
        with pytest.raises(CloudUnavailableError, match="held back"):
            await handoff.infer(make_request(), BUDGET_MS)
        assert len(cloud.headers) == 2
        cloud.mode = "answer"
        await until(handoff.ready)
        await handoff.infer(make_request(), BUDGET_MS)
        assert handoff.ready()
        assert not handoff.breaker.is_open


async def test_a_cloud_that_hung_is_expected_back_within_seconds(
    cloud: CloudServer, make_request: Make
) -> None:
    cloud.backend.delay_s = 5.0
    now = [0.0]
    settings = HandoffSettings(failures_to_open=1000)
    async with Handoff(cloud.url, settings, bearer=str, clock=lambda: now[0]) as handoff:

        async def give_up(budget_ms: float) -> None:
            with pytest.raises(CloudUnavailableError, match="no answer"):
                await handoff.infer(make_request(), budget_ms)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(give_up, 150.0)
            await anyio.sleep(0.05)
            now[0] = 0.15
        assert handoff.round_trip_ms() == pytest.approx(150.0)
        now[0] = 4.0
        assert handoff.round_trip_ms() < 35.0


async def test_a_cloud_that_says_when_to_come_back_is_left_alone_until_then(
    cloud: CloudServer, make_request: Make
) -> None:
    cloud.mode, cloud.retry_after = "busy", b"30"
    now = [0.0]
    async with Handoff(cloud.url, SETTINGS, bearer=str, clock=lambda: now[0]) as handoff:
        with pytest.raises(CloudUnavailableError, match="503"):
            await handoff.infer(make_request(), BUDGET_MS)
        now[0] = 29.0
        assert not handoff.ready()
        now[0] = 30.0
        assert handoff.ready()


async def test_a_caller_who_leaves_blames_nobody(cloud: CloudServer, make_request: Make) -> None:
    cloud.backend.delay_s = 1.0
    async with handing_off(cloud) as handoff:
        for _ in range(3):
            with anyio.move_on_after(0.05):
                await handoff.infer(make_request(), BUDGET_MS)
        assert handoff.ready()
        cloud.backend.delay_s = 0.0
        assert await handoff.infer(make_request(), BUDGET_MS)


async def test_its_connections_end_with_it_however_it_ends(
    cloud: CloudServer, make_request: Make
) -> None:
    """An agent that is stopped is cancelled: the connections that were kept alive must not stay."""
    handoff = Handoff(cloud.url, SETTINGS, bearer=str)
    clients: list[httpx.AsyncClient | None] = []

    async def fail() -> None:
        async with handoff:
            await handoff.infer(make_request(), BUDGET_MS)
            clients.append(handoff._client)
            raise StateCorruptError("of another part")

    with pytest.raises(StateCorruptError):
        await fail()
    assert clients[0] is not None
    assert clients[0].is_closed


async def test_it_is_ready_only_while_it_runs_and_is_enabled(cloud: CloudServer) -> None:
    handoff = Handoff(cloud.url, SETTINGS, bearer=str)
    assert not handoff.ready()
    async with handoff:
        assert handoff.ready()
    assert not handoff.ready()
    async with Handoff(cloud.url, HandoffSettings(enabled=False), bearer=str) as disabled:
        assert not disabled.ready()


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_is_none_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    with pytest.raises(InvalidSettingError, match=r"ca\.pem"):
        async with Handoff("https://127.0.0.1:1", SETTINGS, bearer=str, ca_file=path):
            pass


async def test_a_burst_goes_where_there_is_room(
    cloud: CloudServer, make_release: Make, make_request: Make, make_pace: Make
) -> None:
    """What this device cannot do in time, the cloud does: all are answered, with equal numbers."""
    places: list[object] = []
    capacity = CapacitySettings(default_deadline_ms=20_000, queue_limit=4)
    async with (
        handing_off(cloud) as handoff,
        Predictor(BoardSettings(), capacity, cloud=handoff, opener=make_pace(0.05)) as predictor,
    ):
        await predictor.activate(*make_release())

        async def ask(value: float) -> None:
            answer = await predictor.infer(make_request(value, id=f"{value}"))
            np.testing.assert_array_equal(answer.outputs["score"], [3 * value**2])
            assert answer.id == f"{value}"
            places.append(answer.parameters["place"])

        async with anyio.create_task_group() as tasks:
            for value in range(60):
                tasks.start_soon(ask, float(value))
        stats = predictor.stats()
        assert len(places) == 60
        assert (stats.handed_off, stats.refused, stats.late) == (places.count("cloud"), 0, 0)
        assert places.count("local") == 4
        assert len(cloud.backend.asked) == 56


async def test_a_burst_against_a_dead_cloud_ends_in_answers_and_clear_errors(
    free_port: Callable[[], int], make_release: Make, make_request: Make, make_pace: Make
) -> None:
    codes: list[str] = []
    capacity = CapacitySettings(default_deadline_ms=20_000, queue_limit=4)
    url = f"http://127.0.0.1:{free_port()}"
    async with (
        Handoff(url, SETTINGS, bearer=str) as handoff,
        Predictor(BoardSettings(), capacity, cloud=handoff, opener=make_pace(0.05)) as predictor,
    ):
        await predictor.activate(*make_release())

        async def ask() -> None:
            try:
                answer = await predictor.infer(make_request())
                codes.append(str(answer.parameters["place"]))
            except AimassError as error:
                codes.append(error.code)

        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(ask)
        assert len(codes) == 60
        assert codes.count("local") >= 12
        assert set(codes) <= {"local", "overloaded", "cloud-unavailable"}
        assert predictor.stats().late == 0
        assert predictor.stats().refused == 60 - codes.count("local")
