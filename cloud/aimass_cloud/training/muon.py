"""Muon: steps of matrices and filters with all their directions made equally long.

Momentum is turned into the nearest matrix with orthogonal rows before it is taken off the weights
(Jordan et al., Muon, 2024); steps are as long as those of AdamW, so that one rate serves both (Liu
et al., Muon is scalable, 2025). Weights with one axis go with AdamW. On small sets it needs a third
of AdamW's steps. Every weight must be whole on each process.

A part of an orthogonal matrix is not orthogonal: turned with the whole, a narrow width would go on
along few directions. So what each width has of a weight is turned by itself (docs/adr 21).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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
Place = tuple[slice, ...]
Parts = Mapping[nn.Parameter, Sequence[Place]]


class Muon(Optimizer):
    """Orthogonal steps for weights with two axes and more, AdamW for the others.

    Axes after the second are taken as part of the second: a filter is a row.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rate: float,
        *,
        decay: float,
        parts: Parts | None = None,
    ) -> None:
        """Take the parameters of a network; the decay is taken off matrices and filters alone.

        Args:
            parameters: of the network.
            rate: of learning.
            decay: of the weights.
            parts: of a parameter that narrow widths have too, the widest first: each is turned by
                itself, as it would be in a network of that width.
        """
        super().__init__(parameters, {"lr": rate, "weight_decay": decay})
        self._parts = parts or {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the weights by their gradients."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None and weight.ndim > 1:
                    _turned(weight, self.state[weight], group, parts=self._parts.get(weight, ()))
                elif weight.grad is not None:
                    _adapted(weight, self.state[weight], group)
        return loss


def _turned(
    weight: nn.Parameter, state: State, group: Mapping[str, Any], *, parts: Sequence[Place]
) -> None:
    """One step of a matrix."""
    gradient = _gradient(weight)
    if not state:
        state["momentum"] = torch.zeros_like(weight)
    momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
    ahead = gradient.lerp(momentum, MOMENTUM)
    move = _direction(ahead)
    for place in parts:
        move[place] = _direction(ahead[place])
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    weight.add_(move, alpha=-group["lr"])


def _direction(ahead: Tensor) -> Tensor:
    """The step of a matrix at a rate of one."""
    rows = ahead.reshape(len(ahead), -1)
    return orthogonal(rows).view_as(ahead) * (LENGTH * math.sqrt(max(rows.shape)))


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
