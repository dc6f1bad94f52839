"""The networks of telemetry: values in units in, forecast (and score and blame) out.

Normalisation, a linear base, a graph and the forecaster that corrects the base; for plants a
monitor too. While a network is trained its graph is learned; as it ships the graph is constants.
Needs torch.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from aimass_cloud.models.base import base_of, newest_of
from aimass_cloud.models.contract import TREND
from aimass_cloud.models.forecaster import SIDES, Forecaster, ForecasterConfig, Seen
from aimass_cloud.models.graph import PREFIX, FrozenGraph, NodeGraph
from aimass_cloud.models.losses import DISTANCES, distance
from aimass_cloud.models.monitor import Monitor
from aimass_cloud.models.network import Batch, Frozen, Network, Tensors
from aimass_shared.manifest import Contract

LEAST = 1e-9
COVERED: tuple[float, float] = (0.1, 0.9)
"""Quantiles of the band."""


class SensorNetwork(Network):
    """A gated correction of a linear forecast, and where there is one a monitor."""

    KEPT_FLOAT: ClassVar[tuple[str, ...]] = ("base.", "monitor.", "graph.")
    LEARNS_LOCALLY: ClassVar[bool] = True
    LOSSES: ClassVar[tuple[str, ...]] = tuple(DISTANCES)
    gate: Tensor
    loudness: Tensor
    reach: Tensor

    def __init__(
        self,
        config: ForecasterConfig,
        contract: Contract,
        constants: Mapping[str, Tensor],
        *,
        graph: NodeGraph | FrozenGraph,
    ) -> None:
        """Take the constants of base and monitor.

        `gate`, `loudness` and `reach` are open where they are not given: all of the correction, of
        all messages, and of the band.
        """
        super().__init__()
        self.horizon, self.quantiles = contract.horizon, config.quantiles
        self.trend = any(spec.name in TREND for spec in contract.outputs)
        self.base = base_of(constants)
        self.monitor = Monitor(constants) if contract.alarm is not None else None
        self.graph = graph
        self.forecaster = Forecaster(
            config, contract.sensors, horizon=contract.horizon, relations=graph.relations
        )
        size = (contract.horizon, len(contract.sensors))
        self._constant("gate", constants, size)
        self._constant("loudness", constants, (len(graph.relations),))
        if config.quantiles:
            self._constant("reach", constants, (SIDES, *size))

    def _constant(self, name: str, constants: Mapping[str, Tensor], size: tuple[int, ...]) -> None:
        given = constants.get(name)
        self.register_buffer(name, torch.ones(size, device="cpu") if given is None else given)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Outputs for windows `[B, W, S]` in units, as the contract names them.

        Returns:
            The forecast `[B, horizon, S]` in units; with a monitor its score `[B]` and
            contribution `[B, S]`; with quantiles the lower and the upper one, as the forecast; and
            where the contract has it the trend `[B, S]`, the change from the newest value to the
            last step ahead as a share of the newest.
        """
        window = self.base.standardised(values, mask)
        linear: Tensor = self.base(window, mask, self.horizon)
        said = self._said(window, mask, linear, loudness=self.loudness)
        added, band = (said[:, 0], said[:, 1:]) if self.quantiles else (said, None)
        standard = linear + self.gate * added
        outputs = [self._in_units(standard)]
        if self.monitor is not None:
            outputs += self.monitor(window, mask)
        if band is not None:
            lower, upper = band[:, 0] * self.reach[0], band[:, 1] * self.reach[1]
            outputs += [self._in_units(standard - lower), self._in_units(standard + upper)]
        if self.trend:
            newest = self._in_units(newest_of(window, mask))[:, 0]
            outputs.append((outputs[0][:, -1] - newest) / newest.abs().clamp(min=LEAST))
        return tuple(outputs)

    def predict(self, batch: Batch) -> Tensor:
        """Forecasts of standardised windows whose base is worked out, gate open and all heard.

        With quantiles `[B, 3, horizon, S]`: the forecast, and how far the band reaches.
        """
        window, linear = batch["window"], batch["linear"]
        said = self._said(window, batch["mask"], linear, loudness=torch.ones_like(self.loudness))
        if not self.quantiles:
            return linear + said
        return torch.cat([(linear + said[:, 0])[:, None], said[:, 1:]], dim=1)

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Mean error of values that were measured, in standard deviations: squared, or as asked.

        With quantiles the pinball loss of both is added (Koenker and Bassett, 1978), which leaves
        the forecast alone.
        """
        target, weight = batch["target"], batch["weight"]
        share = weight / weight.mean().clamp(min=1e-6)
        if not self.quantiles:
            return (distance(self.loss, prediction - target) * share).mean()
        forecast, below, above = prediction.unbind(dim=1)
        beyond = target - forecast.detach()
        bands = _pinball(beyond + below, COVERED[0]) + _pinball(beyond - above, COVERED[1])
        return ((distance(self.loss, forecast - target) + bands) * share).mean()

    def local_loss(self, values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        """What a device trains on: the error of the forecast with the gate open and all heard.

        Args:
            values: `[B, W + horizon, S]` in units.
            mask: of the same shape; a missing target does not count.
            weight: `[B]`, 0 for a window that only fills the batch.
        """
        rows = self.base.standardised(values, mask)
        window, target = rows[:, : -self.horizon], rows[:, -self.horizon :]
        seen = mask[:, : -self.horizon]
        linear: Tensor = self.base(window, seen, self.horizon)
        said = self._said(window, seen, linear, loudness=torch.ones_like(self.loudness))
        added = said[:, 0] if self.quantiles else said
        known = mask[:, -self.horizon :]
        error = ((linear + added - target).square() * known).sum(dim=(1, 2))
        each = error / known.sum(dim=(1, 2)).clamp(min=1.0)
        return (each * weight).sum() / weight.sum().clamp(min=1.0)

    def frozen(self) -> Frozen:
        """The graph becomes constants; its embeddings stay behind."""
        parts = super().frozen()
        weights, constants = (_without_graph(part) for part in parts)
        graph = self.graph.frozen() if isinstance(self.graph, NodeGraph) else {}
        return Frozen(weights, constants | graph)

    def _said(self, window: Tensor, mask: Tensor, linear: Tensor, *, loudness: Tensor) -> Tensor:
        seen = Seen(window, mask, newest_of(window, mask), linear)
        said: Tensor = self.forecaster(seen, self.graph(), loudness)
        return said

    def _in_units(self, standard: Tensor) -> Tensor:
        return standard * self.base.scale + self.base.mean


def _pinball(beyond: Tensor, quantile: float) -> Tensor:
    return torch.maximum(quantile * beyond, (quantile - 1) * beyond)


def _without_graph(named: Tensors) -> Tensors:
    return {name: tensor for name, tensor in named.items() if not name.startswith(PREFIX)}
