"""How far a value is from its target, by name, for networks that predict values. Needs torch."""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

HUBER: Final = 1.0
"""Standard deviations beyond which an error counts by its size and no more by its square."""


def _huber(error: Tensor) -> Tensor:
    """Huber (1964), with the slope of a square near zero."""
    size = error.abs()
    return torch.where(size < HUBER, error.square(), HUBER * (2 * size - HUBER))


DISTANCES: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "mse": torch.square,
    "mae": torch.abs,
    "huber": _huber,
}
"""Of errors, each for itself; the first one is what networks take if nobody says otherwise."""


def distance(name: str, error: Tensor) -> Tensor:
    """The distance of errors by its name; "" is the mean squared one."""
    return DISTANCES[name or next(iter(DISTANCES))](error)
