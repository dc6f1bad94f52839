"""Windows of sensors to probabilities of conditions: a transformer encoder of any width.

A few rows of all sensors are one token (patches: Nie et al., PatchTST, ICLR 2023); blocks of
attention and a gate of two layers follow, each after a normalisation and beside a way around
(Vaswani et al., 2017; Xiong et al., On layer normalization, ICML 2020). A width keeps the leading
channels and with them the leading heads. Normalisation is over the channels that there are, of one
token: no statistics are kept that would differ between widths. Needs torch.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, layer_norm, relu

from aimass_cloud.models.blocks import drawn
from aimass_cloud.models.classifier import TEMPERATURE, Classifier, Softened
from aimass_cloud.models.network import Batch, Tensors

CLIP = 8.0
"""Standard deviations that an input is limited to: a broken sensor says thousands of them."""


class Layout(msgspec.Struct, frozen=True):
    """Sizes of the network.

    Attributes:
        window: rows of an input. patch: rows of a token; the window is a multiple.
        hidden: channels at full width; every width is a multiple of a head.
        head: channels of an attention head.
        blocks: of attention and two layers. grown: times that the inner layer is wider.
        dropout: share of channels that a training step leaves out.
        smoothing: share of the target that all classes get.
    """

    window: int = 32
    patch: int = 4
    hidden: int = 128
    head: int = 16
    blocks: int = 2
    grown: int = 2
    dropout: float = 0.2
    smoothing: float = 0.1


class Units(nn.Module):
    """Gives every sensor a mean of zero and a deviation of one; what is missing is the mean."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        """Take those of training rows, `[S]`."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """`[B, W, S]` of values in the sensors' units and a mask of the same shape."""
        scaled = ((values - self.mean) / self.scale).clamp(-CLIP, CLIP)
        return scaled.masked_fill(mask <= 0, 0.0)


class Tokens(nn.Module):
    """Rows to tokens: a linear map of a patch, and a vector of its own for each place."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"weight": (1,), "place": (1,)}

    def __init__(self, layout: Layout, sensors: int) -> None:
        """Draw the map."""
        super().__init__()
        self.count = layout.window // layout.patch
        size = layout.patch * sensors
        self.weight = drawn(size, layout.hidden, fan_in=size)
        self.place = drawn(self.count, layout.hidden, fan_in=16)

    def forward(self, rows: Tensor) -> Tensor:
        """Tokens `[B, W / patch, hidden]` of rows `[B, W, S]`."""
        return rows.reshape(-1, self.count, self.weight.shape[0]) @ self.weight + self.place


class Norm(nn.Module):
    """Layer normalisation over the channels of a width, with a gain and a bias of each."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"gain": (0,), "bias": (0,)}

    def __init__(self, hidden: int) -> None:
        """Start as nothing but a normalisation."""
        super().__init__()
        self.gain = nn.Parameter(torch.ones(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, state: Tensor) -> Tensor:
        """The same state, token by token."""
        return layer_norm(state, self.gain.shape, self.gain, self.bias)


class Attention(nn.Module):
    """Attention between tokens; leading channels are whole heads."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "query": (0, 1),
        "key": (0, 1),
        "value": (0, 1),
        "heard": (0, 1),
    }

    def __init__(self, hidden: int, head: int, tokens: int) -> None:
        """Start at full width."""
        super().__init__()
        self.hidden, self.head, self.tokens = hidden, head, tokens
        square = (hidden, hidden)
        self.query, self.key, self.value = (drawn(*square, fan_in=hidden) for _ in range(3))
        self.heard = drawn(*square, fan_in=4 * hidden)

    def forward(self, state: Tensor) -> Tensor:
        """What each token hears, `[B, T, hidden]`."""
        width = self.query.shape[0]
        scale = math.sqrt(self.hidden / width)
        # One product for all three: the joined matrix is a constant once it ships.
        query = self.query * (1 / math.sqrt(self.head))
        joined = torch.cat([query, self.key, self.value], dim=1) * scale
        mixed = (state @ joined).reshape(-1, self.tokens, 3 * width // self.head, self.head)
        heads, mixed = width // self.head, mixed.transpose(1, 2)
        query, key, value = (mixed[:, at * heads : (at + 1) * heads] for at in range(3))
        said = (torch.softmax(query @ key.transpose(-2, -1), dim=-1) @ value).transpose(1, 2)
        return said.reshape(-1, self.tokens, width) @ (self.heard * scale)


class Layers(nn.Module):
    """Two layers over each token, the inner one wider."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "up": (0, 1),
        "bias": (0,),
        "down": (0, 1),
    }

    def __init__(self, hidden: int, grown: int) -> None:
        """Start at full width."""
        super().__init__()
        self.hidden = hidden
        inner = grown * hidden
        self.up = drawn(hidden, inner, fan_in=hidden)
        self.bias = nn.Parameter(torch.zeros(inner))
        self.down = drawn(inner, hidden, fan_in=2 * inner)

    def forward(self, state: Tensor) -> Tensor:
        """The change of the state, `[B, T, hidden]`."""
        scale = math.sqrt(self.hidden / self.up.shape[0])
        return relu(state @ (self.up * scale) + self.bias) @ (self.down * scale)


class Block(nn.Module):
    """Attention and layers, each beside a way around."""

    def __init__(self, layout: Layout, tokens: int) -> None:
        """Start at full width."""
        super().__init__()
        hidden, self.dropout = layout.hidden, layout.dropout
        self.before, self.after = Norm(hidden), Norm(hidden)
        self.attention = Attention(hidden, layout.head, tokens)
        self.layers = Layers(hidden, layout.grown)

    def forward(self, state: Tensor) -> Tensor:
        """The next state."""
        state = state + dropout(self.attention(self.before(state)), self.dropout, self.training)
        change: Tensor = self.layers(self.after(state))
        return state + dropout(change, self.dropout, self.training)


class Readout(Softened):
    """A linear map from the mean over tokens to one number for each class."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"weight": (0,)}

    def __init__(self, hidden: int, classes: int, temperature: Tensor) -> None:
        """Start near equal numbers."""
        super().__init__(temperature)
        self.hidden = hidden
        self.norm = Norm(hidden)
        self.weight = nn.Parameter(drawn(hidden, classes, fan_in=hidden).detach() / 10)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, state: Tensor) -> Tensor:
        """Logits `[B, classes]`."""
        scale = math.sqrt(self.hidden / self.weight.shape[0])
        logits: Tensor = self.norm(state.mean(dim=1)) @ (self.weight * scale) + self.bias
        return logits


class DiagnosisNetwork(Classifier):
    """Tells which condition a window was recorded in.

    Its constants are mean and deviation of the sensors, and the temperature of the probabilities,
    which is chosen for each width.
    """

    KEPT_FLOAT: ClassVar[tuple[str, ...]] = ("tokens.",)

    def __init__(
        self, layout: Layout, constants: Mapping[str, Tensor], *, sensors: int, classes: int
    ) -> None:
        """Take sizes and constants; see `neutral` for their names."""
        super().__init__(layout.smoothing)
        self.base = Units(constants["base.mean"], constants["base.scale"])
        self.tokens = Tokens(layout, sensors)
        self.blocks = nn.Sequential(
            *(Block(layout, self.tokens.count) for _ in range(layout.blocks))
        )
        self.readout = Readout(layout.hidden, classes, constants[TEMPERATURE])

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities `[B, K]` and labels `[B]` of windows `[B, W, S]` in the sensors' units."""
        probabilities = self.readout.shares(self._logits(values, mask))
        return probabilities, probabilities.argmax(dim=-1)

    def predict(self, batch: Batch) -> Tensor:
        """Logits `[B, K]`."""
        return self._logits(batch["values"], batch["mask"])

    def _logits(self, values: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.readout(self.blocks(self.tokens(self.base(values, mask))))
        return logits


def neutral(mean: Tensor, scale: Tensor) -> Tensors:
    """Constants before anything was chosen: probabilities as they come."""
    return {"base.mean": mean, "base.scale": scale, TEMPERATURE: torch.ones(1)}
