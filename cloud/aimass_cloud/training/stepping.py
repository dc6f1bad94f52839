"""Takes the steps of a training: forward, backward, clip, optimizer, average.

What is random in a step (dropout) follows from the seed, the step's number and the process, and is
drawn anew for each: a step is the same whether the ones before it ran in this process or not.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from aimass_cloud.models.network import Batch, Network, Tensors
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.training.checkpoints import State
from aimass_cloud.training.history import Row
from aimass_cloud.training.looking import Best
from aimass_cloud.training.objective import Objective
from aimass_cloud.training.optimizing import (
    Average,
    casting,
    optimizer_of,
    parts_of,
    rate_at,
    rows_of,
    scaler_of,
)
from aimass_cloud.training.world import World, placed, whole

COUNT = "step"


class Stepper:
    """A network with what changes its weights, shared with all processes."""

    def __init__(self, network: Network, run: RunSettings, world: World) -> None:
        """Take a network; it moves to this process's device, and may keep a part of it only."""
        self._run, self._world = run, world
        objective = Objective(network, widths=run.widths, kind=run.nesting)
        self._module = world.shared(objective)
        self._weights = dict(objective.network.named_parameters())
        self._optimizer = optimizer_of(run, self._weights.values(), objective.parts)
        self._scaler = scaler_of(run, world.device)
        self._average = Average(self._weights, run.average) if run.average else None

    def take(self, step: int, batch: Batch) -> Tensor:
        """Take a step with this process's share of a batch; the loss, for a mean over processes."""
        self._seed(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(self._run, step)
        self._optimizer.zero_grad()
        loss = self._backward(step, self._moved(batch))
        if self._run.clip_norm:
            self._scaler.unscale_(self._optimizer)
            clip_grad_norm_(self._weights.values(), self._run.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.add(self._weights, step)
        return loss

    def shown(self) -> Tensors:
        """Full weights to look at, the average where there is one; every process must ask."""
        weights = self._weights if self._average is None else self._average.weights
        return {name: whole(weight.detach()) for name, weight in weights.items()}

    def state(self, best: Best, rows: Sequence[Row], step: int) -> State:
        """All that another training needs to go on from here; every process must ask."""
        average = {} if self._average is None else self._average.weights
        optimizer = {
            f"{name}/{key}": value
            for name, weight in self._weights.items()
            for key, value in self._optimizer.state[weight].items()
            if isinstance(value, Tensor)
        }
        weights, optimizer, average = (
            {name: whole(tensor.detach()).cpu() for name, tensor in part.items()}
            for part in (self._weights, optimizer, average)
        )
        return State(
            step, best, tuple(rows), weights, optimizer, average, self._scaler.state_dict()
        )

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Go on from a state, with any number of processes."""
        for name, weight in self._weights.items():
            weight.copy_(placed(state.weights[name], weight))
            if self._average is not None:
                self._average.weights[name] = placed(state.average[name], weight)
        for path, tensor in state.optimizer.items():
            name, _, key = path.rpartition("/")
            weight = self._weights[name]
            # The count of steps is a number on the CPU, whatever the weight is.
            shared = tensor.shape == weight.shape and key != COUNT
            own = placed(tensor, weight) if shared else tensor.clone()
            self._optimizer.state[weight][key] = own
        if state.scaler:
            self._scaler.load_state_dict(dict(state.scaler))

    def _backward(self, step: int, batch: Batch) -> Tensor:
        """Gradients of a batch, in parts; each part counts as much as it has samples."""
        run, world, module = self._run, self._world, self._module.train()
        total = torch.zeros((), device=world.device)
        whole_batch = run.batch if world.size > 1 else rows_of(batch)
        for index, part in enumerate(parts_of(batch, run.accumulate)):
            share = rows_of(part) * world.size / whole_batch
            with world.gathering(module, last=index + 1 == run.accumulate):
                with casting(run, world.device):
                    loss = module(part, step) * share
                torch.autograd.backward(self._scaler.scale(loss))
            total += loss.detach()
        return total

    def _moved(self, batch: Batch) -> Batch:
        device = self._world.device
        if device.type == "cpu":
            return batch
        return {
            name: tensor.pin_memory().to(device, non_blocking=True)
            for name, tensor in batch.items()
        }

    def _seed(self, step: int) -> None:
        place = (self._run.seed, step, self._world.rank)
        seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)
        torch.default_generator.manual_seed(seed)
        if self._world.device.type == "cuda":
            torch.cuda.manual_seed(seed)
