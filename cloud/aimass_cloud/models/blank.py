"""A model that has learned nothing: right sizes and names, for exports and tests. Needs torch."""

import torch

from aimass_cloud.models.forecaster import Forecaster
from aimass_cloud.models.graph import SensorGraph
from aimass_cloud.models.trained import Arrays, ForecasterConfig, ModelInfo, TrainedModel
from aimass_shared.manifest import Contract


def blank(
    contract: Contract, config: ForecasterConfig, *, recipe: str, seed: int = 0
) -> TrainedModel:
    """Weights as drawn before training, a base that forecasts the mean, and an open gate."""
    sensors = len(contract.sensors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        forecaster = Forecaster(
            config, contract.sensors, window=contract.window, horizon=contract.horizon
        )
        graph = SensorGraph(sensors, config.embedding, config.neighbours).frozen()
    constants = {
        "base.mean": torch.zeros(sensors),
        "base.scale": torch.ones(sensors),
        "base.intercept": torch.zeros(sensors),
        "base.coefficients": torch.zeros(config.lags * sensors, sensors),
        "monitor.whitening": torch.eye(sensors),
        "monitor.deviation": torch.ones(sensors),
        "gate": torch.ones(len(config.widths), contract.horizon, sensors),
        **graph,
    }
    info = ModelInfo(f"{contract.model}-blank", recipe, "", seed, config, contract, {}, 0)
    weights = {name: weight.detach() for name, weight in forecaster.named_parameters()}
    return TrainedModel(info, _arrays(weights), _arrays(constants))


def _arrays(named: dict[str, torch.Tensor]) -> Arrays:
    return {name: tensor.numpy() for name, tensor in sorted(named.items())}
