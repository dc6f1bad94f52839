"""The network of sensor telemetry: telemetry in units in, forecast, score and blame out.

Normalisation, VAR, monitor, sensor graph and forecaster. While it is trained its graph is learned;
as it ships the graph is two constant matrices. Needs torch.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from aimass_cloud.models.base import VarBase
from aimass_cloud.models.forecaster import Forecaster, ForecasterConfig
from aimass_cloud.models.graph import SensorGraph
from aimass_cloud.models.monitor import Monitor
from aimass_cloud.models.network import Batch, Frozen, Network, Tensors
from aimass_shared.manifest import Contract

OUTPUTS = ("forecast", "score", "contribution")


class FrozenGraph(nn.Module):
    """The learned graph as two dense matrices."""

    inward: Tensor
    outward: Tensor

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        """Take `graph.inward` and `graph.outward` `[S, S]`."""
        super().__init__()
        self.register_buffer("inward", constants["graph.inward"])
        self.register_buffer("outward", constants["graph.outward"])

    def forward(self) -> tuple[Tensor, Tensor]:
        """Both relations."""
        return self.inward, self.outward


class SensorNetwork(Network):
    """A gated forecast on a VAR, and the VAR's monitor."""

    KEPT_FLOAT: ClassVar[tuple[str, ...]] = ("base.", "monitor.", "graph.")
    LEARNS_LOCALLY: ClassVar[bool] = True
    gate: Tensor

    def __init__(
        self,
        config: ForecasterConfig,
        contract: Contract,
        constants: Mapping[str, Tensor],
        graph: SensorGraph | FrozenGraph,
    ) -> None:
        """Take the constants of the base and the monitor; `gate` is open where it is not given."""
        super().__init__()
        self.horizon = contract.horizon
        self.base = VarBase(constants)
        self.monitor = Monitor(constants)
        self.graph = graph
        self.forecaster = Forecaster(
            config, contract.sensors, window=contract.window, horizon=contract.horizon
        )
        open_gate = torch.ones(contract.horizon, len(contract.sensors), device="cpu")
        self.register_buffer("gate", constants.get("gate", open_gate))

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Forecast in units, score and contribution of windows `[B, W, S]` in units."""
        window = self.base.standardised(values, mask)
        linear, added = self.correction(window, mask)
        forecast = (linear + self.gate * added) * self.base.scale + self.base.mean
        score, contribution = self.monitor(window, mask)
        return forecast, score, contribution

    def correction(self, window: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Linear forecast and what the forecaster adds, `[B, horizon, S]`, standardised."""
        linear: Tensor = self.base(window, self.horizon)
        added: Tensor = self.forecaster(window, mask, linear, self.graph())
        return linear, added

    def predict(self, batch: Batch) -> Tensor:
        """The forecast with an open gate of standardised windows whose base is worked out."""
        window, linear = batch["window"], batch["linear"]
        added: Tensor = self.forecaster(window, torch.ones_like(window), linear, self.graph())
        return linear + added

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Mean squared error in squared standard deviations."""
        return mse_loss(prediction, batch["target"])

    def local_loss(self, values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        """What a device trains on: the error of the forecast with the gate open.

        Args:
            values: `[B, W + horizon, S]` in units.
            mask: of the same shape; a missing target does not count.
            weight: `[B]`, 0 for a window that only fills the batch.
        """
        rows = self.base.standardised(values, mask)
        window, target = rows[:, : -self.horizon], rows[:, -self.horizon :]
        linear, added = self.correction(window, mask[:, : -self.horizon])
        known = mask[:, -self.horizon :]
        error = ((linear + added - target).square() * known).sum(dim=(1, 2))
        each = error / known.sum(dim=(1, 2)).clamp(min=1.0)
        return (each * weight).sum() / weight.sum().clamp(min=1.0)

    def frozen(self) -> Frozen:
        """The graph becomes two constants; its embeddings stay behind."""
        weights, constants = super().frozen()
        graph: Tensors = self.graph.frozen() if isinstance(self.graph, SensorGraph) else {}
        own = {name: weight for name, weight in weights.items() if not name.startswith("graph.")}
        return Frozen(own, constants | graph)
