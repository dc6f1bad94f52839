"""Why a network answered as it did: what of the input, and which edges of its graph.

Three ways, each with its cost beside the answer. Gradient times input is one pass forward and back.
Integrated gradients average the gradient on the way from a baseline (Sundararajan, Taly and Yan,
ICML 2017; Captum's), so the parts add up to what the baseline does not explain. Edge masks find the
few edges that an answer needs (GNNExplainer: Ying et al., NeurIPS 2019); its entropy term is left
out, because it outweighs a small squared error and then finds chance. Where only the served model
is at hand see `aimass_shared.explaining`. Needs torch and captum.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from captum.attr import IntegratedGradients
from numpy.typing import NDArray
from torch import Tensor

from aimass_cloud import recipes
from aimass_cloud.models.network import Tensors, called, tensors
from aimass_cloud.models.relations import INDEX, PREFIX, WEIGHT, Edge, graph_of
from aimass_cloud.models.trained import TrainedModel
from aimass_shared.errors import BadTensorError, NotFoundError
from aimass_shared.manifest import Contract

STEPS: Final = 50
STEPS_AT_ONCE: Final = 16
EPOCHS: Final = 150
RATE: Final = 0.1
EDGE_SIZE: Final = 1e-3
START: Final = 1.0

Method = Literal["gradient", "integrated"]
Number = Callable[..., Tensor]
"""From input tensors `[B, ...]`, in order, to the explained number of each sample `[B]`."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much each element of the inputs did.

    Attributes:
        values: of the shapes of the inputs that were explained, by name.
        total: the explained number less that of the baseline; integrated gradients add up to it.
        milliseconds: what it cost.
    """

    method: Method
    values: dict[str, NDArray[np.float32]]
    total: float
    milliseconds: float

    def by(self, axis: int) -> NDArray[np.float32]:
        """Sums over all other axes: `by(-1)` of telemetry `[1, W, S]` is of sensors `[S]`."""
        summed = [np.moveaxis(array, axis, -1) for array in self.values.values()]
        flat = [array.reshape(-1, array.shape[-1]).sum(axis=0) for array in summed]
        return np.asarray(sum(flat), np.float32)


@dataclass(frozen=True, eq=False)
class EdgeMasks:
    """What an answer needs of each edge, 0 to 1, in the shapes of the relations; what it cost."""

    values: dict[str, NDArray[np.float32]]
    milliseconds: float


@dataclass(frozen=True)
class NeededEdges:
    """The edges of a model's graph that an answer needs most, and what it cost to find them."""

    edges: tuple[Edge, ...]
    milliseconds: float


def attributed(
    number: Number,
    inputs: Mapping[str, Tensor],
    *,
    baselines: Mapping[str, Tensor],
    method: Method = "gradient",
) -> Attribution:
    """Explain any differentiable function of float inputs.

    Args:
        number: the function; it takes all inputs in their order.
        inputs: tensors by name, of one sample.
        baselines: of the inputs to explain, what "nothing" is (broadcast to the input); the other
            inputs are left as they are.
        method: "gradient" (times input less baseline) or "integrated".

    Raises:
        BadTensorError: an input to explain is not of floats, or there are several samples.
    """
    _check(inputs, baselines)
    started = time.perf_counter()
    start = {name: _broadcast(baselines[name], inputs[name]) for name in baselines}
    explained = {name: inputs[name].detach() for name in baselines}

    def of_explained(*parts: Tensor) -> Tensor:
        mine = dict(zip(explained, parts, strict=True))
        count = len(parts[0])
        return number(*(mine.get(name, _repeated(inputs[name], count)) for name in inputs))

    with torch.no_grad():
        whole, nothing = (of_explained(*each.values()) for each in (explained, start))
    find = _gradient if method == "gradient" else _integrated
    found = find(of_explained, tuple(explained.values()), tuple(start.values()))
    return Attribution(
        method,
        {name: part.detach().float().numpy() for name, part in zip(explained, found, strict=True)},
        float(whole - nothing),
        _milliseconds(started),
    )


def edge_masks(answer: Callable[[Tensors], Tensor], relations: Mapping[str, Tensor]) -> EdgeMasks:
    """The edges that an answer needs, by masks that are learned for this one answer.

    The masks multiply the edges; they are to keep the answer as it is and to be few. Nothing of the
    network is changed. An answer that no edge changes needs none.

    Args:
        answer: any tensor that the network gives with these relations instead of its own.
        relations: weights of edges by name, of any shape; 0 is no edge.
    """
    started = time.perf_counter()
    own = {name: edges.detach() for name, edges in relations.items()}
    with torch.no_grad():
        whole = answer(own)
        nothing = answer({name: torch.zeros_like(edges) for name, edges in own.items()})
    scale = (whole - nothing).square().mean()
    if float(scale) == 0.0:
        none = {name: np.zeros(tuple(edges.shape), np.float32) for name, edges in own.items()}
        return EdgeMasks(none, _milliseconds(started))
    kept = _learned(lambda edges: (answer(edges) - whole).square().mean() / scale, own)
    masks = {name: (kept[name] * (own[name] != 0)).numpy() for name in own}
    return EdgeMasks(masks, _milliseconds(started))


class Explainer:
    """A trained model, opened to be explained again and again."""

    def __init__(self, model: TrainedModel, width: float = 1.0) -> None:
        """Open it.

        Raises:
            NotFoundError: there is no such recipe, or the model was not trained at that width.
        """
        self._model = model
        self._network = recipes.find(model.info.recipe).module(model.info, model.constants).eval()
        self._arrays = tensors(model.at(width))
        self._contract = model.info.contract

    def attribution(
        self,
        inputs: Mapping[str, NDArray[np.float32]],
        *,
        output: str = "",
        place: Sequence[int] = (),
        method: Method = "gradient",
    ) -> Attribution:
        """How much each element of the inputs did for one number of the answer.

        The baseline of telemetry is each sensor's mean in normal operation, of all else zeros; the
        mask of telemetry is not explained.

        Args:
            inputs: as served, of one sample.
            output: name of the explained output; the alarm's score, or the first output.
            place: index of the number in it, without the sample's axis; of the label that the
                sample got where the task is to classify, the first number elsewhere.
            method: "gradient" or "integrated".

        Raises:
            BadTensorError: the inputs are not floats, or of several samples.
            NotFoundError: there is no such output, or no such place in it.
        """
        given = self._ordered(inputs)
        wanted = self._wanted(output)
        with torch.no_grad():
            outputs = self._outputs(self._arrays, given)
        chosen = _place(outputs[wanted], place, self._contract)

        def number(*parts: Tensor) -> Tensor:
            found = called(self._network, self._arrays, parts)[wanted]
            return found.reshape(len(found), -1)[:, chosen]

        return attributed(number, given, baselines=self._baselines(given), method=method)

    def edges(
        self,
        inputs: Mapping[str, NDArray[np.float32]],
        *,
        output: str = "",
        sensor: str = "",
        top: int = 10,
    ) -> NeededEdges:
        """The edges of the model's graph that an answer needs.

        Args:
            inputs: as served, of one sample.
            output: name of the output; the first one where none is named, the forecast for one.
            sensor: of a forecast, only what is said of this sensor.
            top: how many edges to give at most.

        Raises:
            NotFoundError: the model has no graph, no such output or sensor.
        """
        nodes = [node.name for node in graph_of(self._model).nodes]
        given, wanted = self._ordered(inputs), self._wanted(output or self._names[0])
        names = [one.name for one in self._contract.sensors]
        columns = [_index(names, sensor)] if sensor else list(range(len(names)))

        def answer(masked: Tensors) -> Tensor:
            found = self._outputs({**self._arrays, **masked}, given)[wanted]
            scaled = found / self._scale(found)
            return scaled[..., columns] if found.shape[-1] == len(names) else found

        found = edge_masks(answer, self._relations())
        return NeededEdges(self._strongest(found, nodes)[:top], found.milliseconds)

    def _relations(self) -> Tensors:
        """Weights of all edges: dense relations, and those of a few neighbours."""
        return {
            name: array
            for name, array in self._arrays.items()
            if name.startswith(PREFIX) and not name.endswith(INDEX)
        }

    def _strongest(self, masks: EdgeMasks, nodes: Sequence[str]) -> tuple[Edge, ...]:
        found = []
        for name, array in masks.values.items():
            relation = name.removeprefix(PREFIX).removesuffix(WEIGHT)
            index = self._arrays.get(f"{PREFIX}{relation}{INDEX}")
            for target, column in zip(*np.nonzero(array), strict=True):
                source = int(column) if index is None else int(index[target, column])
                weight = float(array[target, column])
                found.append(Edge(nodes[source], nodes[target], relation, weight))
        return tuple(sorted(found, key=lambda edge: -edge.weight))

    @property
    def _names(self) -> list[str]:
        return [spec.name for spec in self._contract.outputs]

    def _wanted(self, output: str) -> int:
        alarm = self._contract.alarm
        return _index(self._names, output or (alarm.score if alarm else self._names[0]))

    def _ordered(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
        names = [spec.name for spec in self._contract.inputs]
        if missing := [name for name in names if name not in inputs]:
            raise BadTensorError(f"inputs {', '.join(missing)} are missing")
        return tensors({name: inputs[name] for name in names})

    def _outputs(self, arrays: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
        return called(self._network, arrays, list(inputs.values()))

    def _baselines(self, inputs: Tensors) -> Tensors:
        if "values" in inputs and "base.mean" in self._arrays:
            return {"values": self._arrays["base.mean"]}
        return {
            name: torch.zeros(()) for name, tensor in inputs.items() if tensor.is_floating_point()
        }

    def _scale(self, found: Tensor) -> Tensor:
        """Sensors' units, so that none counts more for being in small ones."""
        scale = self._arrays.get("base.scale")
        if scale is None or found.shape[-1] != len(scale):
            return torch.ones(())
        return scale


def _gradient(
    number: Number, inputs: tuple[Tensor, ...], start: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    leaves = tuple(part.clone().requires_grad_() for part in inputs)
    gradients = torch.autograd.grad(number(*leaves).sum(), leaves, allow_unused=True)
    pairs = zip(inputs, start, gradients, strict=True)
    return tuple(
        torch.zeros_like(part) if slope is None else (part - nothing) * slope
        for part, nothing, slope in pairs
    )


def _integrated(
    number: Number, inputs: tuple[Tensor, ...], start: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    method = IntegratedGradients(number)
    found: tuple[Tensor, ...] = method.attribute(
        inputs, baselines=start, n_steps=STEPS, internal_batch_size=STEPS_AT_ONCE
    )
    return found


def _learned(error: Callable[[Tensors], Tensor], relations: Tensors) -> Tensors:
    """Masks that keep the error small and are small themselves."""
    logits = {
        name: torch.full_like(edges, START).requires_grad_() for name, edges in relations.items()
    }
    optimizer = torch.optim.Adam(list(logits.values()), lr=RATE)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        masks = {name: torch.sigmoid(mask) for name, mask in logits.items()}
        size = sum((mask.sum() for mask in masks.values()), torch.zeros(()))
        loss = error({name: relations[name] * mask for name, mask in masks.items()})
        torch.autograd.backward(loss + EDGE_SIZE * size)
        optimizer.step()
    return {name: torch.sigmoid(mask).detach() for name, mask in logits.items()}


def _place(output: Tensor, place: Sequence[int], contract: Contract) -> int:
    """Where the explained number is among those of a sample."""
    sample = output[0]
    if not place:
        return int(sample.argmax()) if contract.task == "classify" else 0
    shape = tuple(sample.shape)
    if len(place) != len(shape) or any(
        not 0 <= at < size for at, size in zip(place, shape, strict=True)
    ):
        raise NotFoundError(f"no place {tuple(place)} in an output of shape {shape}")
    return int(np.ravel_multi_index(tuple(place), shape))


def _index(names: Sequence[str], name: str) -> int:
    if name not in names:
        raise NotFoundError(f"no {name!r} here; there are: {', '.join(names)}")
    return names.index(name)


def _check(inputs: Mapping[str, Tensor], baselines: Mapping[str, Tensor]) -> None:
    if not baselines or any(not inputs[name].is_floating_point() for name in baselines):
        raise BadTensorError("gradients explain inputs of floats; explain others by occlusion")
    if any(len(tensor) != 1 for tensor in inputs.values()):
        raise BadTensorError("one sample is explained at a time: send one")


def _broadcast(baseline: Tensor, tensor: Tensor) -> Tensor:
    return baseline.to(tensor.dtype).expand(tensor.shape).clone()


def _repeated(tensor: Tensor, count: int) -> Tensor:
    return tensor.expand(count, *tensor.shape[1:])


def _milliseconds(started: float) -> float:
    return math.ceil((time.perf_counter() - started) * 1e5) / 100
