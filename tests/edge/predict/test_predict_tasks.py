"""Models of any task on a device: loaded, asked over real HTTP, handed off, never fed telemetry."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from tests.tiny_models import ALL, CLASSIFIER, MATCHER, RANKER, Tiny, assert_same, name_of, texts

from aimass_edge.api import Api
from aimass_edge.config import ApiSettings, BoardSettings, CapacitySettings, HandoffSettings
from aimass_edge.handoff import Handoff
from aimass_edge.predict import Predictor
from aimass_edge.predict.active import open_checked
from aimass_edge.predict.telemetry import AlarmState, check_fed, judge, model_input, select
from aimass_edge.runtime import open_session
from aimass_shared.errors import BadTensorError, ModelLoadFailedError
from aimass_shared.inference import (
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    WantedOutput,
    decode_response,
    encode_request,
)
from aimass_shared.manifest import Contract, Sensor, TensorSpec
from aimass_shared.vocabulary import Vocabulary, pack

Make = Callable[..., Any]
Inputs = tuple[TensorSpec, ...]
BOARD = BoardSettings()
CAPACITY = CapacitySettings(default_deadline_ms=20_000)


async def activate(predictor: Predictor, tiny: Tiny, folder: Path) -> None:
    manifest = tiny.manifest("r1")
    await predictor.activate(manifest, manifest.slices[0], tiny.write(folder))


@asynccontextmanager
async def served(predictor: Predictor) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        predictor,
        Api(ApiSettings(port=0), predictor, predictor.status) as api,
        httpx.AsyncClient(base_url=api.url, timeout=30, trust_env=False) as client,
    ):
        yield client


def request(tiny: Tiny, **more: Any) -> InferRequest:  # noqa: ANN401  # fields
    return InferRequest(model=tiny.contract.model, inputs=tiny.asked, **more)


def spelled(tiny: Tiny) -> dict[str, object]:
    """What is asked, as a person would write it in JSON."""
    types = {spec.name: spec.datatype for spec in tiny.contract.inputs}
    tensors = [
        {"name": name, "datatype": types[name], "shape": array.shape, "data": array.tolist()}
        for name, array in tiny.asked.items()
    ]
    return {"inputs": tensors}


@pytest.mark.parametrize("tiny", ALL, ids=name_of)
async def test_it_is_asked_over_http_in_json_and_in_bytes(tmp_path: Path, tiny: Tiny) -> None:
    predictor, path = Predictor(BOARD, CAPACITY), f"/v2/models/{tiny.contract.model}"
    async with served(predictor) as client:
        await activate(predictor, tiny, tmp_path)
        described = (await client.get(path)).json()
        assert msgspec.convert(described["inputs"], Inputs) == tiny.contract.inputs
        found = {one["name"]: one["datatype"] for one in described["outputs"]}
        assert found == {spec.name: spec.datatype for spec in tiny.contract.outputs}
        answer = await client.post(f"{path}/infer", json=spelled(tiny))
        assert answer.status_code == 200, answer.text
        assert_same(decode_response(answer.content, None).outputs, tiny.answer)
        body, headers = encode_request(request(tiny, binary_output=True))
        answer = await client.post(f"{path}/infer", content=body, headers=headers)
        length = int(answer.headers[HEADER_LENGTH])
        assert_same(decode_response(answer.content, length).outputs, tiny.answer)


async def test_texts_are_strings_in_json(tmp_path: Path) -> None:
    predictor = Predictor(BOARD, CAPACITY)
    async with served(predictor) as client:
        await activate(predictor, RANKER, tmp_path)
        answer = (await client.post("/v2/models/next/infer", json=spelled(RANKER))).json()
        item = next(one for one in answer["outputs"] if one["name"] == "item")
        assert item["datatype"] == "BYTES"
        assert (item["shape"], item["data"]) == ([2, 2], ["A-1", "D-4", "B-2", "C-3"])
        assert answer["parameters"]["place"] == "local"


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        ({"datatype": "INT64", "shape": [1, 3], "data": [1, 2, 3]}, "expected BYTES"),
        ({"datatype": "BYTES", "shape": [1, 1], "data": [["A-1"]]}, "expected BYTES"),
        ({"datatype": "BYTES", "shape": [1], "data": [7]}, "Expected `str`"),
        ({"datatype": "BYTES", "shape": [0], "data": []}, "empty batch"),
    ],
)
async def test_wrong_texts_are_told_what_is_right(
    tmp_path: Path, tensor: dict[str, object], told: str
) -> None:
    predictor = Predictor(BOARD, CAPACITY)
    async with served(predictor) as client:
        await activate(predictor, RANKER, tmp_path)
        body = {"inputs": [tensor | {"name": "history"}]}
        answer = await client.post("/v2/models/next/infer", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad-tensor")
        assert told in answer.json()["error"]
        assert (await client.post("/v2/models/next/infer", json=spelled(RANKER))).is_success


async def test_the_status_says_that_it_takes_requests_only(
    tmp_path: Path, make_release: Make
) -> None:
    async with Predictor(BOARD, CAPACITY) as predictor:
        assert (predictor.status().task, predictor.status().telemetry) == ("", False)
        await activate(predictor, RANKER, tmp_path / "ranker")
        assert (predictor.status().task, predictor.status().telemetry) == ("rank", False)
        await predictor.activate(*make_release())
        assert (predictor.status().task, predictor.status().telemetry) == ("forecast", True)


async def test_a_window_for_a_model_that_takes_none_is_no_failure(
    tmp_path: Path, make_window: Make
) -> None:
    async with Predictor(BOARD, CAPACITY) as predictor:
        await activate(predictor, CLASSIFIER, tmp_path)
        assert await predictor.predict(make_window([1.0, 2.0, 3.0]), ("A", "B", "C")) is None
        assert (predictor.counts.windows, predictor.counts.failed_windows) == (0, 0)


@pytest.mark.parametrize("tiny", ALL, ids=name_of)
async def test_what_is_too_much_goes_to_the_cloud_with_all_its_tensors(
    tmp_path: Path, tiny: Tiny
) -> None:
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(Predictor(BOARD, CAPACITY))
        await activate(cloud, tiny, tmp_path / "cloud")
        api = await stack.enter_async_context(Api(ApiSettings(port=0), cloud, cloud.status))
        handoff = await stack.enter_async_context(Handoff(api.url, HandoffSettings(), bearer=str))
        full = CapacitySettings(queue_limit=0)
        device = await stack.enter_async_context(Predictor(BOARD, full, cloud=handoff))
        await activate(device, tiny, tmp_path / "device")
        answer = await device.infer(request(tiny, deadline_ms=20_000))
        assert_same(answer.outputs, tiny.answer)
        assert answer.parameters["place"] == "cloud"
        wanted = next(iter(tiny.answer))
        one = request(tiny, deadline_ms=20_000, outputs=(WantedOutput(wanted),))
        assert list((await device.infer(one)).outputs) == [wanted]
        assert (device.counts.handed_off, device.counts.answered) == (2, 0)


async def test_what_a_classifier_is_not_sure_of_is_asked_again_within_its_share(
    tmp_path: Path,
) -> None:
    cascade = HandoffSettings(policy="cascade", cascade_share=0.25, failures_to_open=10_000)
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(Predictor(BOARD, CAPACITY))
        await activate(cloud, CLASSIFIER, tmp_path / "cloud")
        api = await stack.enter_async_context(Api(ApiSettings(port=0), cloud, cloud.status))
        handoff = await stack.enter_async_context(Handoff(api.url, cascade, bearer=str))
        device = await stack.enter_async_context(Predictor(BOARD, CAPACITY, cloud=handoff))
        await activate(device, CLASSIFIER, tmp_path / "device")
        places = []
        for _ in range(200):
            answer = await device.infer(request(CLASSIFIER, deadline_ms=20_000))
            assert_same(answer.outputs, CLASSIFIER.answer)
            places.append(answer.parameters["place"])
        counts = device.counts
        assert counts.handed_off == places.count("cloud") == counts.asked_again
        assert counts.handed_off + counts.answered == counts.requests == 200
        assert 0 < counts.handed_off < 110
        await cloud.deactivate()
        for _ in range(50):
            answer = await device.infer(request(CLASSIFIER, deadline_ms=20_000))
            assert answer.parameters["place"] == "local"
        assert counts.asked_again > counts.handed_off, "it was asked and had no answer"
        assert counts.answered + counts.handed_off == counts.requests == 250


async def test_a_request_is_counted_once_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To whoever scrapes them, a count that falls again is an agent that started anew."""
    seen: list[int] = []
    ask = Handoff.infer

    async def telling(way: Handoff, asked: InferRequest, budget_ms: float) -> InferResponse:
        counts = device.counts
        seen.append(counts.requests - counts.answered - counts.handed_off)
        return await ask(way, asked, budget_ms)

    monkeypatch.setattr(Handoff, "infer", telling)
    cascade = HandoffSettings(policy="cascade", cascade_share=0.9)
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(Predictor(BOARD, CAPACITY))
        await activate(cloud, CLASSIFIER, tmp_path / "cloud")
        api = await stack.enter_async_context(Api(ApiSettings(port=0), cloud, cloud.status))
        handoff = await stack.enter_async_context(Handoff(api.url, cascade, bearer=str))
        device = await stack.enter_async_context(Predictor(BOARD, CAPACITY, cloud=handoff))
        await activate(device, CLASSIFIER, tmp_path / "device")
        for _ in range(40):
            await device.infer(request(CLASSIFIER, deadline_ms=20_000))
    assert seen
    assert set(seen) == {1}, "the request that asks has no outcome yet"


async def test_of_what_is_no_classifier_nothing_is_asked_again(tmp_path: Path) -> None:
    cascade = HandoffSettings(policy="cascade", cascade_share=1.0)
    async with (
        Handoff("http://127.0.0.1:9", cascade, bearer=str) as handoff,
        Predictor(BOARD, CAPACITY, cloud=handoff) as device,
    ):
        await activate(device, RANKER, tmp_path)
        await device.infer(request(RANKER, deadline_ms=20_000))
        assert (device.counts.asked_again, device.counts.answered) == (0, 1)


async def test_the_faults_of_a_model_are_counted_apart_from_those_of_its_callers(
    tmp_path: Path,
) -> None:
    small = pack(Vocabulary("items", ("A-1",), length=3))
    async with Predictor(BOARD, CAPACITY) as predictor:
        manifest = RANKER.manifest("r1")
        await predictor.activate(manifest, manifest.slices[0], RANKER.write(tmp_path, {}))
        (tmp_path / "vocabulary.json").write_bytes(small)
        with pytest.raises(ModelLoadFailedError, match="does not run: the model gave numbers"):
            await predictor.activate(manifest, manifest.slices[0], tmp_path)
        with pytest.raises(BadTensorError):
            await predictor.infer(InferRequest(model="next", inputs={"history": np.zeros(2)}))
        assert (predictor.counts.invalid, predictor.counts.model_failures) == (1, 0)


def refused(contract: Contract, folder: Path) -> str:
    with pytest.raises(ModelLoadFailedError) as error:
        open_checked(folder / "model.onnx", BOARD, contract, opener=open_session)
    return error.value.detail


def test_a_slice_that_is_not_what_its_contract_says_is_refused(tmp_path: Path) -> None:
    folder, right = MATCHER.write(tmp_path), MATCHER.contract
    longer = Vocabulary("words", ("pump",), length=7)
    (folder / "vocabulary.json").write_bytes(pack(longer))
    assert "first INT64[?,7]" in refused(right, folder)
    MATCHER.write(tmp_path)
    numbers = tuple(TensorSpec(spec.name, "FP32", (-1, 6)) for spec in right.inputs)
    assert "promises first FP32[?,6]" in refused(
        msgspec.structs.replace(right, inputs=numbers), folder
    )
    named = (TensorSpec("match", "BYTES", (-1,)),)
    assert "texts come as INT64" in refused(msgspec.structs.replace(right, outputs=named), folder)
    wide = (TensorSpec("match", "FP32", (-1, 2)),)
    assert "`match` is FP32 [1]" in refused(msgspec.structs.replace(right, outputs=wide), folder)


# A contract with sensors, as forecasts of prices have it: no alarm, and perhaps no mask.

PRICES = Contract(
    model="prices",
    sensors=(Sensor("close", "EUR", "price"), Sensor("volume", "", "count")),
    step_ms=60_000,
    window=2,
    horizon=1,
    inputs=(TensorSpec("values", "FP32", (-1, 2, 2)),),
    outputs=(TensorSpec("forecast", "FP32", (-1, 1, 2)),),
)


def test_a_forecast_without_an_alarm_has_no_score(make_window: Make) -> None:
    window = make_window([1.0, 2.0, 3.0], rows=2)
    taken = model_input(PRICES, window, select(PRICES, ("volume", "x", "close")))
    assert list(taken.feeds) == ["values"]
    assert taken.feeds["values"].tolist() == [[[3.0, 1.0], [3.0, 1.0]]]
    judged = judge(PRICES, {"forecast": np.array([[[3.5, 1.5]]], np.float32)})
    assert (judged.score, judged.top_sensors, judged.forecast) == (0.0, (), (3.5, 1.5))
    assert not AlarmState(None).step(1e9)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inputs": (TensorSpec("prices", "FP32", (-1, 2, 2)),)}, "but takes prices"),
        ({"inputs": (TensorSpec("mask", "FP32", (-1, 2, 2)),)}, "but takes mask"),
        ({"inputs": ()}, "but takes nothing"),
        ({"window": 0}, "windows of 0 rows"),
        ({"stride": 0}, "every 0"),
        ({"step_ms": 0}, "0 ms apart"),
    ],
)
def test_sensors_that_no_window_can_be_fed_from_are_refused(
    change: dict[str, object], told: str
) -> None:
    check_fed(PRICES)
    with pytest.raises(ModelLoadFailedError, match=told):
        check_fed(msgspec.structs.replace(PRICES, **change))


def test_a_model_without_sensors_may_take_anything() -> None:
    for tiny in ALL:
        check_fed(tiny.contract)


async def test_many_texts_at_once(tmp_path: Path) -> None:
    lines: Sequence[str] = ["A-1", "nothing known", "", "D-4 A-1 B-2 C-3 D-4"] * 50
    async with Predictor(BOARD, CAPACITY) as predictor:
        await activate(predictor, RANKER, tmp_path)
        answer = await predictor.infer(
            InferRequest(model="next", inputs={"history": texts(*lines)})
        )
        assert answer.outputs["item"].shape == (200, 2)
        assert answer.outputs["item"][3].tolist() == ["A-1", "D-4"]
        assert set(answer.outputs["item"].ravel()) <= {"", "A-1", "B-2", "C-3", "D-4"}
