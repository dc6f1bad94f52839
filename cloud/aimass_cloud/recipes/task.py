"""What a recipe is to training, slicing and the registry, and what it becomes once it has data.

A recipe is one file: a layout of data, a network, a measure, baselines. It trains nothing itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from torch import Tensor

from aimass_cloud.models.network import Batch, Network
from aimass_cloud.models.samples import Arrays, Samples
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_cloud.recipes.run import RunSettings
from aimass_shared.manifest import Contract, Role
from aimass_shared.moments import Moments


class Source(Protocol):
    """An endless sequence of training batches that can be taken up anywhere."""

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches from number `start` on; each is a function of the seed and its number alone."""
        ...


class Task(ABC):
    """A recipe opened on data.

    Attributes:
        contract: of the models. config: sizes of the network.
        per_width: constants that each width has its own of (see `ModelInfo`).
        assets: files that a slice needs beside its graph, by role.
    """

    contract: Contract
    config: msgspec.Struct
    per_width: tuple[str, ...] = ()
    assets: Mapping[Role, bytes] = {}

    @abstractmethod
    def network(self) -> Network:
        """A new network at full width, drawn from torch's generator."""

    @abstractmethod
    def source(self, *, batch: int, rank: int = 0, world: int = 1) -> Source:
        """Training batches; `rank` gets its share of each of `batch` samples."""

    @abstractmethod
    def held_back(self) -> Sequence[Batch]:
        """Batches that training does not see and every choice is made on."""

    @abstractmethod
    def samples(self) -> Samples:
        """What travels with the model: held-back, test and self-test inputs."""

    def baselines(self) -> dict[str, Any]:
        """Figures of what the model is compared with, on the same test samples."""
        return {}

    def report(self, model: TrainedModel) -> dict[str, Any]:  # noqa: ARG002  for those that need it
        """More figures of a model than those of its outputs."""
        return {}

    def watch(
        self, network: Network, widths: Sequence[float], predict: Callable[[float, Batch], Tensor]
    ) -> float:
        """What training watches on held-back samples; smaller is better.

        The mean of the criterion over all widths, where a recipe knows nothing better.
        """
        held_back = self.held_back()
        errors = [
            float(network.criterion(predict(width, batch), batch))
            for width in widths
            for batch in held_back
        ]
        return sum(errors) / len(errors)


class Recipe(Protocol):
    """One task: what is trained, on what, and how well it does.

    Attributes:
        name: how commands name it. model: name of the models that it makes.
        summary: one line. layout: what a path of data must hold.
        sizes: configurations of the network by size.
        run: settings of a run where nobody says otherwise.
    """

    name: str
    model: str
    summary: str
    layout: str
    sizes: Mapping[str, msgspec.Struct]
    run: RunSettings

    def open(self, run: RunSettings, base: Moments | None = None) -> Task:
        """Read the data of a run.

        Args:
            run: whose data, seed (of splits), size and options matter here.
            base: moments that sites shared, for recipes that start from a linear model.

        Raises:
            BadDataError: the data are not of the layout; the detail says where.
            InvalidSettingError: the recipe has no such size or option.
        """
        ...

    def module(self, info: ModelInfo, constants: Arrays) -> Network:
        """The module of a trained model: parameters without memory, buffers from the constants."""
        ...

    def settle(self, model: TrainedModel) -> Arrays:
        """Constants that are chosen once weights are final, on held-back samples."""
        ...

    def error(self, outputs: Arrays, truth: Arrays) -> float:
        """The recipe's measure of a model's outputs, smaller is better."""
        ...

    def figures(self, outputs: Arrays, truth: Arrays) -> dict[str, float]:
        """Named figures of a model's outputs."""
        ...
