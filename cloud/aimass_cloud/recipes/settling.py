"""What a trained forecaster settles on held-back windows, width by width, and the report of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from aimass_cloud.models.forecaster import ForecasterConfig
from aimass_cloud.models.graph import FrozenGraph, relations_in
from aimass_cloud.models.network import Tensors, called, tensors
from aimass_cloud.models.samples import Arrays, Part
from aimass_cloud.models.sensors import SensorNetwork
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_cloud.recipes import forecasting
from aimass_cloud.recipes.forecasting import Choice

BATCH = 128
SHIPPED = "shipped"


def network_of(info: ModelInfo, constants: Arrays) -> SensorNetwork:
    """The network of a trained model: parameters without memory, its graph as constants."""
    config = msgspec.convert(info.config, ForecasterConfig)
    buffers = tensors(constants)
    with torch.device("meta"):
        return SensorNetwork(
            config, info.contract, buffers, graph=FrozenGraph(relations_in(buffers))
        )


def settled_constants(model: TrainedModel) -> Arrays:
    """Gate, loudness and reach of each width, chosen on held-back windows."""
    found = [_settled(model, width) for width in model.info.widths]
    return {name: torch.stack([each[name] for each in found]).numpy() for name in found[0]}


def candidate_errors(model: TrainedModel) -> dict[str, float]:
    """Held-back errors of the full width with each set of relations, and what ships of it."""
    found = _choices(model, model.info.widths[0])
    best = forecasting.chosen(found)
    errors = {each.name: round(each.error, 5) for each in found}
    return errors | {SHIPPED: round(best.error, 5)}


def covered(model: TrainedModel) -> dict[str, Any]:
    """How well the band of the full width covers the test samples; nothing if there is none."""
    if "reach" not in model.constants:
        return {}
    test, outputs = model.samples.test, outputs_on_test(model)
    lower, upper = outputs["lower"], outputs["upper"]
    found = forecasting.coverage(lower, upper, test.truth["future"], scale=test.truth["scale"])
    return {"band": {name: round(value, 4) for name, value in found.items()}}


def outputs_on_test(model: TrainedModel) -> Arrays:
    """Outputs of the full width for the test samples, by name."""
    outputs = _Called(model, model.info.widths[0]).outputs(model.samples.test, {})
    names = [spec.name for spec in model.info.contract.outputs]
    return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}


class _Called:
    """A model at one width, ready to be called with other constants."""

    def __init__(self, model: TrainedModel, width: float) -> None:
        self._network = network_of(model.info, model.constants).eval()
        self._arrays = tensors(model.at(width))
        self._mean = self._arrays["base.mean"]
        self._scale = torch.from_numpy(model.samples.calibration.truth["scale"])
        self.relations: Sequence[str] = self._network.forecaster.relations

    @torch.no_grad()
    def outputs(self, part: Part, others: Mapping[str, Tensor]) -> list[Tensor]:
        """All outputs for some samples."""
        arrays: Tensors = {**self._arrays, **others}
        inputs = [torch.from_numpy(part.inputs[name]) for name in ("values", "mask")]
        parts = [
            called(self._network, arrays, [one[at : at + BATCH] for one in inputs])
            for at in range(0, len(part), BATCH)
        ]
        return [torch.cat(each) for each in zip(*parts, strict=True)]

    def standard(self, values: Tensor) -> Tensor:
        """Values in units as errors are taken."""
        return (values - self._mean) / self._scale


def _choices(model: TrainedModel, width: float) -> list[Choice]:
    called_model, part = _Called(model, width), model.samples.calibration

    def forecast(gate: Tensor, loudness: Tensor) -> Tensor:
        others = {"gate": gate} | ({"loudness": loudness} if len(loudness) else {})
        return called_model.standard(called_model.outputs(part, others)[0])

    return forecasting.choices(
        forecast,
        called_model.standard(torch.from_numpy(part.truth["future"])),
        relations=called_model.relations,
        sensors=model.info.contract.sensors,
    )


def _settled(model: TrainedModel, width: float) -> Tensors:
    best = forecasting.chosen(_choices(model, width))
    found = {"gate": best.gate} | ({"loudness": best.loudness} if len(best.loudness) else {})
    if "reach" in model.constants:
        found["reach"] = _reach(model, width, found)
    return found


def _reach(model: TrainedModel, width: float, settled: Tensors) -> Tensor:
    part, called_model = model.samples.calibration, _Called(model, width)
    names = [spec.name for spec in model.info.contract.outputs]
    size = model.constants["reach"].shape[1:]
    outputs = called_model.outputs(part, {**settled, "reach": torch.ones(size)})
    forecast, lower, upper = (
        called_model.standard(outputs[names.index(name)]) for name in ("forecast", "lower", "upper")
    )
    return forecasting.reach(
        forecast,
        torch.stack([forecast - lower, upper - forecast], dim=1),
        called_model.standard(torch.from_numpy(part.truth["future"])),
        kinds=[sensor.kind for sensor in model.info.contract.sensors],
    )
