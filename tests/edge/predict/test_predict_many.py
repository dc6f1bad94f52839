"""The predictor with long inputs and explanations: inside capacity, equal to one by one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aimass_edge.config import BoardSettings, CapacitySettings
from aimass_edge.predict import Predictor
from aimass_shared.errors import BadTensorError, NotFoundError
from aimass_shared.inference import InferRequest

Make = Callable[..., Any]
BOARD = BoardSettings(name="test-board")
CAPACITY = CapacitySettings(default_deadline_ms=30_000, queue_limit=64, safety=1.5)


def _request(values: np.ndarray, **parameters: str | int) -> InferRequest:
    inputs = {"values": values, "mask": np.ones_like(values)}
    return InferRequest(model="tiny", inputs=inputs, parameters=parameters)


async def test_a_long_series_gives_what_its_windows_give_one_by_one(make_release: Make) -> None:
    rows = np.random.default_rng(0).normal(size=(1, 40, 3)).astype(np.float32)
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*make_release("r1"))
        answer = await predictor.infer(_request(rows, sliding_stride=2))
        scores = []
        for at in range(0, 37, 2):
            alone = await predictor.infer(_request(np.ascontiguousarray(rows[:, at : at + 4])))
            scores.append(alone.outputs["score"][0])
        assert np.allclose(answer.outputs["score"][0], scores, rtol=1e-6)
        assert answer.outputs["forecast"].shape == (1, 38, 3)
        assert np.isfinite(answer.outputs["forecast"]).all()
        assert (answer.parameters["place"], answer.parameters["windows"]) == ("local", 19)


async def test_an_explanation_comes_with_the_answer_and_its_cost(make_release: Make) -> None:
    values = np.zeros((1, 4, 3), np.float32)
    values[0, :, 1] = 2.0
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*make_release("r1"))
        answer = await predictor.infer(_request(values, explain="occlusion"))
        named = dict(
            zip(answer.outputs["explanation_of"], answer.outputs["explanation"], strict=True)
        )
        assert max(named, key=lambda name: named[name]) == "B"
        assert named["A"] == named["C"] == 0.0
        assert answer.parameters["explained_samples"] == 4


async def test_what_cannot_be_done_is_refused_by_name(make_release: Make) -> None:
    values = np.zeros((1, 3, 3), np.float32)
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*make_release("r1"))
        with pytest.raises(BadTensorError, match="at least 4 rows"):
            await predictor.infer(_request(values, sliding_stride=1))
        with pytest.raises(NotFoundError):
            await predictor.infer(
                InferRequest(model="other", inputs={}, parameters={"explain": "occlusion"})
            )
