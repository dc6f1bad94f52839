"""Forecast baselines that every report scores beside the model: persistence and DLinear.

Both work on standardised windows `[n, W, S]` and give `[n, horizon, S]`. Numpy only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KERNEL = 5
RIDGE = 1.0

Floats = NDArray[np.float64]


def persistence(windows: Floats, horizon: int) -> Floats:
    """The last row, repeated."""
    return np.repeat(windows[:, -1:], horizon, axis=1)


@dataclass(frozen=True, eq=False)
class DLinear:
    """A linear map of each sensor's trend and remainder: Zeng et al., AAAI 2023, "individual".

    The paper trains the maps by gradient steps; their optimum has a closed form, used here.

    Attributes:
        maps: `[S, 2 * W + 1, horizon]`, of trend, remainder and a constant.
    """

    maps: Floats

    @classmethod
    def fit(cls, windows: Floats, targets: Floats, ridge: float = RIDGE) -> "DLinear":
        """Fit windows `[n, W, S]` to targets `[n, horizon, S]`."""
        features = _features(windows)
        normal = np.einsum("snf,sng->sfg", features, features)
        right = np.einsum("snf,nhs->sfh", features, targets)
        return cls(np.linalg.solve(normal + ridge * np.eye(normal.shape[-1]), right))

    def forecast(self, windows: Floats) -> Floats:
        """Forecasts `[n, horizon, S]` after windows `[n, W, S]`."""
        forecast: Floats = np.einsum("snf,sfh->nhs", _features(windows), self.maps)
        return forecast


def _features(windows: Floats) -> Floats:
    """Trend (centred moving average, ends repeated), remainder and 1, as `[S, n, 2 * W + 1]`."""
    half = KERNEL // 2
    padded = np.pad(windows, ((0, 0), (half, half), (0, 0)), mode="edge")
    length = windows.shape[1]
    trend = np.mean([padded[:, start : start + length] for start in range(KERNEL)], axis=0)
    ones = np.ones((len(windows), 1, windows.shape[2]))
    return np.concatenate([trend, windows - trend, ones], axis=1).transpose(2, 0, 1)
