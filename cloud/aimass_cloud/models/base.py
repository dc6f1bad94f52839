"""The VAR as a torch module: normalisation and the linear forecast that a network corrects.

Holds constants only; `aimass_shared.var` solves them. Needs torch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MEASURED = 0.5


class VarBase(nn.Module):
    """Normalises telemetry and forecasts it with a VAR."""

    mean: Tensor
    scale: Tensor
    intercept: Tensor
    coefficients: Tensor

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        """Take `base.mean`, `.scale`, `.intercept` `[S]`, `.coefficients` `[lags * S, S]`."""
        super().__init__()
        for name in ("mean", "scale", "intercept", "coefficients"):
            self.register_buffer(name, constants[f"base.{name}"])
        self.lags = self.coefficients.shape[0] // self.coefficients.shape[1]

    def standardised(self, values: Tensor, mask: Tensor) -> Tensor:
        """Values `[B, T, S]` in standard deviations from the mean; missing ones are the mean.

        A missing value may be anything, not a number included, so it is replaced and not scaled.
        """
        scaled = (values - self.mean) / self.scale
        return torch.where(mask > MEASURED, scaled, torch.zeros_like(values))

    def one_step(self, past: Tensor) -> Tensor:
        """The row after `past` `[..., lags * S]`, newest row first, all standardised."""
        return past @ self.coefficients + self.intercept

    def forward(self, window: Tensor, horizon: int) -> Tensor:
        """Forecast `[B, horizon, S]` after a standardised window `[B, W, S]`."""
        rows = [window[:, -lag] for lag in range(self.lags, 0, -1)]
        for _ in range(horizon):
            past = torch.cat([rows[-lag] for lag in range(1, self.lags + 1)], dim=-1)
            rows.append(self.one_step(past))
        return torch.stack(rows[self.lags :], dim=1)
