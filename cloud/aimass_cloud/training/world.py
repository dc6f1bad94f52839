"""The processes that train one model together, and the device that each computes on.

`torchrun` starts them and says in the environment who each is; without it there is one. Either all
hold all weights and gradients are averaged (DDP), or each holds a part of every weight, gradient
and optimizer state between steps (FSDP2). Nothing here knows what is trained. What only several
processes need is imported when there are several: it takes half as long to import as torch.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aimass_cloud.recipes.run import RunSettings
from aimass_shared.errors import InvalidSettingError

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: one of them looks, writes and reports for all."""
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class World:
    """All processes of a training.

    Attributes:
        device: of this one. rank: its number. size: how many there are.
        kind: how they share the training.
    """

    device: torch.device = CPU
    rank: int = 0
    size: int = 1
    kind: Literal["ddp", "fsdp"] = "ddp"

    @property
    def leads(self) -> bool:
        """Whether this process looks, writes and reports for all."""
        return self.rank == 0

    def shared(self, module: nn.Module) -> nn.Module:
        """The module as a step calls it; its parameters are trained by all processes together."""
        module.to(self.device)
        if self.size == 1:
            return module
        if self.kind == "fsdp":
            from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415  as above
            from torch.distributed.fsdp import fully_shard  # noqa: PLC0415  as above

            fully_shard(module, mesh=init_device_mesh(self.device.type, (self.size,)))
            return module
        devices = None if self.device.type == "cpu" else [self.device]
        return DistributedDataParallel(module, devices, forward_sync_buffers=False)

    def gathering(self, module: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """A forward and a backward pass of a part of a step; the last one averages gradients."""
        if self.size > 1 and self.kind == "fsdp":
            cast("FSDPModule", module).set_requires_gradient_sync(last)
        if isinstance(module, DistributedDataParallel) and not last:
            return cast("AbstractContextManager[object]", module.no_sync())
        return nullcontext()

    def mean(self, value: Tensor) -> float:
        """The mean of a number over all processes."""
        if self.size > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return float(value) / self.size

    def told(self, value: float) -> float:
        """A number of the process that leads, in all of them."""
        if self.size == 1:
            return value
        number = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(number, 0)
        return float(number)

    def wait(self) -> None:
        """Until the process that leads is here."""
        self.told(0.0)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process may hold a part; every process must ask."""
    return cast("DTensor", tensor).full_tensor() if _is_part(tensor) else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor, or the part that this process holds of one such as `like`."""
    moved = tensor.to(like.device, copy=True)
    if not _is_part(like):
        return moved
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415  as above

    part = cast("DTensor", like)
    return distribute_tensor(moved, part.device_mesh, part.placements, src_data_rank=None)


def _is_part(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


@contextmanager
def joined(run: RunSettings) -> Iterator[World]:
    """The processes that `torchrun` started for this training, until the block ends.

    Raises:
        InvalidSettingError: the device is not there, cannot do the precision, or the batch is
            smaller than the parts that it is to be cut into.
    """
    rank, size, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    world = World(_device(run, local), rank, size, run.distributed)
    _check(run, world)
    if size == 1 or dist.is_initialized():
        yield world
        return
    cuda = world.device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo", timeout=PATIENCE, device_id=world.device if cuda else None
    )
    try:
        yield world
    finally:
        dist.destroy_process_group()


def _device(run: RunSettings, local: int) -> torch.device:
    if run.device == "cpu" or (run.device == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        raise InvalidSettingError('device = "cuda", but torch sees no GPU: take "auto" or "cpu"')
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _check(run: RunSettings, world: World) -> None:
    if run.precision == "fp16" and (world.device.type == "cpu" or world.kind == "fsdp"):
        raise InvalidSettingError(
            'precision = "fp16" needs a GPU, and not `distributed = "fsdp"`: take "bf16"'
        )
    if run.batch < world.size * run.accumulate:
        raise InvalidSettingError(
            f"batch = {run.batch} cannot be cut into {run.accumulate} parts (accumulate) for each"
            f" of {world.size} processes"
        )
