"""Training batches: windows of rows, standardised, with the linear forecast worked out."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimass_cloud.models.base import VarBase
from aimass_cloud.models.windows import cut


@dataclass(frozen=True, eq=False)
class Batch:
    """Standardised windows with the linear forecast worked out: it never changes in training.

    Attributes:
        window: `[n, W, S]`. linear, target: `[n, horizon, S]`.
    """

    window: Tensor
    linear: Tensor
    target: Tensor

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self.window)

    def take(self, indices: Tensor) -> "Batch":
        """Some of the windows."""
        return Batch(self.window[indices], self.linear[indices], self.target[indices])


@torch.no_grad()
def prepared(base: VarBase, rows: NDArray[np.float32], *, window: int, horizon: int) -> Batch:
    """All windows of a stretch of complete rows `[T, S]` in the sensors' units."""
    values = torch.tensor(cut(rows, window + horizon))
    whole = base.standardised(values, torch.ones_like(values))
    past = whole[:, :window]
    return Batch(past, base(past, horizon), whole[:, window:])
