"""The pool with long inputs and explanations: the same as asking for each sample in turn."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from aimass_cloud.config import ServingSettings
from aimass_cloud.serving import ModelPool
from aimass_shared.errors import BadTensorError
from aimass_shared.inference import InferRequest, Tensor
from aimass_shared.manifest import Contract

Models = Callable[[float], Path]


@pytest.fixture
async def pool(model_file: Models, contract: Contract) -> AsyncIterator[ModelPool]:
    async with ModelPool(ServingSettings(max_batch=8, queue_limit=64)) as made:
        await made.load("tiny", "r1", path=model_file(2), contract=contract)
        yield made


def _request(values: Tensor, **parameters: str | int) -> InferRequest:
    inputs = {"values": values, "mask": np.ones_like(values)}
    return InferRequest(model="tiny", inputs=inputs, deadline_ms=20_000, parameters=parameters)


async def test_a_long_series_gives_what_its_windows_give_one_by_one(
    pool: ModelPool, contract: Contract
) -> None:
    rows = np.random.default_rng(0).normal(size=(1, 61, 3)).astype(np.float32)
    answer = await pool.infer(_request(rows, sliding_stride=1))
    alone = [
        (await pool.infer(_request(rows[:, at : at + contract.window]))).outputs["score"][0]
        for at in range(61 - contract.window + 1)
    ]
    assert np.array_equal(answer.outputs["score"][0], np.array(alone, np.float32))
    assert answer.outputs["forecast"].shape == (1, len(alone) - 1 + contract.horizon, 3)
    assert answer.parameters["windows"] == len(alone)


async def test_an_explanation_comes_with_the_answer_and_its_cost(pool: ModelPool) -> None:
    values = np.zeros((1, 4, 3), np.float32)
    values[0, :, 1] = 1.0
    plain = await pool.infer(_request(values))
    answer = await pool.infer(_request(values, explain="occlusion"))
    assert answer.outputs["score"].tolist() == plain.outputs["score"].tolist()
    assert answer.outputs["explanation_of"].tolist() == ["S0", "S1", "S2"]
    assert answer.outputs["explanation"].shape == (3,)
    assert answer.parameters["explained_samples"] == 4
    assert float(answer.parameters["service_ms"]) > 0


async def test_windows_are_no_long_series(pool: ModelPool) -> None:
    with pytest.raises(BadTensorError, match="at least 4 rows"):
        await pool.infer(_request(np.zeros((2, 4, 3), np.float32), sliding_stride=1))
