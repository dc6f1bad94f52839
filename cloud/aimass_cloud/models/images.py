"""Pictures to class probabilities: a residual convolutional network of any width.

Activations are not normalised, filters are standardised instead, over that part of a filter that a
width keeps (Qiao et al., Weight standardization, 2019; Brock et al., NF-nets, ICLR 2021). As it
ships, filters are constants: the graph has plain convolutions, additions and ReLU. Needs torch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, relu

from aimass_cloud.models.blocks import drawn
from aimass_cloud.models.classifier import TEMPERATURE, Classifier, Softened
from aimass_cloud.models.network import Batch, Tensors

LARGE_SIDE, SMALL_SIDE = 48, 4
FLAT = 1e-6
# What keeps the variance of a standardised sum: ReLU of a unit normal has variance (1 - 1/pi) / 2.
RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))


class Layout(msgspec.Struct, frozen=True):
    """Sizes of an image network.

    Attributes:
        stages: channels of each stage at full width, multiples of 8; each halves the sides.
        blocks: residual blocks of a stage.
        smoothing: share of the target that all classes get.
    """

    stages: tuple[int, ...] = (32, 32, 64, 128)
    blocks: int = 1
    smoothing: float = 0.1


class Filters(nn.Module):
    """A convolution with standardised filters, an own gain and an own bias of each."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "weight": (0, 1),
        "gain": (0,),
        "bias": (0,),
    }

    def __init__(
        self, inputs: int, outputs: int, size: int, *, stride: int = 1, gain: float = 1.0
    ) -> None:
        """Draw `outputs` filters of `size` by `size`."""
        super().__init__()
        self.stride = stride
        self.weight = drawn(outputs, inputs, size, size, fan_in=inputs * size * size)
        self.gain = nn.Parameter(torch.full((outputs,), gain))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, image: Tensor, scale: float = 1.0) -> Tensor:
        """`[B, outputs, H / stride, W / stride]` of an image whose variance is `1 / scale**2`."""
        weight = self.weight
        spread, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
        size = torch.rsqrt(spread * weight[0].numel() + FLAT)
        standard = (weight - mean) * (size * (scale * self.gain).view(-1, 1, 1, 1))
        return conv2d(image, standard, self.bias, self.stride, weight.shape[-1] // 2)


class Stem(Filters):
    """The first filters: whatever the width, they see all channels of the image."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"weight": (0,), "gain": (0,), "bias": (0,)}


class Block(nn.Module):
    """Two convolutions beside a way around them; starts as that way alone."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, variance: float) -> None:
        """Take the variance of what comes in, as it is before training."""
        super().__init__()
        self.scale = RELU_GAIN / math.sqrt(variance)
        self.stride = stride
        self.first = Filters(inputs, outputs, 3, stride=stride)
        self.second = Filters(outputs, outputs, 3, gain=0.0)
        moved = stride > 1 or inputs != outputs
        self.around = Filters(inputs, outputs, 1) if moved else None

    def forward(self, state: Tensor) -> Tensor:
        """The next state `[B, outputs, H / stride, W / stride]`."""
        active = relu(state)
        change: Tensor = self.second(relu(self.first(active, self.scale)), RELU_GAIN)
        if self.around is None:
            return state + change
        fewer = avg_pool2d(active, self.stride) if self.stride > 1 else active
        around: Tensor = self.around(fewer, self.scale)
        return around + change


class Readout(Softened):
    """A linear map from the mean over the image to one number for each class."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"weight": (0,)}

    def __init__(self, channels: int, classes: int, temperature: Tensor) -> None:
        """Start near equal numbers; the temperature is `[1]`."""
        super().__init__(temperature)
        self.channels = channels
        self.weight = nn.Parameter(drawn(channels, classes, fan_in=channels).detach() / 10)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, state: Tensor) -> Tensor:
        """Logits `[B, classes]`."""
        scale = math.sqrt(self.channels / self.weight.shape[0])
        return relu(state).mean(dim=(2, 3)) @ (self.weight * scale) + self.bias


class Pixels(nn.Module):
    """Gives every channel a mean of zero and a spread of one."""

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        """Take those of training pixels, `[C]`."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, image: Tensor) -> Tensor:
        """The same image `[B, C, H, W]`."""
        shape = (-1, 1, 1)
        return (image - self.mean.view(shape)) / self.spread.view(shape)


class ImageNetwork(Classifier):
    """Classifies images.

    Its constants are mean and spread of the training pixels, and the temperature that probabilities
    are softened or sharpened with, which is chosen for each width.
    """

    def __init__(
        self, layout: Layout, constants: Mapping[str, Tensor], *, shape: Sequence[int], classes: int
    ) -> None:
        """Take the shape `(C, H, W)` of the images."""
        super().__init__(layout.smoothing)
        channels, *sides = shape
        self.pixels = Pixels(constants["pixels.mean"], constants["pixels.spread"])
        stem, *stages = layout.stages
        stride = 2 if _halves(sides, LARGE_SIDE) else 1
        self.stem = Stem(channels, stem, 3, stride=stride)
        self.blocks = nn.Sequential(
            *_stages(stem, stages, blocks=layout.blocks, sides=[side // stride for side in sides])
        )
        self.readout = Readout(layout.stages[-1], classes, constants[TEMPERATURE])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities `[B, K]` and labels `[B]` of images `[B, C, H, W]`, pixels in 0..1."""
        probabilities = self.readout.shares(self._logits(image))
        return probabilities, probabilities.argmax(dim=-1)

    def predict(self, batch: Batch) -> Tensor:
        """Logits `[B, K]`."""
        return self._logits(batch["image"])

    def _logits(self, image: Tensor) -> Tensor:
        logits: Tensor = self.readout(self.blocks(self.stem(self.pixels(image))))
        return logits


def neutral(mean: Tensor, spread: Tensor) -> Tensors:
    """Constants before anything was chosen: probabilities as they come."""
    return {"pixels.mean": mean, "pixels.spread": spread, TEMPERATURE: torch.ones(1)}


def _stages(
    inputs: int, stages: Sequence[int], *, blocks: int, sides: Sequence[int]
) -> list[Block]:
    """The blocks of all stages; sides are halved while they are even and long enough."""
    made, variance = [], 1.0
    for outputs in stages:
        for index in range(blocks):
            halves = index == 0 and _halves(sides, SMALL_SIDE + 1)
            stride = 2 if halves else 1
            block = Block(inputs, outputs, stride=stride, variance=variance)
            made.append(block)
            variance = 1.0 if block.around is not None else variance
            variance, inputs = variance + 1.0, outputs
            sides = [side // stride for side in sides]
    return made


def _halves(sides: Sequence[int], least: int) -> bool:
    return min(sides) >= least and all(side % 2 == 0 for side in sides)
