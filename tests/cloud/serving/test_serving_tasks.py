"""The model pool with pictures, pairs of texts and items: over HTTP, in shared batches, refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send
from tests.tiny_models import ALL, MATCHER, RANKER, Tiny, assert_same, name_of, texts

from aimass_cloud.config import ServingSettings
from aimass_cloud.serving import ModelPool, SliceFiles
from aimass_shared.errors import BadTensorError, ModelLoadFailedError
from aimass_shared.inference import (
    HEADER_LENGTH,
    InferenceApp,
    InferRequest,
    Tensor,
    decode_response,
    encode_request,
)
from aimass_shared.manifest import TensorSpec
from aimass_shared.vocabulary import Vocabulary, pack

Serve = Callable[[Litestar], Awaitable[str]]


@pytest.fixture
async def pool() -> AsyncIterator[ModelPool]:
    async with ModelPool(ServingSettings(max_batch=8, queue_limit=64)) as made:
        yield made


async def load(pool: ModelPool, tiny: Tiny, folder: Path, **changed: Any) -> None:  # noqa: ANN401  # fields of a contract
    tiny.write(folder)
    vocabulary = folder / "vocabulary.json"
    await pool.load(
        tiny.contract.model,
        "r1",
        path=folder / "model.onnx",
        contract=msgspec.structs.replace(tiny.contract, **changed),
        files=SliceFiles(vocabulary if vocabulary.is_file() else None),
    )


def request(tiny: Tiny, inputs: dict[str, Tensor] | None = None) -> InferRequest:
    return InferRequest(
        model=tiny.contract.model,
        inputs=inputs or tiny.asked,
        deadline_ms=20_000,
        binary_output=True,
    )


@pytest.mark.parametrize("tiny", ALL, ids=name_of)
async def test_a_model_of_any_task_answers_over_http(
    pool: ModelPool, serve: Serve, tmp_path: Path, tiny: Tiny
) -> None:
    inference = InferenceApp(pool, max_body_bytes=1 << 20)

    @asgi("/v2", is_mount=True, copy_scope=True)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await inference(scope, receive, send)

    await load(pool, tiny, tmp_path)
    path = f"/v2/models/{tiny.contract.model}"
    url = await serve(Litestar([mounted], openapi_config=None))
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        described = (await client.get(path)).json()
        for specs, names in ((tiny.contract.inputs, "inputs"), (tiny.contract.outputs, "outputs")):
            assert msgspec.convert(described[names], tuple[TensorSpec, ...]) == specs
        body, headers = encode_request(request(tiny))
        answer = await client.post(f"{path}/infer", content=body, headers=headers)
        got = decode_response(answer.content, int(answer.headers[HEADER_LENGTH]))
        assert_same(got.outputs, tiny.answer)
        data = [
            {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": tiny.asked[spec.name].shape,
                "data": tiny.asked[spec.name].tolist(),
            }
            for spec in tiny.contract.inputs
        ]
        answer = await client.post(f"{path}/infer", json={"inputs": data})
        assert_same(decode_response(answer.content, None).outputs, tiny.answer)


async def test_texts_of_many_callers_share_runs(pool: ModelPool, tmp_path: Path) -> None:
    await load(pool, RANKER, tmp_path)
    names = ("A-1", "B-2", "C-3", "D-4")
    answers = await asyncio.gather(
        *[pool.infer(request(RANKER, {"history": texts(names[n % 4])})) for n in range(40)]
    )
    assert [a.outputs["item"][0, 0] for a in answers] == [names[(n + 1) % 4] for n in range(40)]
    assert max(int(a.parameters["batch"]) for a in answers) > 1


async def test_what_is_no_text_is_refused(pool: ModelPool, tmp_path: Path) -> None:
    await load(pool, RANKER, tmp_path)
    for wrong in (np.zeros((1, 3), np.int64), texts("A-1").reshape(1, 1), texts()):
        with pytest.raises(BadTensorError):
            await pool.infer(request(RANKER, {"history": wrong}))
    await load(pool, MATCHER, tmp_path / "pairs")
    with pytest.raises(BadTensorError, match="same windows"):
        await pool.infer(request(MATCHER, {"first": texts("a"), "second": texts("a", "b")}))


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        (pack(Vocabulary("items", ("A-1",), length=2)), "cannot run model.onnx"),
        (pack(Vocabulary("items", ("A-1",), length=3)), "the model gave numbers from"),
        (b"{}", "the vocabulary of next cannot be used"),
        (None, "no vocabulary"),
    ],
)
async def test_a_vocabulary_that_does_not_fit_leaves_the_old_model(
    pool: ModelPool, tmp_path: Path, vocabulary: bytes | None, said: str
) -> None:
    await load(pool, RANKER, tmp_path / "good")
    path = RANKER.write(tmp_path / "bad") / "vocabulary.json"
    if vocabulary is not None:
        path.write_bytes(vocabulary)
    with pytest.raises(ModelLoadFailedError, match=said):
        await pool.load(
            "next",
            "r2",
            path=path.with_name("model.onnx"),
            contract=RANKER.contract,
            files=SliceFiles(path if vocabulary is not None else None),
        )
    answer = await pool.infer(request(RANKER))
    assert_same(answer.outputs, RANKER.answer)
    assert answer.version == "r1"


async def test_outputs_are_those_of_the_contract(pool: ModelPool, tmp_path: Path) -> None:
    floats = (TensorSpec("score", "BYTES", (-1, 2)),)
    with pytest.raises(ModelLoadFailedError, match="texts come as INT64"):
        await load(pool, RANKER, tmp_path, outputs=floats)
    narrow = (TensorSpec("item", "BYTES", (-1, 3)),)
    with pytest.raises(ModelLoadFailedError, match=r"`item` is BYTES \[1, 2\]"):
        await load(pool, RANKER, tmp_path, outputs=narrow)
