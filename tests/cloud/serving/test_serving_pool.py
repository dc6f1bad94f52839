"""The model pool with real ONNX files: answers, refusals, swaps, and under Litestar by HTTP."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import uvicorn
from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send

from aimass_cloud.config import ServingSettings
from aimass_cloud.serving import ModelPool
from aimass_shared.errors import (
    BadTensorError,
    DeadlineExceededError,
    ModelLoadFailedError,
    NoActiveModelError,
    NotFoundError,
    OverloadedError,
)
from aimass_shared.inference import (
    HEADER_LENGTH,
    InferenceApp,
    InferRequest,
    Tensor,
    WantedOutput,
    decode_response,
    encode_request,
)
from aimass_shared.manifest import Contract, TensorSpec

Models = Callable[[float], Path]


@pytest.fixture
async def pool(model_file: Models, contract: Contract) -> AsyncIterator[ModelPool]:
    async with ModelPool(ServingSettings(max_batch=8, queue_limit=32)) as made:
        await made.load("tiny", "r1", path=model_file(2), contract=contract)
        yield made


def _inputs(value: float, windows: int = 1) -> dict[str, Tensor]:
    shape = (windows, 4, 3)
    return {"values": np.full(shape, value, np.float32), "mask": np.ones(shape, np.float32)}


def _request(value: float = 1, windows: int = 1, **changes: Any) -> InferRequest:  # noqa: ANN401  # fields
    request = InferRequest(model="tiny", inputs=_inputs(value, windows), deadline_ms=20_000)
    return msgspec.structs.replace(request, **changes)


async def test_a_model_answers_and_says_where_and_how_long(pool: ModelPool) -> None:
    answer = await pool.infer(_request(3, 2, id="q"))
    assert answer.outputs["score"].tolist() == [72.0, 72.0]
    assert answer.outputs["forecast"].shape == (2, 4, 3)
    assert (answer.model, answer.version, answer.id) == ("tiny", "r1", "q")
    assert answer.parameters["place"] == "cloud"
    assert 0 < float(answer.parameters["service_ms"]) < 20_000
    assert answer.parameters["batch"] == 2


async def test_many_at_once_get_their_own_answers(pool: ModelPool) -> None:
    answers = await asyncio.gather(*[pool.infer(_request(value)) for value in range(30)])
    assert [a.outputs["score"].tolist() for a in answers] == [[24.0 * v] for v in range(30)]
    assert max(int(a.parameters["batch"]) for a in answers) > 1


async def test_the_pool_says_what_it_serves(pool: ModelPool, contract: Contract) -> None:
    assert pool.ready()
    assert pool.models() == ["tiny"]
    described = pool.metadata("tiny", "")
    assert (described.versions, described.inputs) == (("r1",), contract.inputs)
    with pytest.raises(NotFoundError, match="no model other is served; models: tiny"):
        pool.metadata("other", "")
    with pytest.raises(NotFoundError, match="no version r9 here; active is r1"):
        await pool.infer(_request(version="r9"))


async def test_an_empty_pool_is_not_ready() -> None:
    async with ModelPool(ServingSettings()) as empty:
        assert not empty.ready()
        with pytest.raises(NoActiveModelError, match="make a release first"):
            await empty.infer(_request())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": {"values": np.zeros((1, 4, 3), np.float32)}}, "are not those of the model"),
        ({"inputs": _inputs(1) | {"mask": np.ones((1, 4, 2), np.float32)}}, "expected FP32"),
        ({"inputs": _inputs(1) | {"mask": np.ones((1, 4, 3))}}, "is FP64"),
        ({"inputs": _inputs(1) | {"mask": _inputs(1, 2)["mask"]}}, "the same windows"),
        ({"inputs": _inputs(1, 0)}, "at least one"),
        ({"inputs": _inputs(1, 33)}, "33 windows in one request, the limit is 32"),
        ({"outputs": (WantedOutput("nothing"),)}, "the model has forecast, score"),
    ],
)
async def test_what_the_model_cannot_take_is_refused(
    pool: ModelPool, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadTensorError, match=said):
        await pool.infer(_request(**change))


async def test_a_burst_over_the_limit_is_refused_in_part(pool: ModelPool) -> None:
    answers = await asyncio.gather(
        *[pool.infer(_request(1, 8)) for _ in range(40)], return_exceptions=True
    )
    refused = [a for a in answers if isinstance(a, OverloadedError)]
    answered = [a for a in answers if not isinstance(a, BaseException)]
    assert refused
    assert answered
    assert len(refused) + len(answered) == 40


async def test_the_deadline_of_the_settings_holds_without_one_in_the_request(
    model_file: Models, contract: Contract
) -> None:
    async with ModelPool(ServingSettings(default_deadline_ms=1, queue_limit=100_000)) as slow:
        await slow.load("tiny", "r1", path=model_file(2), contract=contract)
        with pytest.raises((DeadlineExceededError, OverloadedError), match="deadline"):
            await slow.infer(_request(1, 100_000, deadline_ms=None))


async def test_a_swap_loses_no_request(
    pool: ModelPool, model_file: Models, contract: Contract
) -> None:
    scores: list[tuple[str, float]] = []
    swapped = asyncio.Event()

    async def ask() -> None:
        after = 0
        while after < 5:
            after += swapped.is_set()
            answer = await pool.infer(_request(1))
            scores.append((answer.version, float(np.asarray(answer.outputs["score"])[0])))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(ask())
        await pool.load("tiny", "r2", path=model_file(3), contract=contract)
        swapped.set()
    assert set(scores) == {("r1", 24.0), ("r2", 36.0)}
    assert pool.metadata("tiny", "r2").versions == ("r2",)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    return path


async def test_a_model_that_does_not_load_leaves_the_old_one(
    pool: ModelPool, contract: Contract, broken: Path
) -> None:
    for path in (broken, broken.with_name("absent.onnx")):
        with pytest.raises(ModelLoadFailedError, match=rf"cannot run {path.name}"):
            await pool.load("tiny", "r2", path=path, contract=contract)
    assert (await pool.infer(_request())).version == "r1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": (TensorSpec("values", "FP32", (-1, 4, 3)),)}, r"contract says \['values'\]"),
        ({"outputs": (TensorSpec("score", "FP64", (-1,)),)}, "`score` is FP32"),
        ({"outputs": (TensorSpec("forecast", "FP32", (-1, 4, 4)),)}, r"is FP32 \[1, 4, 3\]"),
        ({"outputs": (TensorSpec("else", "FP32", (-1,)),)}, "release it again"),
    ],
)
async def test_a_model_that_is_not_its_contract_is_refused(
    model_file: Models, contract: Contract, change: dict[str, object], said: str
) -> None:
    wrong = msgspec.structs.replace(contract, **change)
    async with ModelPool(ServingSettings()) as empty:
        with pytest.raises(ModelLoadFailedError, match=said):
            await empty.load("tiny", "r1", path=model_file(2), contract=wrong)
        assert not empty.ready()


async def test_a_contract_of_one_window_at_a_time_is_never_batched(
    model_file: Models, contract: Contract
) -> None:
    specs = {
        "inputs": tuple(TensorSpec(s.name, s.datatype, (1, 4, 3)) for s in contract.inputs),
        "outputs": (TensorSpec("score", "FP32", (1,)),),
    }
    async with ModelPool(ServingSettings()) as made:
        fixed = msgspec.structs.replace(contract, **specs)
        await made.load("tiny", "r1", path=model_file(2), contract=fixed)
        answers = await asyncio.gather(*[made.infer(_request(v)) for v in range(5)])
    assert [a.parameters["batch"] for a in answers] == [1] * 5
    assert [a.outputs["score"].tolist() for a in answers] == [[24.0 * v] for v in range(5)]


@contextlib.asynccontextmanager
async def _serving(app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    server = uvicorn.Server(uvicorn.Config(app, ws="none", log_config=None))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # so that the first client waits instead of being refused
        task = asyncio.create_task(server.serve([listener]))
        host, port = listener.getsockname()
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=10) as client:
            yield client
        server.should_exit = True
        await task


@pytest.mark.parametrize("copy_scope", [True, False])
async def test_mounted_under_litestar_it_answers_by_http(
    pool: ModelPool, *, copy_scope: bool
) -> None:
    inference = InferenceApp(pool, max_body_bytes=1 << 20)

    @asgi("/v2", is_mount=True, copy_scope=copy_scope)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await inference(scope, receive, send)

    async with _serving(Litestar([mounted], openapi_config=None)) as client:
        assert (await client.get("/v2")).json()["name"] == "aimass"
        assert (await client.get("/v2/health/ready")).json() == {"ready": True}
        assert (await client.get("/v2/models/tiny")).json()["versions"] == ["r1"]
        body, headers = encode_request(_request(2, 3, binary_output=True))
        for path in ("/v2/models/tiny/infer", "/v2/models/tiny/versions/r1/infer"):
            answer = await client.post(path, content=body, headers=headers)
            got = decode_response(answer.content, int(answer.headers[HEADER_LENGTH]))
            assert got.outputs["score"].tolist() == [48.0] * 3
            assert got.parameters["place"] == "cloud"
        missing = await client.post("/v2/models/other/infer", content=body, headers=headers)
        assert (missing.status_code, missing.json()["code"]) == (404, "not-found")
        nowhere = await client.get("/v2/nothing")
        assert (nowhere.status_code, nowhere.json()["code"]) == (404, "not-found")
