"""Linear forecasts as torch modules: normalisation, and the base that a network corrects.

Holds constants only; `aimass_shared.var` and `aimass_cloud.models.direct` solve them. Needs torch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MEASURED = 0.5
COEFFICIENTS, MAPS = "base.coefficients", "base.maps"


class Base(nn.Module):
    """Normalises telemetry, and forecasts it."""

    mean: Tensor
    scale: Tensor

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        """Take `base.mean` and `base.scale` `[S]`."""
        super().__init__()
        self.register_buffer("mean", constants["base.mean"])
        self.register_buffer("scale", constants["base.scale"])

    def standardised(self, values: Tensor, mask: Tensor) -> Tensor:
        """Values `[B, T, S]` in standard deviations from the mean; missing ones are the mean.

        A missing value may be anything, not a number included, so it is replaced and not scaled.
        """
        scaled = (values - self.mean) / self.scale
        return torch.where(mask > MEASURED, scaled, torch.zeros_like(values))

    def forward(self, window: Tensor, mask: Tensor, horizon: int) -> Tensor:
        """Forecast `[B, horizon, S]` after a standardised window `[B, W, S]` and its mask."""
        raise NotImplementedError


class VarBase(Base):
    """Steps a VAR to the horizon; it takes a missing value for the mean."""

    intercept: Tensor
    coefficients: Tensor

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        """Take `base.intercept` `[S]`, `base.coefficients` `[lags * S, S]` too."""
        super().__init__(constants)
        self.register_buffer("intercept", constants["base.intercept"])
        self.register_buffer("coefficients", constants[COEFFICIENTS])
        self.lags = self.coefficients.shape[0] // self.coefficients.shape[1]

    def one_step(self, past: Tensor) -> Tensor:
        """The row after `past` `[..., lags * S]`, newest row first, all standardised."""
        return past @ self.coefficients + self.intercept

    def forward(self, window: Tensor, mask: Tensor, horizon: int) -> Tensor:  # noqa: ARG002  of all bases
        """Forecast `[B, horizon, S]` after a standardised window `[B, W, S]` and its mask."""
        rows = [window[:, -lag] for lag in range(self.lags, 0, -1)]
        for _ in range(horizon):
            past = torch.cat([rows[-lag] for lag in range(1, self.lags + 1)], dim=-1)
            rows.append(self.one_step(past))
        return torch.stack(rows[self.lags :], dim=1)


class DirectBase(Base):
    """Forecasts each step ahead by itself, relative to the newest value that was measured."""

    maps: Tensor

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        """Take `base.maps` `[K, L, horizon]` too, K = 1 or a map for each sensor."""
        super().__init__(constants)
        self.register_buffer("maps", constants[MAPS])

    def forward(self, window: Tensor, mask: Tensor, horizon: int) -> Tensor:  # noqa: ARG002  of all bases
        """Forecast `[B, horizon, S]` after a standardised window `[B, W, S]` and its mask.

        A missing value is taken for the newest that was measured.
        """
        newest = newest_of(window, mask)
        rows = self.maps.shape[1]
        moved = ((window - newest) * mask)[:, -rows:]
        if self.maps.shape[0] == 1:
            added = (moved.transpose(1, 2) @ self.maps[0]).transpose(1, 2)
        else:
            added = (moved.permute(2, 0, 1) @ self.maps).permute(1, 2, 0)
        return newest + added


def newest_of(window: Tensor, mask: Tensor) -> Tensor:
    """The newest measured value `[B, 1, S]` of each sensor of a window `[B, W, S]`, or 0."""
    rows = torch.arange(window.shape[1], device=window.device)
    since = (rows[:, None] <= rows).to(mask.dtype)  # [W, W], of which row t sums rows t and later
    measured = since @ mask
    return (window * mask * (measured < 1 + MEASURED).to(mask.dtype)).sum(dim=1, keepdim=True)


def base_of(constants: Mapping[str, Tensor]) -> Base:
    """The base that some constants are of."""
    return DirectBase(constants) if MAPS in constants else VarBase(constants)
