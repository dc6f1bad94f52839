"""A burst of requests: what its clients met, counted; against a real server that does it all."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send

from aimass_cloud.demo.burst import SLACK_MS, Burst, Met, fire, judge
from aimass_shared.errors import NotFoundError, OverloadedError
from aimass_shared.inference import InferenceApp, InferRequest, InferResponse, ModelMetadata

Serve = Callable[[Litestar], Awaitable[str]]
DEADLINE_MS = 100


def _burst(url: str = "", requests: int = 10, together: int = 4) -> Burst:
    return Burst(
        url=url,
        model="m",
        values=np.ones((2, 4, 3), np.float32),
        requests=requests,
        together=together,
        deadline_ms=DEADLINE_MS,
    )


def test_judge_by_hand() -> None:
    met = [
        Met("local", "", 10.0),
        Met("local", "", 20.0),
        Met("cloud", "", 30.0),
        Met("cloud", "", DEADLINE_MS + SLACK_MS + 1),
        Met("refused", "overloaded", 2.0),
        Met("refused", "overloaded", 3.0),
        Met("refused", "deadline-exceeded", DEADLINE_MS + SLACK_MS),
        Met("lost", "", 1.0),
    ]
    found = judge(_burst(requests=8), met)
    assert (found.local, found.cloud, found.refused, found.lost) == (2, 2, 3, 1)
    assert found.requests == 8
    assert found.late == 1
    assert found.deadline_ms == DEADLINE_MS
    assert found.codes == {"overloaded": 2, "deadline-exceeded": 1}
    assert found.p50_ms == pytest.approx(25.0), "of answers only: 10, 20, 30 and the late one"
    assert DEADLINE_MS < found.p99_ms < DEADLINE_MS + SLACK_MS + 1


def test_nothing_answered_has_no_percentiles() -> None:
    found = judge(_burst(requests=1), [Met("refused", "overloaded", 1.0)])
    assert (found.p50_ms, found.p99_ms) == (0.0, 0.0)


MET = st.builds(
    Met,
    st.sampled_from(["local", "cloud", "refused", "lost"]),
    st.just(""),
    st.floats(0, 1000, allow_nan=False),
)


@given(st.lists(MET, max_size=50))
def test_every_request_is_counted_once(met: list[Met]) -> None:
    found = judge(_burst(requests=len(met)), met)
    assert found.local + found.cloud + found.refused + found.lost == len(met)
    assert 0 <= found.late <= len(met)
    assert found.p50_ms <= found.p99_ms


class Moody:
    """Answers here, in the cloud, or refuses, in turn; counts how many it has at the same time."""

    name = version = "moody"

    def __init__(self) -> None:
        self.asked: list[InferRequest] = []

    def ready(self) -> bool:
        return True

    def models(self) -> Sequence[str]:
        return ["m"]

    def metadata(self, model: str, version: str) -> ModelMetadata:
        raise NotFoundError(f"{model} {version}")

    async def infer(self, request: InferRequest) -> InferResponse:
        self.asked.append(request)
        place = ("local", "cloud", "")[len(self.asked) % 3]
        if not place:
            raise OverloadedError("no")
        outputs = {"score": np.zeros(2, np.float32)}
        return InferResponse(model="m", version="1", outputs=outputs, parameters={"place": place})


async def test_fire_meets_answers_from_both_places_and_refusals_with_their_code(
    serve: Serve,
) -> None:
    backend = Moody()
    inference = InferenceApp(backend, max_body_bytes=1 << 20)

    @asgi("/v2", is_mount=True, copy_scope=True)
    async def infer(scope: Scope, receive: Receive, send: Send) -> None:
        await inference(scope, receive, send)

    met = await fire(_burst(await serve(Litestar([infer], logging_config=None)), requests=9))
    assert Counter((one.place, one.code) for one in met) == {
        ("local", ""): 3,
        ("cloud", ""): 3,
        ("refused", "overloaded"): 3,
    }
    assert all(one.ms > 0 for one in met)
    assert {request.deadline_ms for request in backend.asked} == {DEADLINE_MS}
    for request in backend.asked:
        assert np.array_equal(request.inputs["values"], np.ones((2, 4, 3)))
        assert np.array_equal(request.inputs["mask"], np.ones((2, 4, 3)))


async def test_fire_keeps_to_so_many_at_a_time(serve: Serve) -> None:
    now: list[int] = [0, 0]
    five = asyncio.Barrier(5)  # nobody is answered before five are there

    @asgi("/", is_mount=True, copy_scope=True)
    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        assert "method" in scope
        now[0] += 1
        now[1] = max(now)
        while (await receive()).get("more_body"):
            pass
        await five.wait()
        body: dict[str, Any] = {"type": "http.response.body", "body": b'{"code": "overloaded"}'}
        await send({"type": "http.response.start", "status": 503, "headers": []})
        now[0] -= 1
        await send(body)  # type: ignore[arg-type]  # Litestar has a type for each message

    met = await fire(_burst(await serve(Litestar([count], logging_config=None)), 40, 5))
    assert now[0] == 0
    assert now[1] == 5
    assert {one.place for one in met} == {"refused"}


async def test_a_server_that_is_not_there_loses_requests_and_raises_nothing(
    free_port: Callable[[], int],
) -> None:
    met = await fire(_burst(f"http://127.0.0.1:{free_port()}", requests=5))
    assert [one.place for one in met] == ["lost"] * 5
