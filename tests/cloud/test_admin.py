"""The admin client against real HTTP servers: the coordinator's answers, and anybody else's."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar, Request, Response, route

from aimass_cloud.admin import Admin, ApiError, segment
from aimass_shared.errors import (
    AimassError,
    CloudUnavailableError,
    InvalidSettingError,
    NotFoundError,
    UnauthenticatedError,
)

KEY = "aimass_0123456789ab_secret"
PROBLEM = {"type": "urn:aimass:error:conflict", "status": 409, "detail": "no", "code": "conflict"}
JOB = {"state": "running", "progress": 0.5, "message": "half", "result": {}, "code": ""}

Serve = Callable[[Litestar], Awaitable[str]]
Answer = tuple[int, object] | bytes


class Server:
    """Answers what the test puts into `answers`, in order, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.keys: set[str] = set()

    def app(self) -> Litestar:
        @route(["/", "/{path:path}"], http_method=["GET", "POST", "DELETE"], status_code=200)
        async def anything(request: Request[Any, Any, Any]) -> Response[Any]:
            raw: bytes = request.scope["raw_path"]
            query: bytes = request.scope["query_string"]
            asked = raw.split(b"?")[0] + (b"?" + query if query else b"")
            body = await request.json() if await request.body() else None
            self.asked.append((request.method, asked.decode(), body))
            self.keys.add(request.headers["authorization"])
            answer = self.answers.pop(0)
            if isinstance(answer, bytes):
                return Response(answer, media_type="text/html")
            return Response(answer[1], status_code=answer[0], media_type="application/json")

        return Litestar([anything])


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def admin(server: Server, serve: Serve) -> AsyncIterator[Admin]:
    async with Admin.connect(await serve(server.app()), KEY) as connected:
        yield connected


async def test_each_method_is_one_call(server: Server, admin: Admin) -> None:
    server.answers = [
        (200, {"token": "aimass-join.x"}),
        (200, [{"id": "d1"}]),
        (200, {"id": "d1"}),
        (202, {"job": "train-1"}),
        (200, {"id": "r1"}),
        (200, {"id": "o1"}),
        (200, {"id": "o2"}),
    ]
    assert await admin.join_token("press", minutes=5) == "aimass-join.x"
    assert await admin.devices() == [{"id": "d1"}]
    assert await admin.device("d1") == {"id": "d1"}
    assert await admin.start("train", {"seed": 7}) == "train-1"
    assert await admin.release("m1", "beta") == {"id": "r1"}
    assert await admin.rollout("r1") == {"id": "o1"}
    assert await admin.rollout("r1", ["d1"]) == {"id": "o2"}
    token = {"site": "press", "channel": "stable", "minutes": 5}
    assert server.asked == [
        ("POST", "/api/v1/join-tokens", token),
        ("GET", "/api/v1/devices", None),
        ("GET", "/api/v1/devices/d1", None),
        ("POST", "/api/v1/jobs/train", {"seed": 7}),
        ("POST", "/api/v1/releases", {"model": "m1", "channel": "beta"}),
        ("POST", "/api/v1/rollouts", {"release": "r1"}),
        ("POST", "/api/v1/rollouts", {"release": "r1", "devices": ["d1"]}),
    ]
    assert server.keys == {f"Bearer {KEY}"}


async def test_predictions_are_read_page_by_page(server: Server, admin: Admin) -> None:
    server.answers = [
        (200, {"items": [{"n": 1}, {"n": 2}], "next": "e1:2&x"}),
        (200, {"items": [{"n": 3}], "next": None}),
    ]
    assert [item["n"] for item in await admin.predictions("d1")] == [1, 2, 3]
    paths = [path for _, path, _ in server.asked]
    assert paths[0].endswith("/devices/d1/predictions?limit=1000&after=")
    assert paths[1].endswith("&after=e1%3A2%26x")


async def test_a_job_is_watched_to_its_end(server: Server, admin: Admin) -> None:
    done = JOB | {"state": "succeeded", "progress": 1.0, "message": "", "result": {"model": "m"}}
    server.answers = [(200, JOB), (200, done)]
    seen: list[tuple[float, str]] = []
    assert await admin.wait("train-1", lambda share, what: seen.append((share, what))) == {
        "model": "m"
    }
    assert seen == [(0.5, "half"), (1.0, "")]


async def test_a_job_that_failed_is_its_error(server: Server, admin: Admin) -> None:
    server.answers = [(200, JOB | {"state": "failed", "message": "no data", "code": "no-clients"})]
    with pytest.raises(ApiError) as caught:
        await admin.wait("rounds-1")
    assert str(caught.value) == "no data [no-clients]"


async def test_a_rollout_is_followed_until_it_ends_or_the_time_is_over(
    server: Server, admin: Admin
) -> None:
    server.answers = [(200, {"state": "running"}), (200, {"state": "failed"})]
    assert await admin.wait_rollout("o1") == {"state": "failed"}
    server.answers = [(200, {"state": "running"})] * 2
    assert await admin.wait_rollout("o1", seconds=0.3) == {"state": "running"}


async def test_an_error_of_the_api_keeps_its_code_and_status(server: Server, admin: Admin) -> None:
    server.answers = [(409, PROBLEM), (503, {"error": "none yet", "code": "no-active-model"})]
    with pytest.raises(ApiError) as caught:
        await admin.devices()
    assert (caught.value.code, caught.value.status) == ("conflict", 409)
    with pytest.raises(ApiError) as caught:
        await admin.call("GET", "/v2/health/ready")
    assert (str(caught.value), caught.value.status) == ("none yet [no-active-model]", 503)
    assert AimassError.code == "internal", "the code is the error's own, not the class's"


async def test_ready_is_no_error(server: Server, admin: Admin) -> None:
    server.answers = [(503, {"status": "waiting", "broker": False}), (200, {"status": "ready"})]
    assert not await admin.ready()
    assert await admin.ready()


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>hello</html>",
        (502, "bad gateway"),
        (404, {"message": "nothing"}),
        (404, ["nothing"]),
        (599, PROBLEM),
        (302, {}),
    ],
)
async def test_whoever_is_no_coordinator_is_named(
    server: Server, admin: Admin, answer: Answer
) -> None:
    server.answers = [answer]
    with pytest.raises(CloudUnavailableError, match="is the URL right"):
        await admin.call("GET", "/api/v1/devices")


async def test_an_empty_answer_is_an_empty_object(server: Server, admin: Admin) -> None:
    server.answers = [(204, None)]
    assert await admin.call("DELETE", "/api/v1/keys/x") == {}


async def test_nobody_there(free_port: Callable[[], int]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with Admin.connect(url, KEY) as admin:
        assert not await admin.ready()
        with pytest.raises(CloudUnavailableError, match="is `aimass serve` running"):
            await admin.devices()


@pytest.mark.parametrize("name", ["..", ".", "../keys", "a/b", "a?b#c", "ü b", "%2e%2e"])
async def test_any_name_stays_one_segment_of_the_path(
    server: Server, admin: Admin, name: str
) -> None:
    server.answers = [(200, {})]
    await admin.device(name)
    ((_, path, _),) = server.asked
    assert path == f"/api/v1/devices/{segment(name)}"
    assert path.count("/") == 4


def test_an_empty_name_is_not_the_list() -> None:
    with pytest.raises(NotFoundError):
        segment("")


@pytest.mark.parametrize(
    "url", ["", "foo", "ftp://host", "http://", "http://h:99999", "http://h:-1", "http://h:x"]
)
async def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidSettingError):
        async with Admin.connect(url, KEY):
            pass


@pytest.mark.parametrize("key", ["a\nb", "ä", "a\x00"])
async def test_what_is_no_key_is_not_sent(key: str) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        async with Admin.connect("http://127.0.0.1:1", key):
            pass
    assert key not in str(caught.value)


async def test_what_is_no_ca(tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    for path in (tmp_path / "nowhere.pem", tmp_path / "text.pem", tmp_path):
        with pytest.raises(InvalidSettingError, match="no CA certificate"):
            async with Admin.connect("https://127.0.0.1:1", KEY, ca_file=str(path)):
                pass
