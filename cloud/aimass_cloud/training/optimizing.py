"""How weights change: optimizers, learning rates, precision, and an average of the weights."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from aimass_cloud.models.network import Batch
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.training.muon import Muon, Parts
from aimass_shared.errors import InvalidSettingError

EARLY = 10
"""Steps over which an average of the weights forgets where it began."""


def optimizer_of(
    run: RunSettings, parameters: Iterable[nn.Parameter], parts: Parts | None = None
) -> Optimizer:
    """The optimizer that a run asks for; the rate is set at each step.

    Args:
        run: which, and with which constants.
        parameters: of the network.
        parts: of the parameters that narrow widths have too, for an optimizer that looks at whole
            matrices.

    Raises:
        InvalidSettingError: it does not go with the way that processes share the training.
    """
    chosen = run.optimizer
    if chosen.name == "muon":
        if run.distributed == "fsdp":
            raise InvalidSettingError("muon needs whole weights: take adamw, or distributed = ddp")
        return Muon(parameters, chosen.rate, decay=chosen.decay, parts=parts)
    if chosen.name == "sgd":
        return SGD(parameters, chosen.rate, momentum=chosen.momentum, weight_decay=chosen.decay)
    kind = AdamW if chosen.name == "adamw" else Adam
    return kind(parameters, chosen.rate, weight_decay=chosen.decay)


def rate_at(run: RunSettings, step: int) -> float:
    """The learning rate of a step, the first of which is 1."""
    schedule, last = run.schedule, run.steps
    rising = min(1.0, step / max(1, schedule.warm_up))
    falling = 1.0
    if schedule.name == "cosine":
        falling = (1 + math.cos(math.pi * step / last)) / 2
    elif schedule.name == "linear":
        falling = min(1.0, (last - step) / max(1, last - schedule.warm_up))
    return run.optimizer.rate * rising * falling


def casting(run: RunSettings, device: torch.device) -> AbstractContextManager[object]:
    """The forward pass in the precision of a run."""
    if run.precision == "fp32":
        return nullcontext()
    kind = torch.bfloat16 if run.precision == "bf16" else torch.float16
    return torch.autocast(device.type, kind)


def scaler_of(run: RunSettings, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss where gradients would underflow: in fp16 alone."""
    return torch.amp.GradScaler(device.type, enabled=run.precision == "fp16")


def parts_of(batch: Batch, count: int) -> Iterator[Batch]:
    """A batch in parts of nearly equal size, in order."""
    if count == 1:
        yield batch
        return
    cut = {name: tensor.tensor_split(count) for name, tensor in batch.items()}
    for index in range(count):
        yield {name: tensors[index] for name, tensors in cut.items()}


def rows_of(batch: Batch) -> int:
    """How many samples a batch has."""
    return len(next(iter(batch.values())))


class Average:
    """A moving average of weights (Polyak and Juditsky, 1992), shared out as the weights are."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """Begin at the weights as they are."""
        self.weights = {name: weight.detach().clone() for name, weight in weights.items()}
        self._decay = decay

    @torch.no_grad()
    def add(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Move towards the weights after a step: at first faster, as the beginning is no guide."""
        decay = min(self._decay, (1 + step) / (EARLY + step))
        for name, average in self.weights.items():
            average.lerp_(weights[name].detach(), 1 - decay)
