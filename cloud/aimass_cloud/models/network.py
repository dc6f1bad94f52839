"""What every network of the product is: one module of any width, trained, sliced and served alike.

Its parameters are the weights that training changes, its buffers the constants that it does not.
Widths need no code of their own: a layer reads its size from the parameters that it is called with
(`torch.func.functional_call`), and declares in `ELASTIC` which axes of them shrink. Needs torch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

from aimass_cloud.models.nesting import Nesting
from aimass_shared.errors import InvalidSettingError

Batch = Mapping[str, Tensor]
"""What one training step gets: tensors by name, whose leading axis is that of the samples."""

Tensors = dict[str, Tensor]


class Frozen(NamedTuple):
    """A network as it ships: weights by the names of parameters, constants by those of buffers."""

    weights: Tensors
    constants: Tensors


class Network(nn.Module):
    """A network with an objective.

    Attributes:
        ELASTIC: axes that shrink with the width, by the name of an own parameter or parameter list.
            Every layer may declare them; what is not named is rigid.
        KEPT_FLOAT: prefixes of the names whose products stay float in an int8 slice.
        LEARNS_LOCALLY: whether devices can train it on their telemetry, by `local_loss`.
        LOSSES: names of what its criterion can be, the recipe's own first; none where there is no
            choice. loss: which of them it is.
    """

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    KEPT_FLOAT: ClassVar[tuple[str, ...]] = ()
    LEARNS_LOCALLY: ClassVar[bool] = False
    LOSSES: ClassVar[tuple[str, ...]] = ()
    loss: str = ""

    def choose_loss(self, name: str) -> None:
        """Have the criterion be one of `LOSSES`; "" is the recipe's own.

        Raises:
            InvalidSettingError: there is no such loss; the detail lists what there is.
        """
        if name and name not in self.LOSSES:
            known = ", ".join(self.LOSSES) or "this network's own alone, which has no name"
            raise InvalidSettingError(f"no loss {name!r} here; there are: {known}")
        self.loss = name or next(iter(self.LOSSES), "")

    def predict(self, batch: Batch) -> Tensor:
        """The prediction of a training batch, as the criterion takes it (logits, for one)."""
        raise NotImplementedError

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The loss of a prediction: one number, the mean over the batch."""
        raise NotImplementedError

    def imitation(self, prediction: Tensor, teacher: Tensor) -> Tensor:
        """How far the prediction of a narrow width is from that of the full one."""
        return mse_loss(prediction, teacher)

    def local_loss(self, values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        """What a device lowers on its own telemetry, where it can.

        Args:
            values: windows with what came after them, `[B, window + horizon, S]`, in units.
            mask: of the same shape, 1 where measured.
            weight: `[B]`, 0 for a window that only fills the batch.
        """
        raise NotImplementedError

    def frozen(self) -> Frozen:
        """Weights and constants as they ship, copied."""
        return Frozen(
            {name: weight.detach().clone() for name, weight in self.named_parameters()},
            {name: buffer.detach().clone() for name, buffer in self.named_buffers()},
        )


class Predicting(nn.Module):
    """A network whose call is its prediction of a batch, so that a width can be called."""

    def __init__(self, network: Network) -> None:
        """Wrap a network; its parameters get the prefix `network.`."""
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> Tensor:
        """The prediction of a training batch."""
        return self.network.predict(batch)


class LocalLoss(nn.Module):
    """The local loss of a network as the call of a module, so that its arrays can be arguments."""

    def __init__(self, network: Network) -> None:
        """Take a network that has one; its parameters get the prefix `network.`."""
        super().__init__()
        self.network = network

    def forward(self, values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        """The loss of a batch (see `Network.local_loss`)."""
        return self.network.local_loss(values, mask, weight)


def nesting_of(module: nn.Module) -> Nesting:
    """The elastic axes of all parameters of a module, as its layers declare them."""
    declared: dict[str, tuple[int, ...]] = {}
    for prefix, layer in module.named_modules():
        elastic: Mapping[str, tuple[int, ...]] = getattr(layer, "ELASTIC", {})
        start = f"{prefix}." if prefix else ""
        declared |= {start + name: axes for name, axes in elastic.items()}
    return Nesting(
        {
            # A parameter of a list is named like the list, with a number behind it.
            name: declared.get(name, declared.get(name.rpartition(".")[0], ()))
            for name, _ in module.named_parameters()
        }
    )


def narrowed(weights: Mapping[str, Tensor], nested: Nesting, width: float) -> Tensors:
    """Views of the leading parts of full parameters: a step on them trains the full ones."""
    return {
        name: weight[nested.leading(name, tuple(weight.shape), width)]
        for name, weight in weights.items()
    }


def predictor(network: Network) -> Callable[[float, Batch], Tensor]:
    """A function that predicts a batch at a width, with the parameters of a full network."""
    module = Predicting(network)
    nested = nesting_of(module)

    def predict(width: float, batch: Batch) -> Tensor:
        weights = narrowed(dict(module.named_parameters()), nested, width)
        prediction: Tensor = functional_call(module, weights, (batch,))
        return prediction

    return predict


def called(
    network: Network, arrays: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Outputs of a network with other weights and constants, of any width, by their names."""
    outputs: tuple[Tensor, ...] = functional_call(network, dict(arrays), tuple(inputs))
    return outputs


def tensors(arrays: Mapping[str, NDArray[Any]]) -> Tensors:
    """Arrays as tensors of their own."""
    return {name: torch.tensor(np.asarray(array)) for name, array in arrays.items()}
