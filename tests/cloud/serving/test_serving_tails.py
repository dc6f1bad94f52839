"""Tails over real HTTP: the head runs here in ONNX Runtime, what crosses goes to the pool."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import onnx
import pytest
import uvicorn
from numpy.typing import NDArray
from tests import graphs
from tests.tiny_models import NAMES, RANKER, assert_same

from aimass_cloud.config import ServingSettings
from aimass_cloud.serving import ModelPool, SliceFiles, TailFile
from aimass_cloud.slicing import cuts
from aimass_cloud.slicing.cuts.running import Runner
from aimass_shared.activations import ActivationCodec, encode
from aimass_shared.errors import BadTensorError, DeadlineExceededError, ModelLoadFailedError
from aimass_shared.inference import (
    HEADER_LENGTH,
    InferenceApp,
    InferRequest,
    InferResponse,
    datatype_of,
    decode_response,
    encode_request,
    parts,
)
from aimass_shared.inference.parts import ACTIVATIONS, SLICE, Destination
from aimass_shared.manifest import Contract, Halves, TensorSpec
from aimass_shared.vocabulary import coder_of

Arrays = dict[str, NDArray[Any]]
WHOLE = "w1.00-fp32"


class Cutting:
    """A model whose every cut is served."""

    def __init__(self, folder: Path, make: Callable[[], onnx.ModelProto], most: int = 6) -> None:
        self.path = folder / "model.onnx"
        onnx.save(make(), self.path)
        self.whole = cuts.read(self.path)
        self.run = Runner(self.whole.model).run
        found = cuts.cuts_of(self.whole, most_tensors=2).cuts[::2][:most]
        self.heads: dict[str, tuple[Runner, Halves]] = {}
        self.tails: dict[str, TailFile] = {}
        self.contract = self._contract()
        for cut in found:
            self._add(folder / cut.id, cut)

    def inputs(self, rows: int, seed: int = 0) -> Arrays:
        drawn = np.random.default_rng(seed).standard_normal
        return {
            spec.name: drawn((rows, *spec.shape[1:])).astype(np.float32)
            for spec in self.contract.inputs
        }

    def crossing(self, name: str, inputs: Arrays) -> tuple[Arrays, Arrays]:
        """What a head gives: what crosses, and outputs that are ready."""
        runner, halves = self.heads[name]
        given = {**inputs, **runner.run(inputs)}
        return {one.name: given[one.name] for one in halves.crossing}, {
            one: given[one] for one in halves.early
        }

    def files(self) -> SliceFiles:
        return SliceFiles(None, WHOLE, self.tails)

    def _contract(self) -> Contract:
        graph = self.whole.model.graph

        def specs(values: Any) -> tuple[TensorSpec, ...]:  # noqa: ANN401  # of protobuf
            return tuple(
                TensorSpec(one.name, "FP32", tuple(d.dim_value or -1 for d in dims))
                for one in values
                for dims in [one.type.tensor_type.shape.dim]
            )

        return Contract(model="m", inputs=specs(graph.input), outputs=specs(graph.output))

    def _add(self, folder: Path, cut: cuts.Cut) -> None:
        head, tail = cuts.split(self.whole, cut)
        runner, inputs = Runner(head.model), self.inputs(2)
        seen = {**inputs, **runner.run(inputs)}
        crossing = tuple(
            TensorSpec(one.name, datatype_of(seen[one.name]), (-1, *seen[one.name].shape[1:]))
            for one in cut.crossing
        )
        halves = Halves(tuple(head.inputs), crossing, cut.early, batched=True)
        (path,) = tail.save(folder / "tail.onnx")
        self.heads[f"{WHOLE}-{cut.id}"] = runner, halves
        self.tails[f"{WHOLE}-{cut.id}"] = TailFile(path, halves, self.contract)


@contextlib.asynccontextmanager
async def http(pool: ModelPool) -> AsyncIterator[httpx.AsyncClient]:
    app = InferenceApp(pool, max_body_bytes=1 << 20)
    server = uvicorn.Server(uvicorn.Config(app, ws="none", log_config=None))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        task = asyncio.create_task(server.serve([listener]))
        host, port = listener.getsockname()
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=10) as client:
            yield client
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def served(cutting: Cutting, **settings: int) -> AsyncIterator[ModelPool]:
    async with ModelPool(ServingSettings(max_batch=8, **settings)) as pool:
        await pool.load(
            "m", "r1", path=cutting.path, contract=cutting.contract, files=cutting.files()
        )
        yield pool


async def ask(client: httpx.AsyncClient, request: InferRequest) -> InferResponse:
    body, headers = encode_request(request)
    path = f"/v2/models/m/versions/{request.version}/infer"
    answer = await client.post(path, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return decode_response(answer.content, int(answer.headers[HEADER_LENGTH]))


def request(inputs: Arrays) -> InferRequest:
    return InferRequest(model="m", inputs=inputs, binary_output=True, deadline_ms=10_000, id="q")


def error(found: Any, expected: Any) -> float:  # noqa: ANN401  # mappings of arrays
    assert found.keys() == expected.keys()
    return max(
        float(np.abs(found[n] - a).max() / max(np.abs(a).max(), 1e-9)) for n, a in expected.items()
    )


@pytest.mark.parametrize("name", ["late input", "mobilenet", "yolo"])
async def test_head_here_and_tail_there_are_the_whole(tmp_path: Path, name: str) -> None:
    cutting = Cutting(tmp_path, graphs.GRAPHS[name])
    inputs = cutting.inputs(3)
    expected = cutting.run(inputs)
    limits: dict[ActivationCodec, float] = {"none": 1e-5, "fp16": 0.01, "int8": 0.1}
    async with served(cutting, tails=3) as pool, http(pool) as client:
        for one, (_, halves) in cutting.heads.items():
            crossing, early = cutting.crossing(one, inputs)
            for codec, limit in limits.items():
                to = Destination("r1", one, codec, halves.early)
                answer = await ask(client, parts.asked(request(inputs), crossing, to))
                assert answer.parameters[SLICE] == one
                told = parts.told(request(inputs), answer, early)
                assert error(told.outputs, expected) <= limit, (one, codec)
            assert len(pool.tails.loaded) <= 3
        for codec, limit in limits.items():
            to = Destination("r1", WHOLE, codec)
            answer = await ask(client, parts.asked(request(inputs), inputs, to))
            assert error(answer.outputs, expected) <= limit, codec


async def test_texts_travel_as_numbers_and_come_back_as_texts(tmp_path: Path) -> None:
    path, vocabulary = tmp_path / "model.onnx", tmp_path / NAMES["vocabulary"]
    RANKER.write(tmp_path)
    whole = cuts.read(path)
    cut = cuts.cuts_of(whole).find("scores")
    head, tail = cuts.split(whole, cut)
    (file,) = tail.save(tmp_path / "tail.onnx")
    halves = Halves(("history",), (TensorSpec("scores", "FP32", (-1, 5)),), batched=True)
    files = SliceFiles(
        vocabulary, WHOLE, {"cut": TailFile(file, halves, RANKER.contract, vocabulary)}
    )
    numbers = coder_of(RANKER.contract, vocabulary.read_bytes()).encode(RANKER.asked)
    crossing = Runner(head.model).run(numbers)
    async with ModelPool(ServingSettings()) as pool:
        await pool.load("next", "r1", path=path, contract=RANKER.contract, files=files)
        plain = InferRequest(model="next", inputs=RANKER.asked, deadline_ms=10_000)
        for name, arrays in (("cut", crossing), (WHOLE, numbers)):
            asked = parts.asked(plain, arrays, Destination("r1", name))
            assert_same((await pool.infer(asked)).outputs, RANKER.answer)


async def test_requests_of_several_devices_share_a_run_of_the_tail(tmp_path: Path) -> None:
    cutting = Cutting(tmp_path, graphs.mobilenet, most=1)
    (name,) = cutting.heads
    async with served(cutting) as pool:
        given = [cutting.inputs(1, seed) for seed in range(12)]
        to = Destination("r1", name)
        answers = await asyncio.gather(
            *(
                pool.infer(parts.asked(request(one), cutting.crossing(name, one)[0], to))
                for one in given
            )
        )
        assert max(int(one.parameters["batch"]) for one in answers) > 1
        for one, answer in zip(given, answers, strict=True):
            assert error(answer.outputs, cutting.run(one)) <= 1e-5
        assert pool.tails.loaded == [("m", "r1", name)]
        again = cutting.files()
        await pool.load("m", "r2", path=cutting.path, contract=cutting.contract, files=again)
        assert pool.tails.loaded == []


async def test_more_tails_than_are_kept_still_answer(tmp_path: Path) -> None:
    cutting = Cutting(tmp_path, graphs.mobilenet, most=5)
    given = [cutting.inputs(1, seed) for seed in range(4)]
    async with served(cutting, tails=1) as pool:
        asked = [
            (
                one,
                parts.asked(request(one), cutting.crossing(name, one)[0], Destination("r1", name)),
            )
            for one in given
            for name in cutting.heads
        ]
        answers = await asyncio.gather(*(pool.infer(each) for _, each in asked))
        for (one, _), answer in zip(asked, answers, strict=True):
            assert error(answer.outputs, cutting.run(one)) <= 1e-5
        assert len(pool.tails.loaded) == 1


async def test_what_is_wrong_with_a_request_is_one_clear_error(tmp_path: Path) -> None:
    cutting = Cutting(tmp_path, graphs.late_input, most=3)
    name = next(iter(cutting.heads))
    inputs = cutting.inputs(2)
    crossing, _ = cutting.crossing(name, inputs)
    good = parts.asked(request(inputs), crossing, Destination("r1", name))
    message = good.inputs[ACTIVATIONS]

    def packed(arrays: Arrays) -> InferRequest:
        return msgspec.structs.replace(
            good, inputs={ACTIVATIONS: np.frombuffer(encode(arrays, "none"), np.uint8)}
        )

    change = msgspec.structs.replace
    cases = [
        (change(good, version="r0"), 404, "not-found", "active is r1"),
        (change(good, parameters={SLICE: "w0.50-int8"}), 404, "not-found", WHOLE),
        (change(good, inputs={"x": message}), 400, "bad-tensor", "UINT8"),
        (change(good, inputs={ACTIVATIONS: message[:-2]}), 400, "malformed-message", "checksum"),
        (packed({}), 400, "bad-tensor", "are not those"),
        (packed({**crossing, "x": message}), 400, "bad-tensor", "are not those"),
        (packed({n: a[:0] for n, a in crossing.items()}), 400, "bad-tensor", "at least one"),
        (packed({n: a.astype("f8") for n, a in crossing.items()}), 400, "bad-tensor", "FP64"),
        (
            change(good, parameters={SLICE: name, "explain": "occlusion"}),
            400,
            "bad-tensor",
            "cannot be spread",
        ),
    ]
    async with served(cutting) as pool, http(pool) as client:
        for asked, status, code, said in cases:
            body, headers = encode_request(asked)
            path = f"/v2/models/m/versions/{asked.version}/infer"
            answer = await client.post(path, content=body, headers=headers)
            assert answer.status_code == status, (asked, answer.text)
            if status != 200:
                assert answer.json()["code"] == code
                assert said in answer.json()["error"]
        body, headers = encode_request(change(good, version="", parameters={SLICE: name}))
        answer = await client.post("/v2/models/m/infer", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad-tensor")


async def test_a_tail_that_cannot_be_loaded_is_named_and_tried_again(tmp_path: Path) -> None:
    cutting = Cutting(tmp_path, graphs.mobilenet, most=1)
    (name,) = cutting.heads
    file = cutting.tails[name]
    content = file.path.read_bytes()
    inputs = cutting.inputs(1)
    asked = parts.asked(request(inputs), cutting.crossing(name, inputs)[0], Destination("r1", name))
    async with served(cutting) as pool:
        file.path.write_bytes(b"nothing")
        with pytest.raises(ModelLoadFailedError):
            await pool.infer(asked)
        file.path.write_bytes(cutting.path.read_bytes())
        with pytest.raises(ModelLoadFailedError, match="its release says"):
            await pool.infer(asked)
        file.path.write_bytes(content)
        assert (await pool.infer(asked)).outputs.keys() == cutting.run(inputs).keys()


async def test_a_tail_is_loaded_on_though_its_first_caller_is_late(tmp_path: Path) -> None:
    cutting = Cutting(tmp_path, graphs.mobilenet, most=1)
    (name,) = cutting.heads
    inputs = cutting.inputs(1)
    asked = parts.asked(request(inputs), cutting.crossing(name, inputs)[0], Destination("r1", name))
    async with served(cutting) as pool:
        with pytest.raises(DeadlineExceededError, match="loaded for the first time"):
            await pool.tails.get(("m", "r1", name), cutting.tails[name], 0.0)
        assert (await pool.infer(asked)).outputs.keys() == cutting.run(inputs).keys()


async def test_what_crosses_must_agree_on_the_batch(tmp_path: Path) -> None:
    cutting = Cutting(tmp_path, graphs.late_input, most=9)
    name = next(one for one, (_, halves) in cutting.heads.items() if len(halves.crossing) > 1)
    inputs = cutting.inputs(2)
    crossing, _ = cutting.crossing(name, inputs)
    first = next(iter(crossing))
    odd = {**crossing, first: crossing[first][:1]}
    asked = parts.asked(request(inputs), odd, Destination("r1", name))
    async with served(cutting) as pool:
        with pytest.raises(BadTensorError, match="the same windows"):
            await pool.infer(asked)
