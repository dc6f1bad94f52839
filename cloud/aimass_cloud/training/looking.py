"""Looks at held-back samples, with weights that need not be those that are being trained.

The weights looked at may be an average, or lie in parts on many processes: so a network of its own
shows them, in fp32 and without dropout, as it would ship.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aimass_cloud.models.network import Batch, Frozen, Network, Tensors, predictor
from aimass_cloud.models.relations import Change, change
from aimass_cloud.models.samples import Arrays
from aimass_cloud.recipes.assembly import numbers
from aimass_cloud.recipes.task import Task


@dataclass(frozen=True, eq=False)
class Best:
    """The weights of the smallest held-back error so far.

    Attributes:
        error: what the task watches. step: after which it was so.
        weights: by the names of the network's parameters, on the CPU; only the process that leads
            has them.
    """

    error: float
    step: int
    weights: Tensors


class Looker:
    """Holds a network and shows it to a task with other weights."""

    def __init__(self, task: Task, network: Network, device: torch.device) -> None:
        """Copy a network; its constants are shared where they are on that device already."""
        self._task, self._device = task, device
        self._cpu = _copied(network).eval()
        self._there = self._cpu if device.type == "cpu" else deepcopy(self._cpu).to(device)
        self._predict = predictor(self._there)
        self._constants: Arrays | None = None

    @torch.no_grad()
    def error(self, weights: Mapping[str, Tensor], widths: tuple[float, ...]) -> float:
        """What the task watches of a network with these weights; smaller is better."""
        for network in (self._cpu, self._there):
            _load(network, weights)
        return self._task.watch(self._cpu, widths, self._predicted)

    def graph_moved(self) -> Change | None:
        """How the graph of the weights looked at last differs from that of the look before."""
        before, self._constants = self._constants, numbers(self._cpu.frozen().constants)
        return None if before is None else change(before, self._constants)

    def weights(self) -> Tensors:
        """Copies of the weights that were looked at last, by the names of the parameters."""
        return {name: _own(weight) for name, weight in self._cpu.named_parameters()}

    def frozen(self, best: Best) -> Frozen:
        """The network with its best weights as it ships."""
        _load(self._cpu, best.weights)
        return self._cpu.frozen()

    def _predicted(self, width: float, batch: Batch) -> Tensor:
        moved = {name: tensor.to(self._device) for name, tensor in batch.items()}
        return self._predict(width, moved).cpu()


@torch.no_grad()
def _load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, weight in network.named_parameters():
        weight.copy_(weights[name])


def _copied(network: Network) -> Network:
    constants = {id(buffer): buffer for buffer in network.buffers()}
    return deepcopy(network, constants)


def _own(weight: Tensor) -> Tensor:
    return weight.detach().clone()
