"""The local loss of a model over its widths, with weights that can be trained on. Needs torch."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from aimass_cloud.models.network import LocalLoss, Network, Tensors, narrowed, tensors
from aimass_cloud.models.trained import TrainedModel
from aimass_shared.errors import BadUpdateError

PREFIX = "network."


class LocalObjective:
    """What a learner lowers: the mean local loss of all widths of a model."""

    def __init__(self, network: Network, model: TrainedModel) -> None:
        """Begin at the weights of a model; `network` is the module of its recipe."""
        self.weights = {
            name: weight.requires_grad_() for name, weight in tensors(model.weights).items()
        }
        self._loss = LocalLoss(network)
        self._nesting, self._widths = model.nesting, model.info.widths
        self._constants = [
            {name: value for name, value in tensors(model.at(width)).items() if name in own}
            for width in self._widths
            for own in (model.constants.keys(),)
        ]

    def loss(self, values: NDArray[np.float32], mask: NDArray[np.float32]) -> Tensor:
        """The mean loss over widths of windows with their future, `[n, W + horizon, S]`."""
        inputs = (torch.from_numpy(values), torch.from_numpy(mask), torch.ones(len(values)))
        losses = []
        for width, constants in zip(self._widths, self._constants, strict=True):
            arrays = {**constants, **narrowed(self.weights, self._nesting, width)}
            named = {PREFIX + name: array for name, array in arrays.items()}
            losses.append(functional_call(self._loss, named, inputs))
        return torch.stack(losses).mean()

    def whole(self) -> Tensors:
        """Copies of the weights as they are."""
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights, in place."""
        for name, weight in self.weights.items():
            weight.copy_(weights[name])

    @torch.no_grad()
    def add(self, delta: Mapping[str, NDArray[np.float32]], share: float) -> None:
        """Add a share of differences, in place.

        Raises:
            BadUpdateError: they are not of these weights, or not finite; nothing was added.
        """
        if set(delta) != set(self.weights):
            odd = sorted(set(delta) ^ set(self.weights))
            raise BadUpdateError(f"an update of other weights: {', '.join(odd[:5])}")
        for name, array in delta.items():
            if array.shape != tuple(self.weights[name].shape) or not np.isfinite(array).all():
                raise BadUpdateError(f"{name} of the update has another shape or is not finite")
        for name, weight in self.weights.items():
            weight.add_(torch.from_numpy(delta[name]), alpha=share)
