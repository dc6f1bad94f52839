"""What all networks that choose a class have in common: outputs, losses, a temperature.

Needs torch.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from aimass_cloud.models.network import Batch, Network

OUTPUTS: Final = ("probabilities", "label")
TEMPERATURE: Final = "readout.temperature"
"""Of the probabilities, `[1]`; each width has its own."""


class Classifier(Network):
    """A network whose prediction is one number for each class (logits), of batches with `label`."""

    def __init__(self, smoothing: float) -> None:
        """Take the share of the target that all classes get."""
        super().__init__()
        self.smoothing = smoothing

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy, with smoothed targets while training."""
        smoothing = self.smoothing if self.training else 0.0
        return cross_entropy(prediction, batch["label"], label_smoothing=smoothing)

    def imitation(self, prediction: Tensor, teacher: Tensor) -> Tensor:
        """Cross-entropy against the classes as the full width sees them."""
        told = torch.softmax(teacher, dim=-1)
        return -(told * log_softmax(prediction, dim=-1)).sum(dim=-1).mean()


class Softened(nn.Module):
    """Numbers to probabilities, softened or sharpened by a temperature."""

    temperature: Tensor

    def __init__(self, temperature: Tensor) -> None:
        """Take the temperature, `[1]`."""
        super().__init__()
        self.register_buffer("temperature", temperature)

    def shares(self, logits: Tensor) -> Tensor:
        """Probabilities `[B, classes]`."""
        return torch.softmax(logits / self.temperature, dim=-1)
