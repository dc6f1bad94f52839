"""The graph forecaster: a bounded correction of a linear forecast, nested in width.

Sensors are nodes of a learned graph. Each is encoded by a map of its kind, hears its neighbours
through gated steps, and says two things about each step ahead: how far its value is held (analysers
report the same sample several times), and a correction of at most one standard deviation. Inputs
are clipped, so that an anomaly cannot be explained away. Needs torch.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import ClassVar

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from aimass_cloud.models.blocks import GatedCell, RelationalMessages, TypedEncoder
from aimass_shared.errors import TrainingFailedError
from aimass_shared.manifest import Sensor

CLIP = 3.0
CHANGE = 1e-3
HOLD_START = -1.0
DROPOUT = 0.2


class ForecasterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the graph forecaster.

    Attributes:
        hidden: channels at full width, a multiple of 4. steps: graph steps.
        lags: rows that the VAR looks back. embedding: numbers that place a sensor in the graph.
        neighbours: edges that a sensor keeps of the learned graph.
    """

    hidden: int = 96
    steps: int = 2
    lags: int = 2
    embedding: int = 8
    neighbours: int = 8


class Head(nn.Module):
    """Two linear read-outs of the hidden state, and one of the pattern of changes."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"correction": (0,), "hold": (0,)}

    def __init__(self, sensors: int, *, window: int, horizon: int, hidden: int) -> None:
        """Start at no correction, and holding a little."""
        super().__init__()
        self.hidden = hidden
        self.correction = nn.Parameter(torch.zeros(hidden, horizon))
        self.correction_bias = nn.Parameter(torch.zeros(sensors, horizon))
        self.hold = nn.Parameter(torch.zeros(hidden, horizon))
        self.hold_bias = nn.Parameter(torch.full((sensors, horizon), HOLD_START))
        self.hold_changes = nn.Parameter(torch.zeros(sensors, window - 1, horizon))

    def forward(self, state: Tensor, changes: Tensor) -> tuple[Tensor, Tensor]:
        """Correction in (-1, 1) and share held in (0, 1), both `[B, horizon, S]`."""
        scale = math.sqrt(self.hidden / self.correction.shape[0])
        correction = state @ (self.correction * scale) + self.correction_bias
        seen = (changes.permute(2, 0, 1) @ self.hold_changes).transpose(0, 1)
        held = state @ (self.hold * scale) + self.hold_bias + seen
        return torch.tanh(correction).transpose(1, 2), torch.sigmoid(held).transpose(1, 2)


class Forecaster(nn.Module):
    """Corrects a linear forecast of standardised telemetry."""

    def __init__(
        self, config: ForecasterConfig, sensors: Sequence[Sensor], *, window: int, horizon: int
    ) -> None:
        """Draw the parameters at full width from torch's generator.

        Raises:
            TrainingFailedError: sensors of one kind are not beside each other.
        """
        super().__init__()
        features = 2 * window - 1
        self.steps = config.steps
        self.encoder = TypedEncoder(kind_counts(sensors), features, config.hidden)
        self.messages = RelationalMessages(config.hidden)
        self.cell = GatedCell(config.hidden)
        self.head = Head(len(sensors), window=window, horizon=horizon, hidden=config.hidden)

    def forward(
        self, window: Tensor, mask: Tensor, base: Tensor, edges: tuple[Tensor, Tensor]
    ) -> Tensor:
        """What to add to the linear forecast `base` `[B, horizon, S]`, all standardised.

        Args:
            window: `[B, W, S]`; missing values are 0.
            mask: `[B, W, S]`, 1 where measured.
            base: the linear forecast.
            edges: both relations of the graph, `[S, S]` each.
        """
        moved = ((window[:, 1:] - window[:, :-1]).abs() / CHANGE).clamp(max=1.0) - 0.5
        changes = moved * mask[:, 1:] * mask[:, :-1]
        features = torch.cat([window.clamp(-CLIP, CLIP), changes], dim=1).transpose(1, 2)
        state = dropout(self.encoder(features), DROPOUT, self.training)
        for _ in range(self.steps):
            state = self.cell(self.messages(state, *edges), state)
        state = dropout(state, DROPOUT, self.training)
        correction, held = self.head(state, changes)
        added: Tensor = held * (window[:, -1:] - base) + correction
        return added


def kind_counts(sensors: Sequence[Sensor]) -> list[int]:
    """How many sensors there are of each kind, in their order.

    Raises:
        TrainingFailedError: sensors of one kind are not beside each other.
    """
    runs = [(kind, len(list(run))) for kind, run in groupby(sensor.kind for sensor in sensors)]
    if len({kind for kind, _ in runs}) < len(runs):
        raise TrainingFailedError("sensors of one kind must be listed beside each other")
    return [count for _, count in runs]
