"""Layers of any width: each works with a leading part of its parameters as well as with all.

Widths need no code of their own: a layer reads its size from the parameters that it is called with.
There is no normalisation over channels, whose statistics would differ between widths; sums over
fewer channels are scaled up instead. Needs torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

GATES = 3


def drawn(*shape: int, fan_in: int) -> nn.Parameter:
    """A parameter drawn so that a sum over `fan_in` inputs of unit variance has unit variance."""
    return nn.Parameter(torch.randn(*shape) / math.sqrt(fan_in))


class TypedEncoder(nn.Module):
    """One linear map for each kind of sensor, and a vector of its own for each node.

    Nodes are the sensors, then the machines and lines (entities) that they belong to, which start
    from what their sensors say together.
    """

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "maps": (1,),
        "identity": (1,),
        "together": (0, 1),
    }

    def __init__(
        self, kinds: Sequence[str], *, features: int, hidden: int, entities: int = 0
    ) -> None:
        """Take the kind of each sensor, in any order, and how many entities there are."""
        super().__init__()
        self.hidden = hidden
        names = list(dict.fromkeys(kinds))
        self.order = sorted(range(len(kinds)), key=lambda sensor: names.index(kinds[sensor]))
        ends = list(accumulate(list(kinds).count(name) for name in names))
        self.spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        self.maps = nn.ParameterList(drawn(features, hidden, fan_in=features) for _ in names)
        self.identity = drawn(len(kinds) + entities, hidden, fan_in=16)
        self.together = drawn(hidden, hidden, fan_in=hidden) if entities else None

    def forward(self, features: Tensor, parts: "Edges | None" = None) -> Tensor:
        """Hidden state `[B, N, hidden]` of features `[B, S, F]`.

        Args:
            features: of the sensors.
            parts: the relation along which entities hear their sensors, where there are any.
        """
        sensors = features.shape[1]
        state = torch.tanh(self._encoded(features) + self.identity[:sensors])
        if self.together is None or parts is None:
            return state
        unsaid = torch.zeros_like(state[:, :1]).expand(-1, len(self.identity) - sensors, -1)
        together = heard(parts, torch.cat([state, unsaid], dim=1))[:, sensors:]
        scale = math.sqrt(self.hidden / self.together.shape[0])
        entities = torch.tanh(together @ (self.together * scale) + self.identity[sensors:])
        return torch.cat([state, entities], dim=1)

    def _encoded(self, features: Tensor) -> Tensor:
        """Each sensor through the map of its kind."""
        # Slices, here and below: `split` exports as a sequence, which not every runtime has.
        is_sorted = self.order == sorted(self.order)
        sorted_features = features if is_sorted else features[:, self.order]
        parts = [
            sorted_features[:, span] @ matrix
            for span, matrix in zip(self.spans, self.maps, strict=True)
        ]
        joined = torch.cat(parts, dim=1)
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return joined if is_sorted else joined[:, back]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """A relation of which each node keeps k edges: whom it hears, and how much.

    Attributes:
        index: `[N, k]`, whole numbers. weight: `[N, k]`.
    """

    index: Tensor
    weight: Tensor

    def heard(self, state: Tensor) -> Tensor:
        """Weighted sums `[B, N, hidden]` over the neighbours of each node."""
        nodes, kept = self.index.shape
        gathered = state[:, self.index.long().reshape(-1)]
        shaped = gathered.reshape(-1, nodes, kept, state.shape[-1])
        return (shaped * self.weight[..., None]).sum(dim=2)


Edges: TypeAlias = Tensor | Neighbours
"""A relation: weights `[N, N]`, a row for each node that hears, or neighbours."""


class RelationalMessages(nn.Module):
    """What nodes hear along each relation, each with its own matrix (Li et al., GGNN, 2016).

    Without any relation a node hears itself.
    """

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"maps": (0, 1)}

    def __init__(self, relations: int, hidden: int) -> None:
        """Start at full width."""
        super().__init__()
        self.hidden = hidden
        fan_in = relations * hidden
        self.maps = nn.ParameterList(drawn(hidden, hidden, fan_in=fan_in) for _ in range(relations))

    def forward(self, state: Tensor, edges: Sequence[Edges], loudness: Sequence[Tensor]) -> Tensor:
        """Messages `[B, N, hidden]` for a state.

        Args:
            state: `[B, N, hidden]`.
            edges: each relation.
            loudness: what the messages of each are multiplied with.
        """
        if not edges:
            return state
        scale = math.sqrt(self.hidden / state.shape[-1])
        parts = [
            heard(relation, state) @ (matrix * scale) * loud
            for relation, matrix, loud in zip(edges, self.maps, loudness, strict=True)
        ]
        total: Tensor = reduce(torch.add, parts)
        return total


def heard(relation: Edges, state: Tensor) -> Tensor:
    """What each node hears along a relation, `[B, N, hidden]`."""
    if isinstance(relation, Neighbours):
        return relation.heard(state)
    dense: Tensor = relation @ state
    return dense


class GatedCell(nn.Module):
    """A GRU cell whose gates lie on an axis of their own, so that a prefix is one of each gate."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "input": (1, 2),
        "state": (1, 2),
        "bias": (1,),
    }

    def __init__(self, hidden: int) -> None:
        """Start at full width: weights `[3, out, in]` in the order update, reset, candidate."""
        super().__init__()
        self.hidden = hidden
        self.input = drawn(GATES, hidden, hidden, fan_in=hidden)
        self.state = drawn(GATES, hidden, hidden, fan_in=hidden)
        self.bias = nn.Parameter(torch.zeros(GATES, hidden))

    def forward(self, message: Tensor, state: Tensor) -> Tensor:
        """The next state `[B, S, hidden]`."""
        heard = message @ self._joined(self.input) + self.bias.reshape(-1)
        update, reset, candidate = _gates(heard)
        own_update, own_reset, own_candidate = _gates(state @ self._joined(self.state))
        keep = torch.sigmoid(update + own_update)
        proposal = torch.tanh(candidate + torch.sigmoid(reset + own_reset) * own_candidate)
        return keep * state + (1 - keep) * proposal

    def _joined(self, gates: Tensor) -> Tensor:
        """All gates as one matrix `[in, 3 * out]`: one product instead of three."""
        scale = math.sqrt(self.hidden / gates.shape[-1])
        return (gates * scale).reshape(-1, gates.shape[-1]).T


def _gates(joined: Tensor) -> list[Tensor]:
    """The parts of `[..., 3 * hidden]`."""
    size = joined.shape[-1] // GATES
    return [joined[..., at * size : (at + 1) * size] for at in range(GATES)]
