"""Muon: steps of matrices and filters with all their directions made equally long.

Momentum is turned into the nearest matrix with orthogonal rows before it is taken off the weights
(Jordan et al., Muon, 2024); steps are as long as those of AdamW, so that one rate serves both (Liu
et al., Muon is scalable, 2025). Weights with one axis go with AdamW. On small sets it needs a third
of AdamW's steps. Every weight must be whole on each process.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

MOMENTUM = 0.9
LENGTH = 0.2
BETAS, EPSILON = (0.9, 0.99), 1e-8
ROUNDS, QUINTIC = 5, (3.4445, -4.7750, 2.0315)

State = dict[str, Tensor]


class Muon(Optimizer):
    """Orthogonal steps for weights with two axes and more, AdamW for the others.

    Axes after the second are taken as part of the second: a filter is a row.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, *, decay: float) -> None:
        """Take the parameters of a network; the decay is taken off matrices and filters alone."""
        super().__init__(parameters, {"lr": rate, "weight_decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the weights by their gradients."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    move = _turned if weight.ndim > 1 else _adapted
                    move(weight, self.state[weight], group)
        return loss


def _turned(weight: nn.Parameter, state: State, group: Mapping[str, Any]) -> None:
    """One step of a matrix."""
    gradient = _gradient(weight)
    if not state:
        state["momentum"] = torch.zeros_like(weight)
    momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
    ahead = gradient.lerp(momentum, MOMENTUM).reshape(len(weight), -1)
    length = LENGTH * math.sqrt(max(ahead.shape))
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    weight.add_(orthogonal(ahead).view_as(weight), alpha=-group["lr"] * length)


def _adapted(weight: nn.Parameter, state: State, group: Mapping[str, Any]) -> None:
    """One step of AdamW, without decay."""
    if not state:
        state["step"] = torch.zeros(())
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
    adamw(
        [weight],
        [_gradient(weight)],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        amsgrad=False,
        beta1=BETAS[0],
        beta2=BETAS[1],
        lr=group["lr"],
        weight_decay=0.0,
        eps=EPSILON,
        maximize=False,
    )


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None  # noqa: S101  `step` has looked
    return weight.grad


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix with singular values of one, by five Newton-Schulz rounds."""
    first, second, third = QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(ROUNDS):
        square = wide @ wide.T
        wide = first * wide + (second * square + third * square @ square) @ wide
    result: Tensor = wide if matrix.shape[0] <= matrix.shape[1] else wide.T
    return result
