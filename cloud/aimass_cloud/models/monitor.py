"""The monitor: how unlikely the newest rows are under a VAR, and which sensors make them so.

`aimass_shared.monitoring.SiteMonitor` as a torch module, so that it is exported with the network:
the same charts, limits and exact shares. It has a VAR of its own, as the one that monitors best has
more history and a smaller penalty than the one that forecasts best. Needs torch.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aimass_cloud.models.shrinkage import LAGS, RIDGE
from aimass_shared.errors import TrainingFailedError
from aimass_shared.moments import Moments
from aimass_shared.monitoring import CHARTS, LONGEST, NOMINAL, RootSums, SiteMonitor, limit
from aimass_shared.var import Var, solve


class Monitor(nn.Module):
    """Scores standardised windows with the residuals of a VAR."""

    intercept: Tensor
    coefficients: Tensor
    whitening: Tensor
    limits: Tensor

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        """Take `monitor.intercept` `[S]`, `.coefficients`, `.whitening` `[S, S]`, `.limits`."""
        super().__init__()
        for name in ("intercept", "coefficients", "whitening", "limits"):
            self.register_buffer(name, constants[f"monitor.{name}"])
        self.lags = self.coefficients.shape[0] // self.coefficients.shape[1]

    def forward(self, window: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Score `[B]` and contribution `[B, S]` of a standardised window `[B, W, S]`.

        The score is that of the largest chart in units of its limit: over 1 is over the limit. The
        contributions are its sensors' shares, not negative, and add up to it exactly. A missing
        value has no residual.
        """
        white = self._residuals(window, mask) @ self.whitening
        each = self._shares(white) / self.limits[:, None]
        charts = each.sum(dim=2)
        score = charts.max(dim=1, keepdim=True).values
        largest = (charts >= score).to(each.dtype)
        contribution = (each * largest[:, :, None]).sum(dim=1) / largest.sum(dim=1, keepdim=True)
        return score[:, 0], contribution

    def _residuals(self, window: Tensor, mask: Tensor) -> Tensor:
        """Of the newest rows, `[B, LONGEST, S]`."""
        length = window.shape[1]
        past = torch.cat(
            [window[:, length - LONGEST - lag : length - lag] for lag in range(1, self.lags + 1)],
            dim=-1,
        )
        ahead = past @ self.coefficients + self.intercept
        return (window[:, -LONGEST:] - ahead) * mask[:, -LONGEST:]

    def _shares(self, white: Tensor) -> Tensor:
        """Shares `[B, K, S]` of sensors in the charts."""
        sensors, parts = white.shape[2], []
        for chart in CHARTS:
            newest = white[:, -chart.rows :]
            spread = chart.kind == "spread"
            part = newest.square().mean(1) if spread else newest.mean(1).square() * chart.rows
            parts.append(part / sensors)
        return torch.stack(parts, dim=1)


def window_rows(lags: int = LAGS) -> int:
    """How many rows a window has at least, for the charts and their history."""
    return LONGEST + lags


def monitor_constants(moments: Moments, calibration: NDArray[np.floating]) -> dict[str, Tensor]:
    """The constants of a `Monitor`, named as it takes them.

    They are for windows that are standardised as `solve(moments)` does it, whatever its penalty.

    Args:
        moments: of normal operation.
        calibration: a run `[T, S]` of normal operation that is not in the moments.

    Raises:
        TrainingFailedError: there are too few rows.
    """
    plain = SiteMonitor.uncalibrated(solve(moments, RIDGE))
    if len(calibration) <= plain.lead:
        raise TrainingFailedError(f"{len(calibration)} rows are too few to calibrate the monitor")
    monitor = plain.calibrated(plain.calibration(calibration))
    named = {**_regression(monitor.var), "whitening": monitor.whitening}
    named["limits"] = np.array(monitor.limits.levels)
    return {
        f"monitor.{name}": torch.tensor(array, dtype=torch.float32) for name, array in named.items()
    }


def threshold(scores: NDArray[np.floating], rows: int = 1, *, nominal: float = NOMINAL) -> float:
    """The score that normal operation exceeds in a share `nominal` of windows.

    Args:
        scores: of a held-back normal segment, `[n]`, none negative.
        rows: how many rows each is averaged over.
        nominal: share of false alarms.
    """
    return limit(RootSums.of(scores, rows), nominal=nominal)


def _regression(var: Var) -> dict[str, NDArray[np.float64]]:
    return {"intercept": var.intercept, "coefficients": var.coefficients}
