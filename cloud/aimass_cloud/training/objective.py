"""The loss of all widths of a network together, as one module: what distributed wrappers wrap.

Three ways to train nested widths on one set of weights:
- "sandwich": every width, every step (Yu and Huang, Universally slimmable networks, ICCV 2019);
- "distil": the same, and narrow widths also imitate the full one of this step (in-place
  distillation, the same paper), which as their teacher counts as much as all of them together;
- "ordered": the full width and one other, drawn for the step (ordered dropout: Horvath et al.,
  FjORD, NeurIPS 2021).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from aimass_cloud.models.network import Batch, Network, Predicting, Tensors, narrowed, nesting_of
from aimass_cloud.training.muon import Parts

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

    @property
    def parts(self) -> Parts:
        """What narrow widths have of each weight that shrinks, the widest first."""
        widths = sorted(self.widths, reverse=True)[1:]
        return {
            weight: [self._nesting.leading(name, tuple(weight.shape), one) for one in widths]
            for name, weight in self.predicting.named_parameters()
            if self._nesting.axes[name]
        }

    def predict(self, width: float, batch: Batch) -> Tensor:
        """The prediction of a batch at a width."""
        weights: Tensors = dict(self.predicting.named_parameters())
        weights = narrowed(weights, self._nesting, width)
        prediction: Tensor = torch.func.functional_call(self.predicting, weights, (batch,))
        return prediction

    def forward(self, batch: Batch, step: int) -> Tensor:
        """The loss over the widths of this step."""
        network, full = self.network, self.predict(self.widths[0], batch)
        losses = [network.criterion(full, batch)]
        for width in self._narrow(step):
            prediction = self.predict(width, batch)
            loss = network.criterion(prediction, batch)
            if self.kind == "distil":
                imitation = network.imitation(prediction, full.detach())
                loss = (1 - IMITATION) * loss + IMITATION * imitation
            losses.append(loss)
        return self._together(torch.stack(losses))

    def _together(self, losses: Tensor) -> Tensor:
        """The mean, or the teacher's with that of the others."""
        if self.kind != "distil" or len(losses) == 1:
            return losses.mean()
        return (losses[0] + losses[1:].mean()) / 2

    def _narrow(self, step: int) -> Sequence[float]:
        """The widths of a step besides the full one; the same on every process."""
        narrow = self.widths[1:]
        if self.kind != "ordered" or not narrow:
            return narrow
        return narrow[step % len(narrow) :][:1]
