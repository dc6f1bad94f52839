"""Requests of many samples: cut, answered in parallel, put together, and given up together."""

import asyncio
import time

import numpy as np
import pytest

from aimass_shared.errors import BadTensorError, DeadlineExceededError, OverloadedError
from aimass_shared.inference import InferRequest, InferResponse
from aimass_shared.manifest import AlarmRule, Contract, Sensor, TensorSpec
from aimass_shared.spreading import TOGETHER, answered, asks_for_many, spread_of

CONTRACT = Contract(
    model="m",
    inputs=(TensorSpec("values", "FP32", (-1, 3, 2)), TensorSpec("mask", "FP32", (-1, 3, 2))),
    outputs=(TensorSpec("forecast", "FP32", (-1, 1, 2)), TensorSpec("score", "FP32", (-1,))),
    sensors=(Sensor("a", "%", "continuous"), Sensor("b", "%", "continuous")),
    window=3,
    horizon=1,
    alarm=AlarmRule(score="score", threshold=1.0, contribution="score"),
)


def _request(rows: int, **parameters: str | int) -> InferRequest:
    values = np.arange(2.0 * rows, dtype=np.float32).reshape(1, rows, 2)
    inputs = {"values": values, "mask": np.ones_like(values)}
    return InferRequest(model="m", id="7", inputs=inputs, parameters=parameters)


class Model:
    """Forecasts twice the last row; its score is the sum of what is not masked."""

    def __init__(self) -> None:
        self.asked: list[InferRequest] = []
        self.most = self.now = 0

    async def answer(self, request: InferRequest) -> InferResponse:
        self.asked.append(request)
        place = "local" if len(self.asked) == 1 else "cloud"
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        values = np.where(request.inputs["mask"].astype(bool), request.inputs["values"], 0.0)
        outputs = {"forecast": 2 * values[:, -1:], "score": values.sum(axis=(1, 2))}
        return InferResponse(
            model="m", version="r1", outputs=outputs, parameters={"place": place, "service_ms": 1.0}
        )


async def _answered(request: InferRequest, model: Model, batch: int = 2) -> InferResponse:
    spread = spread_of(CONTRACT, request)
    return await answered(spread, request, model.answer, batch=batch, deadline_ms=1000)


async def test_a_long_input_gives_what_each_window_gives() -> None:
    request, model = _request(22, sliding_stride=1, priority=3), Model()
    answer = await _answered(request, model)
    assert np.array_equal(answer.outputs["forecast"][0], 2 * request.inputs["values"][0, 2:])
    assert answer.outputs["score"].shape == (1, 20)
    assert len(model.asked) == 10
    assert model.most == TOGETHER
    assert answer.id == "7"
    assert (answer.parameters["place"], answer.parameters["windows"]) == ("mixed", 20)
    for asked in model.asked:
        assert asked.parameters == {"priority": 3}
        assert asked.deadline_ms is not None
        assert asked.deadline_ms <= 1000


async def test_an_explained_answer_holds_the_answer_and_the_parts() -> None:
    request, model = _request(3, explain="occlusion"), Model()
    answer = await _answered(request, model, batch=8)
    assert answer.outputs["score"].tolist() == [15.0]
    assert answer.outputs["explanation"].tolist() == [6.0, 9.0]
    assert answer.outputs["explanation_of"].tolist() == ["a", "b"]
    assert answer.parameters["explained_samples"] == 3
    assert answer.parameters["place"] == "local"


async def test_when_one_part_fails_the_others_are_given_up() -> None:
    running: set[asyncio.Task[object] | None] = set()

    async def refuse(request: InferRequest) -> InferResponse:
        running.add(asyncio.current_task())
        if request.inputs["values"][0, 0, 0] == 0:
            await asyncio.sleep(0)
            raise OverloadedError("full")
        await asyncio.Event().wait()
        raise AssertionError

    request = _request(30, sliding_stride=1)
    spread = spread_of(CONTRACT, request)
    with pytest.raises(OverloadedError):
        await answered(spread, request, refuse, batch=1, deadline_ms=60_000)
    assert all(task is not None and task.done() for task in running)


async def test_the_deadline_is_that_of_the_whole_request() -> None:
    async def slowly(request: InferRequest) -> InferResponse:
        time.sleep(0.02)  # noqa: ASYNC251  a model that blocks
        return await Model().answer(request)

    request = _request(60, sliding_stride=1)
    spread = spread_of(CONTRACT, request)
    with pytest.raises(DeadlineExceededError, match="58 samples"):
        await answered(spread, request, slowly, batch=1, deadline_ms=100)


def test_plain_requests_are_left_alone_and_two_wishes_are_one_too_many() -> None:
    assert not asks_for_many(_request(3))
    assert asks_for_many(_request(3, explain="occlusion"))
    with pytest.raises(BadTensorError, match="not both"):
        spread_of(CONTRACT, _request(3, explain="occlusion", sliding_stride=1))
    with pytest.raises(BadTensorError, match="no method 'magic'"):
        spread_of(CONTRACT, _request(3, explain="magic"))
