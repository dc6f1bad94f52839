"""Answers to invitations: over a real HTTP server, within deadlines, once, and never by raising."""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
import uvicorn

from aimass_edge.config import BoardSettings
from aimass_edge.federated import (
    ActiveSlice,
    BlobLimits,
    GradientTrainer,
    HttpBlobs,
    Job,
    Rounds,
    StatisticsTrainer,
    Trained,
    Trainer,
)
from aimass_shared.errors import (
    AimassError,
    BadDigestError,
    BodyTooLargeError,
    CloudUnavailableError,
    ConflictError,
    DownloadFailedError,
    ForbiddenError,
    NotFoundError,
    UnauthenticatedError,
)
from aimass_shared.messages import RoundReply, RoundTask
from aimass_shared.moments import Segment, from_arrays, moments
from aimass_shared.updates import Meta, decode, encode

ARRAYS = {"level.weight": np.array([1.0, 2.0], np.float32), "scale": np.ones(2, np.float32)}
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Until = Callable[..., Awaitable[None]]
FAST = BlobLimits(max_bytes=1 << 20, deadline_s=2.0, attempts=3, pause_s=0.01)


class BlobServer:
    """A blob store over HTTP that can be told to misbehave."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.statuses: list[int] = []
        self.tokens: list[str] = []
        self.altered = b""
        self.url = ""

    def keep(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.tokens.append(dict(scope["headers"])[b"authorization"].decode())
        status, answer = self.respond(scope["method"], scope["path"].split("/")[-1], body)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    def respond(self, method: str, digest: str, body: bytes) -> tuple[int, bytes]:
        if self.statuses:
            return self.statuses.pop(0), b""
        if method == "PUT":
            assert self.keep(body) == digest
            return 201, b""
        if digest not in self.blobs:
            return 404, b""
        return 200, self.altered or self.blobs[digest]


@pytest.fixture
async def server(until: Until) -> AsyncIterator[BlobServer]:
    app = BlobServer()
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none")
    web = uvicorn.Server(config)
    serving = asyncio.create_task(web.serve())
    await until(lambda: web.started)
    port = web.servers[0].sockets[0].getsockname()[1]
    app.url = f"http://127.0.0.1:{port}"
    yield app
    web.should_exit = True
    await serving


@asynccontextmanager
async def client(url: str) -> AsyncIterator[HttpBlobs]:
    async with HttpBlobs(url, lambda: "secret", limits=FAST) as blobs:
        yield blobs


class Rows:
    """A history in memory."""

    step_ms = 1000

    def __init__(self, rows: int = 40) -> None:
        values = np.random.default_rng(3).normal(5.0, 1.0, (rows, 2)).astype(np.float32)
        self.rows: list[Segment] = [(values, np.ones_like(values))]

    async def segments(self, sensors: Sequence[str]) -> list[Segment]:
        if set(sensors) - {"a", "b"}:
            raise NotFoundError(f"not recorded here: {sensors}")
        return self.rows


class Slow:
    """A trainer that works until it is told to stop, and says so."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.calls = 0

    def train(self, job: Job) -> Trained:
        self.calls += 1
        try:
            while True:
                job.check()
                time.sleep(0.01)
        finally:
            self.stopped.set()


class Faulty:
    def train(self, job: Job) -> Trained:
        raise ZeroDivisionError(job.task.task)


class Nan:
    def train(self, job: Job) -> Trained:
        arrays = {name: array * np.nan for name, array in job.arrays.items()}
        return Trained(arrays=arrays, examples=1, metrics={})


def in_ms(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


def task(server: BlobServer, seconds: float = 30.0, meta: Meta | None = None) -> RoundTask:
    raw = encode(ARRAYS, meta or {})
    return RoundTask(
        task="t1",
        run="r",
        number=1,
        kind="train",
        deadline=in_ms(seconds),
        slice="w1.00-fp32",
        digest=server.keep(raw),
        size=len(raw),
        sensors=("a", "b"),
        step_ms=1000,
        learning_rate=0.1,
    )


def rounds(blobs: HttpBlobs, trainer: Trainer) -> Rounds:
    return Rounds(history=Rows(), blobs=blobs, trainers={"train": trainer})


async def test_a_training_round_leaves_a_change_of_the_trained_parameters(
    server: BlobServer, active: ActiveSlice, board: Callable[[], BoardSettings]
) -> None:
    async with client(server.url) as blobs:
        asked = task(server)
        reply = await rounds(blobs, GradientTrainer(lambda: active, board())).answer(asked)
    assert reply.ok, reply
    assert (reply.task, reply.examples) == ("t1", 37)
    assert reply.seconds > 0
    assert reply.metrics.keys() == {"loss", "first_loss"}
    update = decode(server.blobs[reply.digest], max_bytes=reply.size)
    assert update.meta == {"task": "t1"}
    assert list(update.arrays) == ["level.weight"]
    assert (update.arrays["level.weight"] > 0).all()
    assert set(server.tokens) == {"Bearer secret"}


async def test_a_round_without_sensors_is_declined_before_anything_is_fetched(
    server: BlobServer, active: ActiveSlice, board: Callable[[], BoardSettings]
) -> None:
    async with client(server.url) as blobs:
        asked = msgspec.structs.replace(task(server), sensors=(), step_ms=0)
        reply = await rounds(blobs, GradientTrainer(lambda: active, board())).answer(asked)
    assert (reply.ok, reply.code) == (False, ConflictError.code)
    assert "a model that takes requests only is not trained on devices" in reply.why
    assert not server.tokens


async def test_the_round_says_how_its_update_travels(
    server: BlobServer, active: ActiveSlice, board: Callable[[], BoardSettings]
) -> None:
    async with client(server.url) as blobs:
        trainer = GradientTrainer(lambda: active, board())
        asked = task(server, meta={"precision": "int8"})
        reply = await rounds(blobs, trainer).answer(asked)
        bad = msgspec.structs.replace(task(server, meta={"precision": "int4"}), task="t2")
        refused = await rounds(blobs, trainer).answer(bad)
    assert b'"coding":"int8"' in server.blobs[reply.digest]
    assert refused.code == "bad-update"


async def test_a_statistics_round_needs_no_blob_and_no_model(server: BlobServer) -> None:
    asked = msgspec.structs.replace(task(server), kind="statistics", digest="", size=0, lags=2)
    history = Rows()
    async with client(server.url) as blobs:
        taking_part = Rounds(
            history=history, blobs=blobs, trainers={"statistics": StatisticsTrainer()}
        )
        reply = await taking_part.answer(asked)
    update = decode(server.blobs[reply.digest])
    got = from_arrays(update.arrays, sensors=("a", "b"), lags=2)
    expected = moments(history.rows, sensors=("a", "b"), lags=2)
    assert got.n == reply.examples == 38
    np.testing.assert_array_equal(got.zz, expected.zz)
    assert len(server.tokens) == 1


async def test_a_task_twice_is_worked_on_once(server: BlobServer) -> None:
    slow = Slow()
    async with client(server.url) as blobs:
        taking_part = rounds(blobs, slow)
        asked = task(server, seconds=0.3)
        first, second = await asyncio.gather(taking_part.answer(asked), taking_part.answer(asked))
        third = await taking_part.answer(asked)
    assert slow.calls == 1
    assert first == second == third
    assert first.code == "deadline-exceeded"


async def test_a_cancelled_answer_stops_its_thread_and_can_be_asked_again(
    server: BlobServer, until: Until
) -> None:
    slow = Slow()
    async with client(server.url) as blobs:
        taking_part = rounds(blobs, slow)
        working = asyncio.create_task(taking_part.answer(task(server)))
        waiting = asyncio.create_task(taking_part.answer(task(server, seconds=1.0)))
        await until(lambda: slow.calls)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert slow.stopped.wait(5), "the thread must not go on for nobody"
        assert (await waiting).code == "deadline-exceeded"
    assert slow.calls == 2


async def test_one_round_at_a_time(server: BlobServer) -> None:
    slow = Slow()
    async with client(server.url) as blobs:
        taking_part = rounds(blobs, slow)
        first = asyncio.ensure_future(taking_part.answer(task(server, 0.8)))
        # Those behind it give up before it does, whatever the machine is doing.
        behind = [msgspec.structs.replace(task(server, 0.4), task=f"t{i}") for i in (2, 3)]
        replies = await asyncio.gather(first, *(taking_part.answer(asked) for asked in behind))
    assert slow.calls == 1, "the others waited for their turn until their deadline"
    assert {reply.code for reply in replies} == {"deadline-exceeded"}


@pytest.mark.parametrize(
    ("change", "trainer", "code"),
    [
        ({"deadline": 1}, Slow(), "deadline-exceeded"),
        ({"kind": "statistics"}, Slow(), "conflict"),
        ({"step_ms": 999}, Slow(), "conflict"),
        ({"epochs": 0}, Slow(), "bad-update"),
        ({"learning_rate": -1.0}, Slow(), "bad-update"),
        ({"sensors": ("z",)}, Slow(), "not-found"),
        ({"digest": "0" * 64}, Slow(), "not-found"),
        ({"size": 2 << 20}, Slow(), "body-too-large"),
        ({"size": 5}, Slow(), "bad-digest"),
        ({}, Faulty(), "internal"),
        ({}, Nan(), "bad-update"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
async def test_every_failure_is_a_reply(
    server: BlobServer, change: dict[str, Any], trainer: Trainer, code: str
) -> None:
    async with client(server.url) as blobs:
        reply = await rounds(blobs, trainer).answer(msgspec.structs.replace(task(server), **change))
    assert (reply.ok, reply.code) == (False, code), reply
    assert reply.why
    assert reply.task == "t1"


async def test_an_internal_error_does_not_leak_into_the_reply(server: BlobServer) -> None:
    async with client(server.url) as blobs:
        reply = await rounds(blobs, Faulty()).answer(task(server))
    assert "ZeroDivisionError" in reply.why
    assert "t1" not in reply.why


async def test_old_replies_are_forgotten(
    server: BlobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aimass_edge.federated.rounds.KEPT_REPLIES", 3)
    async with client(server.url) as blobs:
        taking_part = rounds(blobs, Faulty())
        for number in range(10):
            asked = msgspec.structs.replace(task(server), task=f"t{number}")
            reply: RoundReply = await taking_part.answer(asked)
            assert reply.code == "internal"
        assert list(taking_part._answers) == ["t7", "t8", "t9"]


async def test_blobs_come_back_as_they_went(server: BlobServer) -> None:
    async with client(server.url) as blobs:
        for data in (b"", b"x", b"y" * FAST.max_bytes):
            digest = await blobs.put(data)
            assert await blobs.get(digest, len(data)) == data


async def test_a_coordinator_that_is_away_for_a_moment_is_tried_again(server: BlobServer) -> None:
    async with client(server.url) as blobs:
        server.statuses = [503, 429]
        digest = await blobs.put(b"data")
        server.statuses = [500, 502]
        assert await blobs.get(digest, 4) == b"data"
        server.statuses = [500, 500, 500, 500]
        with pytest.raises(CloudUnavailableError, match="500"):
            await blobs.get(digest, 4)
        assert len(server.statuses) == 1, "three attempts, not more"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, UnauthenticatedError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (413, BodyTooLargeError),
        (418, DownloadFailedError),
        (302, DownloadFailedError),
    ],
)
async def test_refusals_are_final(
    server: BlobServer, status: int, error: type[AimassError]
) -> None:
    async with client(server.url) as blobs:
        server.statuses = [status, 500]
        with pytest.raises(error):
            await blobs.put(b"data")
    assert server.statuses == [500]


@pytest.mark.parametrize("altered", [b"datb", b"dat", b"data and more" * 1000])
async def test_other_bytes_than_announced_are_refused(server: BlobServer, altered: bytes) -> None:
    async with client(server.url) as blobs:
        digest = await blobs.put(b"data")
        server.altered = altered
        with pytest.raises(BadDigestError):
            await blobs.get(digest, 4)


async def test_nobody_there_is_an_error_of_the_link(free_port: Callable[[], int]) -> None:
    async with client(f"http://127.0.0.1:{free_port()}") as blobs:
        with pytest.raises(CloudUnavailableError):
            await blobs.put(b"data")
    with pytest.raises(CloudUnavailableError, match="async with"):
        await blobs.put(b"data")
