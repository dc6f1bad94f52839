"""The loss of all widths of a network together, as one module: what distributed wrappers wrap.

Three ways to train nested widths on one set of weights:
- "sandwich": every width, every step (Yu and Huang, Universally slimmable networks, ICCV 2019);
- "distil": the same, and narrow widths also imitate the full one of this step (in-place
  distillation, the same paper);
- "ordered": the full width and one other, drawn for the step (ordered dropout: Horvath et al.,
  FjORD, NeurIPS 2021).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from aimass_cloud.models.network import Batch, Network, Predicting, Tensors, narrowed, nesting_of

IMITATION = 0.5
Kind = Literal["sandwich", "distil", "ordered"]


class Objective(nn.Module):
    """A network whose call is its loss over widths."""

    def __init__(self, network: Network, *, widths: Sequence[float], kind: Kind) -> None:
        """Take a network at full width and the widths to train, the full one first."""
        super().__init__()
        self.predicting = Predicting(network)
        self.widths, self.kind = tuple(widths), kind
        self._nesting = nesting_of(self.predicting)

    @property
    def network(self) -> Network:
        """The network that is trained."""
        return self.predicting.network

    def predict(self, width: float, batch: Batch) -> Tensor:
        """The prediction of a batch at a width."""
        weights: Tensors = dict(self.predicting.named_parameters())
        weights = narrowed(weights, self._nesting, width)
        prediction: Tensor = torch.func.functional_call(self.predicting, weights, (batch,))
        return prediction

    def forward(self, batch: Batch, step: int) -> Tensor:
        """The mean loss over the widths of this step."""
        network, full = self.network, self.predict(self.widths[0], batch)
        losses = [network.criterion(full, batch)]
        for width in self._narrow(step):
            prediction = self.predict(width, batch)
            loss = network.criterion(prediction, batch)
            if self.kind == "distil":
                imitation = network.imitation(prediction, full.detach())
                loss = (1 - IMITATION) * loss + IMITATION * imitation
            losses.append(loss)
        return torch.stack(losses).mean()

    def _narrow(self, step: int) -> Sequence[float]:
        """The widths of a step besides the full one; the same on every process."""
        narrow = self.widths[1:]
        if self.kind != "ordered" or not narrow:
            return narrow
        return narrow[step % len(narrow) :][:1]
