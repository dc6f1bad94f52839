"""Trains on windows: `trainee {stream,memory,bare} FOLDER STEPS`; told "train", it does so once.

`stream` is the product's way: its trainer over shards. `memory` gives the same trainer all rows at
once. `bare` is a loop by hand over the same shards: the least that such steps can cost.
"""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from aimass_cloud.datasets.shards import Shards
from aimass_cloud.models.network import Batch, Network
from aimass_cloud.models.samples import Samples
from aimass_cloud.recipes.run import Optimizer, RunSettings
from aimass_cloud.recipes.sampling import Drawn
from aimass_cloud.recipes.streaming import Streamed
from aimass_cloud.recipes.task import Source, Task
from aimass_cloud.training.trainer import Trainer
from benchmarks.children.lines import answer

PAST, LENGTH, STRIDE, BATCH = 72, 96, 16, 256
RATE = 1e-3
KIB_IN_MIB = 1024
MICRO = 1e6


class Linear(Network):
    """One linear map from the past of a sensor to its future, for all sensors."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.zeros(PAST, LENGTH - PAST))

    def predict(self, batch: Batch) -> Tensor:
        return batch["window"][:, :PAST].transpose(1, 2) @ self.map

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:
        return mse_loss(prediction, batch["window"][:, PAST:].transpose(1, 2))


class Series(Task):
    """A series in shards, or all of it in memory."""

    def __init__(self, series: Shards, *, held: bool) -> None:
        self._series, self._held = series, held

    def network(self) -> Network:
        return Linear()

    def source(self, *, batch: int, rank: int = 0, world: int = 1) -> Source:
        if not self._held:
            return Streamed(self._series, LENGTH, STRIDE, 0, batch, _made, rank, world)
        rows = torch.from_numpy(next(self._series.rows_from(0, self._series.rows)))
        windows = rows.unfold(0, LENGTH, STRIDE).transpose(1, 2)
        return Drawn({"window": windows}, 0, batch, rank, world)

    def held_back(self) -> Sequence[Batch]:
        return ({"window": torch.zeros(1, LENGTH, len(self._series.names))},)

    def samples(self) -> Samples:
        raise NotImplementedError


def _made(windows: NDArray[np.float32], _random: np.random.Generator) -> Batch:
    return {"window": torch.from_numpy(windows)}


def trainer(task: Task, steps: int) -> None:
    """The product's trainer, at one width, with one look at the end."""
    run = RunSettings(
        steps=steps,
        batch=BATCH,
        check=steps,
        widths=(1.0,),
        optimizer=Optimizer(rate=RATE),
        device="cpu",
    )
    Trainer(task, run).train(lambda *_: None)


def bare(task: Task, steps: int) -> None:
    """A loop by hand."""
    network = task.network()
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    batches = task.source(batch=BATCH).batches(0)
    for _ in range(steps):
        batch = next(batches)
        loss = network.criterion(network.predict(batch), batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


WAYS: dict[str, Callable[[Task, int], None]] = {"stream": trainer, "memory": trainer, "bare": bare}


def reply(kind: str, folder: Path, steps: int) -> dict[str, object]:
    """One training: CPU time of a window, and the peak of the process."""
    torch.set_num_threads(1)
    task = Series(Shards.open(str(folder)), held=kind == "memory")
    began = time.process_time()
    WAYS[kind](task, steps)
    return {
        "cpu_us": (time.process_time() - began) / (steps * BATCH) * MICRO,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_IN_MIB,
    }


if __name__ == "__main__":
    answer(lambda _: reply(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
