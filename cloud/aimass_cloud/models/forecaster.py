"""The graph forecaster: a bounded correction of a linear forecast, nested in width.

Sensors are nodes of a graph. Each is encoded by a map of its kind, hears its neighbours through
gated steps, and says what to add to each step ahead, within a bound: inputs are clipped, so that an
anomaly cannot be explained away. Two ways lead to the horizon: all steps are read from the state at
once, or the state is where a decoder starts that goes on step by step. Needs torch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, softplus

from aimass_cloud.models.blocks import Edges, GatedCell, RelationalMessages, TypedEncoder, drawn
from aimass_cloud.models.graph import PARTS, group_of
from aimass_shared.manifest import Sensor

CHANGE = 1e-3
HOLD_START = -1.0
DROPOUT = 0.2
SILENCE = 0.3
"""How often training leaves a group of relations out, so that a network can do without."""
SIDES = 2
"""Of a band of quantiles: how far it reaches below the forecast and above."""

Count = Annotated[int, msgspec.Meta(ge=1)]
Rows = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class ForecasterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the graph forecaster, and the options of its recipe.

    Attributes:
        hidden: channels at full width, a multiple of 4. steps: graph steps.
        lags: rows that the VAR looks back. embedding: numbers that place a node in the graph.
        neighbours: edges that a node keeps of the learned graph.
        window: rows that a forecast looks back; 0 tries several. horizon: rows ahead; 0 is what the
            data say, or the recipe.
        recent: rows of these that the network sees, the newest ones.
        graph: relations. "both" are the learned and, where there is one, the given graph.
        start: of the learned graph: drawn, or from how what the base misses at a node goes with how
            others moved just before.
        decoder: "direct" reads all steps ahead at once, "loop" steps to the horizon.
        base: the linear forecast; "auto" is what does best on held-back rows.
        bound: largest correction. clip: largest input. Both in standard deviations.
        relative: whether inputs are relative to the newest value, as levels that drift need it.
        hold: whether forecasts may hold the newest value, as analysers report the same twice.
        quantiles: whether a band of 80 % is forecast too.
        entities: names of machines and lines, which are nodes after those of the sensors.
    """

    hidden: Annotated[int, msgspec.Meta(ge=4, multiple_of=4)] = 96
    steps: Count = 2
    lags: Count = 2
    embedding: Count = 8
    neighbours: Count = 8
    window: Rows = 0
    horizon: Rows = 0
    recent: Count = 48
    graph: Literal["none", "learned", "given", "both"] = "both"
    start: Literal["random", "data"] = "random"
    decoder: Literal["direct", "loop"] = "direct"
    base: Literal["auto", "persistence", "direct", "var"] = "auto"
    bound: Positive = 1.0
    clip: Positive = 3.0
    relative: bool = False
    hold: bool = True
    quantiles: bool = False
    entities: tuple[str, ...] = ()


class Seen(NamedTuple):
    """What a forecaster sees, all standardised.

    Attributes:
        window: `[B, W, S]`; missing values are 0. mask: 1 where measured.
        newest: the newest measured value `[B, 1, S]`. linear: the base, `[B, horizon, S]`.
    """

    window: Tensor
    mask: Tensor
    newest: Tensor
    linear: Tensor


class Head(nn.Module):
    """Linear read-outs of the hidden state: a correction, how far to hold, how wide a band."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "correction": (0,),
        "hold": (0,),
        "spread": (0,),
    }

    def __init__(self, config: ForecasterConfig, sensors: int, horizon: int) -> None:
        """Start at no correction, and holding a little."""
        super().__init__()
        self.hidden, self.bound, self.sensors = config.hidden, config.bound, sensors
        # A decoder has read the step ahead already.
        ahead = horizon if config.decoder == "direct" else 1
        self.correction = nn.Parameter(torch.zeros(config.hidden, ahead))
        self.correction_bias = nn.Parameter(torch.zeros(sensors, horizon))
        self.hold = None
        if config.hold:
            self.hold = nn.Parameter(torch.zeros(config.hidden, ahead))
            self.hold_bias = nn.Parameter(torch.full((sensors, horizon), HOLD_START))
            self.hold_changes = nn.Parameter(torch.zeros(sensors, config.recent - 1, horizon))
        self.spread = None
        if config.quantiles:
            self.spread = nn.ParameterList(torch.zeros(config.hidden, ahead) for _ in range(SIDES))
            self.spread_bias = nn.Parameter(torch.zeros(SIDES, sensors, horizon))

    def forward(self, states: Sequence[Tensor], changes: Tensor, seen: Seen) -> Tensor:
        """What to add to the linear forecast, `[B, horizon, S]`.

        Args:
            states: `[B, N, hidden]`, one for all steps ahead or one for each.
            changes: `[B, recent - 1, S]`, whether a sensor moved.
            seen: what the forecaster sees.
        """
        correction = self._read(states, self.correction) + self.correction_bias
        added = self.bound * torch.tanh(correction / self.bound).transpose(1, 2)
        if self.hold is None:
            return added
        moved = (changes.permute(2, 0, 1) @ self.hold_changes).transpose(0, 1)
        held = self._read(states, self.hold) + self.hold_bias + moved
        return torch.sigmoid(held).transpose(1, 2) * (seen.newest - seen.linear) + added

    def band(self, states: Sequence[Tensor]) -> Tensor:
        """How far the band reaches below and above `[B, 2, horizon, S]`, not negative."""
        if self.spread is None:
            raise NotImplementedError
        sides = [
            self._read(states, self.spread[side]) + self.spread_bias[side] for side in range(SIDES)
        ]
        return softplus(torch.stack(sides, dim=1)).transpose(2, 3)

    def _read(self, states: Sequence[Tensor], matrix: Tensor) -> Tensor:
        scaled = matrix * math.sqrt(self.hidden / matrix.shape[0])
        return torch.cat([state[:, : self.sensors] @ scaled for state in states], dim=2)


class Decoder(nn.Module):
    """Steps a state to the horizon; each step hears the linear forecast of it."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"told": (1,)}

    def __init__(self, hidden: int) -> None:
        """Start at full width."""
        super().__init__()
        self.told = drawn(1, hidden, fan_in=1)
        self.cell = GatedCell(hidden)

    def forward(self, state: Tensor, linear: Tensor) -> list[Tensor]:
        """States `[B, S, hidden]` of each step ahead, after a state and forecasts `[B, H, S]`."""
        states = []
        for ahead in range(linear.shape[1]):
            state = self.cell(linear[:, ahead, :, None] @ self.told, state)
            states.append(state)
        return states


class Forecaster(nn.Module):
    """Corrects a linear forecast of standardised telemetry."""

    def __init__(
        self,
        config: ForecasterConfig,
        sensors: Sequence[Sensor],
        *,
        horizon: int,
        relations: Sequence[str],
    ) -> None:
        """Draw the parameters at full width from torch's generator.

        Args:
            config: sizes; `recent` must not be over the window.
            sensors: in the order of the columns.
            horizon: rows ahead.
            relations: names of those that the graph has.
        """
        super().__init__()
        self.config, self.relations = config, tuple(relations)
        self.encoder = TypedEncoder(
            [sensor.kind for sensor in sensors],
            features=2 * config.recent - 1 + config.relative,
            hidden=config.hidden,
            entities=len(config.entities),
        )
        self.messages = RelationalMessages(len(self.relations), config.hidden)
        self.cell = GatedCell(config.hidden)
        self.head = Head(config, len(sensors), horizon)
        self.decoder = Decoder(config.hidden) if config.decoder == "loop" else None

    def forward(self, seen: Seen, edges: Sequence[Edges], loudness: Tensor) -> Tensor:
        """What to add to the linear forecast, `[B, horizon, S]`; with quantiles see `band_of`.

        Args:
            seen: all standardised.
            edges: relations of the graph.
            loudness: `[relations]`, how much of the messages of each is heard.

        Returns:
            `[B, horizon, S]`, or with quantiles `[B, 3, horizon, S]`: what to add, and how far the
            band reaches below and above the forecast.
        """
        changes = self._changes(seen)
        states = self._states(self._features(seen, changes), seen, edges=edges, loudness=loudness)
        added: Tensor = self.head(states, changes, seen)
        if not self.config.quantiles:
            return added
        return torch.cat([added[:, None], self.head.band(states)], dim=1)

    def _changes(self, seen: Seen) -> Tensor:
        """Whether a sensor moved since the row before: 0.5, or -0.5; 0 where a value is missing."""
        recent = self.config.recent
        window, mask = seen.window[:, -recent:], seen.mask[:, -recent:]
        moved = ((window[:, 1:] - window[:, :-1]).abs() / CHANGE).clamp(max=1.0) - 0.5
        return moved * mask[:, 1:] * mask[:, :-1]

    def _features(self, seen: Seen, changes: Tensor) -> Tensor:
        """`[B, S, F]`."""
        clip, window = self.config.clip, seen.window[:, -self.config.recent :]
        parts = [window, changes]
        if self.config.relative:
            moved = (window - seen.newest) * seen.mask[:, -self.config.recent :]
            parts = [moved, seen.newest, changes]
        clipped = [part.clamp(-clip, clip) for part in parts]
        return torch.cat(clipped, dim=1).transpose(1, 2)

    def _states(
        self, features: Tensor, seen: Seen, *, edges: Sequence[Edges], loudness: Tensor
    ) -> list[Tensor]:
        parts = dict(zip(self.relations, edges, strict=True)).get(PARTS)
        state = dropout(self.encoder(features, parts), DROPOUT, self.training)
        loud = self._loudness(loudness, features)
        for _ in range(self.config.steps):
            state = self.cell(self.messages(state, edges, loud), state)
        state = dropout(state, DROPOUT, self.training)
        if self.decoder is None:
            return [state]
        sensors = seen.window.shape[2]
        clipped = seen.linear.clamp(-self.config.clip, self.config.clip)
        states: list[Tensor] = self.decoder(state[:, :sensors], clipped)
        return states

    def _loudness(self, loudness: Tensor, features: Tensor) -> list[Tensor]:
        """How loud each relation is; in training each group of them is silent now and then."""
        loud = [loudness[at] for at in range(len(self.relations))]
        if not self.training:
            return loud
        groups = [group_of(name) for name in self.relations]
        drawn_for = {group: torch.rand_like(features[:, :1, :1]) for group in dict.fromkeys(groups)}
        kept = {group: (each > SILENCE).to(each.dtype) for group, each in drawn_for.items()}
        return [each * kept[group] for each, group in zip(loud, groups, strict=True)]
