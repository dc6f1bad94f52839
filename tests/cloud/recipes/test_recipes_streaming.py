"""Batches of streamed windows: taken up anywhere, shared out, and each window once an epoch."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aimass_cloud.datasets import shards
from aimass_cloud.models.network import Batch
from aimass_cloud.recipes.streaming import Streamed
from aimass_shared.errors import DataError

ROWS, LENGTH, STRIDE, BATCH = 100, 4, 2, 8
OF_AN_EPOCH = 6


def _made(windows: NDArray[np.float32], random: np.random.Generator) -> Batch:
    noise = random.normal(size=len(windows)).astype(np.float32)
    return {"window": torch.from_numpy(windows), "noise": torch.from_numpy(noise)}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> shards.Shards:
    folder = str(tmp_path_factory.mktemp("series"))
    rows = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2)
    shards.write(folder, rows, ["a", "b"], shard_rows=30)
    return shards.Shards.open(folder)


def _streamed(series: shards.Shards, rank: int = 0, world: int = 1) -> Streamed:
    return Streamed(series, LENGTH, STRIDE, 5, BATCH, _made, rank, world)


def _taken(source: Streamed, start: int, count: int) -> list[Batch]:
    return list(islice(source.batches(start), count))


def _same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_an_epoch_has_each_window_once_and_the_next_another_order(series: shards.Shards) -> None:
    batches = _taken(_streamed(series), 0, 2 * OF_AN_EPOCH)
    first, second = (_starts(part) for part in (batches[:OF_AN_EPOCH], batches[OF_AN_EPOCH:]))
    for epoch in (first, second):
        assert len(set(epoch)) == len(epoch) == OF_AN_EPOCH * BATCH
        assert all(row % STRIDE == 0 for row in epoch)
    assert first != second


def _starts(batches: Sequence[Batch]) -> list[int]:
    return [int(row) // 2 for batch in batches for row in batch["window"][:, 0, 0]]


@pytest.mark.parametrize("start", [1, OF_AN_EPOCH - 1, OF_AN_EPOCH, 2 * OF_AN_EPOCH + 3])
def test_a_run_can_be_taken_up_at_any_step(series: shards.Shards, start: int) -> None:
    whole = _taken(_streamed(series), 0, start + 4)[start:]
    resumed = _taken(_streamed(series), start, 4)
    assert all(_same(one, other) for one, other in zip(whole, resumed, strict=True))


def test_processes_share_each_batch_out(series: shards.Shards) -> None:
    whole = _taken(_streamed(series), 3, 5)
    parts = [_taken(_streamed(series, rank, 3), 3, 5) for rank in range(3)]
    for number, batch in enumerate(whole):
        for rank in range(3):
            assert torch.equal(parts[rank][number]["window"], batch["window"][rank::3])
    assert not torch.equal(parts[0][0]["noise"][:2], parts[1][0]["noise"][:2])


def test_too_few_windows_for_a_batch_are_an_error(series: shards.Shards) -> None:
    source = Streamed(series, LENGTH, STRIDE, 5, 1000, _made)
    with pytest.raises(DataError, match="49 windows of 4 rows, fewer than batch = 1000"):
        next(source.batches(0))
