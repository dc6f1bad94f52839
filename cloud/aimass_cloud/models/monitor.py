"""The monitor: how unlikely the newest rows are under the VAR, and which sensors make them so.

Whitened one-step residuals of a VAR keep their limits on autocorrelated telemetry, where PCA's do
not. The score is Hotelling's T2 of the residuals, averaged over the newest rows. Needs torch.
"""

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aimass_cloud.models.base import VarBase

ROWS = 6
NOMINAL_FALSE_ALARMS = 0.001


class Monitor(nn.Module):
    """Scores standardised windows with the residuals of a VAR."""

    whitening: Tensor
    deviation: Tensor

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        """Take `monitor.whitening` `[S, S]` and `monitor.deviation` `[S]` of the residuals."""
        super().__init__()
        self.register_buffer("whitening", constants["monitor.whitening"])
        self.register_buffer("deviation", constants["monitor.deviation"])

    def forward(self, base: VarBase, window: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Score `[B]` and contribution `[B, S]` of a standardised window `[B, W, S]`.

        The score is about 1 in normal operation. A sensor's contribution is its mean absolute
        residual in standard deviations; a missing value contributes nothing.
        """
        length = window.shape[1]
        past = torch.cat(
            [window[:, length - ROWS - lag : length - lag] for lag in range(1, base.lags + 1)],
            dim=-1,
        )
        residual = (window[:, -ROWS:] - base.one_step(past)) * mask[:, -ROWS:]
        score = (residual @ self.whitening).square().mean(dim=(1, 2))
        contribution = residual.abs().mean(dim=1) / self.deviation
        return score, contribution


def threshold(scores: NDArray[np.floating], nominal: float = NOMINAL_FALSE_ALARMS) -> float:
    """The score that normal operation exceeds in a share `nominal` of windows.

    Scores of overlapping windows are few independent ones, too few for an empirical quantile that
    far out; the logarithm of an averaged T2 is near normal, so its mean and spread give it.

    Args:
        scores: of a held-back normal segment, `[n]`, all positive.
        nominal: one window in a thousand is one false alarm in two days of 3 minute rows.
    """
    logs = np.log(np.asarray(scores, np.float64))
    return float(np.exp(logs.mean() + logs.std() * NormalDist().inv_cdf(1 - nominal)))
