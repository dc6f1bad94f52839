"""What a forecast is compared with (persistence, DLinear, the plain VAR), and its gate.

Errors are in squared standard deviations of the recipe's own training rows, whatever rows the model
took its normalisation from, so that figures of different models can be compared.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimass_cloud.models.base import VarBase
from aimass_cloud.models.linear import DLinear, persistence
from aimass_cloud.models.windows import cut, scaled_error
from aimass_cloud.recipes.plant import PlantData
from aimass_shared.manifest import Contract


def baselines(base: VarBase, data: PlantData, contract: Contract) -> dict[str, float]:
    """Errors of what every model is compared with, on the same rows."""
    mean, scale = data.train.mean(axis=0), data.train.std(axis=0)
    length, window, horizon = contract.window + contract.horizon, contract.window, contract.horizon
    train, test = (
        ((cut(rows, length) - mean) / scale).astype(np.float64) for rows in (data.train, data.test)
    )
    past, future = test[:, :window], test[:, window:]
    dlinear = DLinear.fit(train[:, :window], train[:, window:])
    forecasts = {
        "persistence": persistence(past, horizon),
        "dlinear": dlinear.forecast(past),
        "var": (_linear(base, data.test, contract) - mean) / scale,
    }
    one = np.ones_like(scale)
    return {name: scaled_error(each, future, one) for name, each in forecasts.items()}


@torch.no_grad()
def gate(linear: Tensor, added: Tensor, target: Tensor, *, kinds: list[int]) -> Tensor:
    """How much of a correction to trust `[horizon, S]`, 0 to 1: the share that fits best.

    One number for each kind of sensor and step ahead, by least squares on held-back windows: there
    the gated forecast cannot be worse than the linear one, and a useless correction is off.

    Args:
        linear: forecast `[n, horizon, S]`.
        added: the correction.
        target: what came.
        kinds: number of sensors of each kind, in their order.
    """
    missing = (added * (target - linear)).mean(dim=0)
    power = added.square().mean(dim=0)
    shares = [
        (part.sum(dim=1) / scale.sum(dim=1).clamp(min=1e-12))
        .clamp(0.0, 1.0)[:, None]
        .expand(part.shape)
        for part, scale in zip(
            torch.split(missing, kinds, 1), torch.split(power, kinds, 1), strict=True
        )
    ]
    return torch.cat(shares, dim=1)


@torch.no_grad()
def _linear(base: VarBase, rows: NDArray[np.float32], contract: Contract) -> NDArray[np.float64]:
    """The VAR's forecasts of the test rows, in units."""
    values = torch.tensor(cut(rows, contract.window + contract.horizon))[:, : contract.window]
    window = base.standardised(values, torch.ones_like(values))
    linear = base(window, contract.horizon) * base.scale + base.mean
    return np.asarray(linear.numpy(), np.float64)
