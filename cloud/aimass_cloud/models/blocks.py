"""Layers of any width: each works with a leading part of its parameters as well as with all.

Widths need no code of their own: a layer reads its size from the parameters that it is called with.
There is no normalisation over channels, whose statistics would differ between widths; sums over
fewer channels are scaled up instead. Needs torch.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor, nn

GATES = 3


def drawn(*shape: int, fan_in: int) -> nn.Parameter:
    """A parameter drawn so that a sum over `fan_in` inputs of unit variance has unit variance."""
    return nn.Parameter(torch.randn(*shape) / math.sqrt(fan_in))


class TypedEncoder(nn.Module):
    """One linear map for each kind of sensor, and a vector of its own for each sensor."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"maps": (1,), "identity": (1,)}

    def __init__(self, counts: Sequence[int], features: int, hidden: int) -> None:
        """Take how many sensors there are of each kind, in the order of the sensors."""
        super().__init__()
        ends = list(accumulate(counts))
        self.spans = tuple(slice(end - count, end) for end, count in zip(ends, counts, strict=True))
        self.maps = nn.ParameterList(drawn(features, hidden, fan_in=features) for _ in counts)
        self.identity = drawn(sum(counts), hidden, fan_in=16)

    def forward(self, features: Tensor) -> Tensor:
        """Hidden state `[B, S, hidden]` of features `[B, S, F]`."""
        # Slices, here and below: `split` exports as a sequence, which not every runtime has.
        parts = [
            features[:, span] @ matrix for span, matrix in zip(self.spans, self.maps, strict=True)
        ]
        return torch.tanh(torch.cat(parts, dim=1) + self.identity)


class RelationalMessages(nn.Module):
    """What sensors hear along each relation, each with its own matrix (Li et al., GGNN, 2016)."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"inward": (0, 1), "outward": (0, 1)}

    def __init__(self, hidden: int) -> None:
        """Start at full width."""
        super().__init__()
        self.hidden = hidden
        self.inward = drawn(hidden, hidden, fan_in=2 * hidden)
        self.outward = drawn(hidden, hidden, fan_in=2 * hidden)

    def forward(self, state: Tensor, inward: Tensor, outward: Tensor) -> Tensor:
        """Messages `[B, S, hidden]` for a state, along edges `[S, S]` of both relations."""
        scale = math.sqrt(self.hidden / self.inward.shape[0])
        return (inward @ state) @ (self.inward * scale) + (outward @ state) @ (self.outward * scale)


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
