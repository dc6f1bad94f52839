"""The whole model as devices run it: telemetry in units in, forecast, score and blame out.

Normalisation, VAR, monitor and forecaster at one width, made from a `TrainedModel`; what it
computes is what slicing exports. Needs torch.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from aimass_cloud.models.base import VarBase
from aimass_cloud.models.forecaster import Forecaster, nesting
from aimass_cloud.models.monitor import Monitor
from aimass_cloud.models.nesting import Nesting
from aimass_cloud.models.trained import ForecasterConfig, TrainedModel
from aimass_shared.errors import NotFoundError
from aimass_shared.manifest import Contract

OUTPUTS = ("forecast", "score", "contribution")

Tensors = dict[str, Tensor]


class FrozenGraph(nn.Module):
    """The learned graph as two dense matrices."""

    inward: Tensor
    outward: Tensor

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        """Take `graph.inward` and `graph.outward` `[S, S]`."""
        super().__init__()
        self.register_buffer("inward", constants["graph.inward"])
        self.register_buffer("outward", constants["graph.outward"])


class Deployed(nn.Module):
    """A model of any width: the weights come with each call, the constants are its buffers."""

    def __init__(
        self, config: ForecasterConfig, contract: Contract, constants: Mapping[str, Tensor]
    ) -> None:
        """Take the constants of a trained model, each named like the buffer that it becomes."""
        super().__init__()
        self.horizon = contract.horizon
        self.base = VarBase(constants)
        self.monitor = Monitor(constants)
        self.graph = FrozenGraph(constants)
        # Its own parameters are never used, so they need no memory and draw no random numbers.
        with torch.device("meta"):
            self.forecaster = Forecaster(
                config, contract.sensors, window=contract.window, horizon=contract.horizon
            )

    def correction(self, weights: Tensors, window: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Linear forecast and what the forecaster adds, `[B, horizon, S]`, standardised."""
        linear: Tensor = self.base(window, self.horizon)
        edges = (self.graph.inward, self.graph.outward)
        added: Tensor = functional_call(self.forecaster, weights, (window, mask, linear, edges))
        return linear, added

    def forward(
        self, values: Tensor, mask: Tensor, weights: Tensors, gate: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Forecast in units, score and contribution of windows `[B, W, S]` in units."""
        window = self.base.standardised(values, mask)
        linear, added = self.correction(weights, window, mask)
        forecast = (linear + gate * added) * self.base.scale + self.base.mean
        score, contribution = self.monitor(self.base, window, mask)
        return forecast, score, contribution

    def loss(self, values: Tensor, mask: Tensor, *, weight: Tensor, weights: Tensors) -> Tensor:
        """Weighted mean squared error of the forecast, standardised and with the gate open.

        Args:
            values: `[B, W + horizon, S]` in units.
            mask: of the same shape; a missing target does not count.
            weight: `[B]`, 0 for a window that only fills the batch.
            weights: parameters of the forecaster, of any trained width.
        """
        rows = self.base.standardised(values, mask)
        window, target = rows[:, : -self.horizon], rows[:, -self.horizon :]
        linear, added = self.correction(weights, window, mask[:, : -self.horizon])
        known = mask[:, -self.horizon :]
        error = ((linear + added - target).square() * known).sum(dim=(1, 2))
        each = error / known.sum(dim=(1, 2)).clamp(min=1.0)
        return (each * weight).sum() / weight.sum().clamp(min=1.0)


def tensors(arrays: Mapping[str, NDArray[np.float32]]) -> Tensors:
    """Arrays as tensors of their own."""
    return {name: torch.tensor(array) for name, array in arrays.items()}


def deployed(model: TrainedModel) -> Deployed:
    """The modules of a trained model, ready to be called, without dropout."""
    return Deployed(model.info.config, model.info.contract, tensors(model.constants)).eval()


def nesting_of(model: TrainedModel) -> Nesting:
    """The elastic axes of a trained model's weights."""
    return nesting(tuple(model.weights))


def weights_of(model: TrainedModel, width: float) -> Tensors:
    """The weights that a width uses."""
    return tensors(nesting_of(model).sliced(model.weights, width))


def gate_of(model: TrainedModel, width: float) -> Tensor:
    """The gate `[horizon, S]` of a width.

    Raises:
        NotFoundError: the model was not trained at that width.
    """
    widths = model.info.config.widths
    if width not in widths:
        raise NotFoundError(f"width {width} was not trained; there are: {widths}")
    return torch.tensor(model.constants["gate"][widths.index(width)])
