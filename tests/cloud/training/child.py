"""A task that trains in milliseconds, and the processes that tests start to train it.

python child.py die DIRECTORY STEP        trains, and kills itself in the middle of that step
torchrun child.py together DIRECTORY      trains in all ways that processes can share
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.nn.functional import dropout

from aimass_cloud.models.losses import DISTANCES, distance
from aimass_cloud.models.network import Batch, Network, Tensors
from aimass_cloud.models.samples import Samples
from aimass_cloud.recipes.run import Optimizer, RunSettings, Schedule
from aimass_cloud.recipes.sampling import Drawn
from aimass_cloud.recipes.task import Source, Task
from aimass_cloud.training.run_directory import RunDirectory
from aimass_cloud.training.trainer import Trained, Trainer
from aimass_cloud.training.world import World, joined

FEATURES, HIDDEN = 6, 8
RUN = RunSettings(
    seed=3,
    steps=40,
    batch=32,
    check=10,
    checkpoint=10,
    clip_norm=1.0,
    average=0.9,
    optimizer=Optimizer(rate=2e-2),
    schedule=Schedule(warm_up=5),
    device="cpu",
)


class Tiny(Network):
    """Two linear layers."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"inner": (1,), "outer": (0,)}
    LOSSES: ClassVar[tuple[str, ...]] = tuple(DISTANCES)

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.inner = nn.Parameter(torch.randn(FEATURES, HIDDEN) / FEATURES**0.5)
        self.outer = nn.Parameter(torch.zeros(HIDDEN, 1))
        self.bias = nn.Parameter(torch.zeros(1))

    def predict(self, batch: Batch) -> Tensor:
        hidden = dropout(torch.tanh(batch["x"] @ self.inner), self.share, self.training)
        return hidden @ self.outer + self.bias

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:
        return distance(self.loss, prediction.float() - batch["y"]).mean()


class TinyTask(Task):
    """Regression on samples that are drawn anew from the same seed.

    Attributes:
        share: of hidden channels that dropout leaves out. before: is called before each batch.
    """

    def __init__(self, share: float = 0.0, before: Callable[[], None] | None = None) -> None:
        self.share = share
        self.train, self.held = (_samples(count, seed) for seed, count in enumerate((400, 100)))
        self._before = before

    def network(self) -> Network:
        return Tiny(self.share)

    def source(self, *, batch: int, rank: int = 0, world: int = 1) -> Source:
        return _Told(Drawn(self.train, 7, batch, rank, world), self._before)

    def held_back(self) -> Sequence[Batch]:
        return (self.held,)

    def samples(self) -> Samples:
        raise NotImplementedError


class _Told:
    def __init__(self, source: Source, before: Callable[[], None] | None) -> None:
        self._source, self._before = source, before

    def batches(self, start: int) -> Iterator[Batch]:
        for batch in self._source.batches(start):
            if self._before is not None:
                self._before()
            yield batch


def _samples(count: int, seed: int) -> Tensors:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, FEATURES, generator=random)
    return {"x": x, "y": torch.sin(x[:, :2].sum(1, keepdim=True)) + 0.3 * x[:, 2:3]}


def trained(
    run: RunSettings,
    directory: Path | None = None,
    *,
    task: TinyTask | None = None,
    world: World | None = None,
) -> Trained:
    """Train the tiny task; a directory that holds a run goes on with it."""
    torch.manual_seed(run.seed)
    place = None if directory is None else RunDirectory(directory)
    if place is not None and (world is None or world.leads):
        place.check("tiny", run, resume=True)
        place.begin("tiny", run)
    return Trainer(task or TinyTask(), run, world=world, directory=place).train(lambda *_: None)


def die(directory: Path, step: int) -> None:
    """Train with dropout, and be killed when a batch is asked for."""
    left = [step]

    def count() -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    trained(RUN, directory, task=TinyTask(0.3, count))


class StoppedError(Exception):
    """The training was to end here."""


def stopping(batches: int) -> Callable[[], None]:
    """Let some batches pass and none after them."""
    left = iter(range(batches))

    def stop() -> None:
        if next(left, None) is None:
            raise StoppedError

    return stop


def together(directory: Path) -> None:
    """Train with all processes: in both ways, and one run in one way after the other."""
    torch.set_num_threads(1)
    found: dict[str, list[float | None]] = {}
    with joined(RUN) as first:
        ddp, fsdp = (replace(RUN, distributed=kind) for kind in ("ddp", "fsdp"))
        in_parts = replace(fsdp, accumulate=3)
        for name, run in {"ddp": ddp, "fsdp": fsdp, "in-parts": in_parts}.items():
            world = World(first.device, first.rank, first.size, run.distributed)
            rows = trained(run, directory / name, world=world).rows
            found[name] = [row.loss for row in rows]
        for run in (ddp, fsdp):
            world = World(first.device, first.rank, first.size, run.distributed)
            with suppress(StoppedError):
                trained(run, directory / "half", task=TinyTask(before=stopping(15)), world=world)
        if first.leads:
            (directory / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    command, where, *rest = sys.argv[1:]
    if command == "die":
        die(Path(where), int(rest[0]))
    else:
        together(Path(where))
