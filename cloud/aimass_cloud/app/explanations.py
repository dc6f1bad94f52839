"""Explaining an answer of the full model by its gradients or its graph: a request, a run, its cost.

Explanations without torch, by leaving parts out, come with any prediction (`explain` in /v2).
"""

import asyncio
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.registry import Registry
from aimass_shared.errors import BadTensorError, MissingExtraError, NotFoundError

TOP = 10
_DTYPES = {"FP32": np.float32, "INT64": np.int64}

Arrays = dict[str, np.ndarray[Any, Any]]


class ExplainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/v1/models/{model}/explain`.

    Attributes:
        method: "gradient" (times input), "integrated" (gradients) or "edges" (of the graph).
        inputs: one sample as nested lists by input name; without them a self-test sample is taken.
        sample: number of that self-test sample.
        output: explained output, the alarm's score or the first one if "".
        sensor: with "edges", only what is forecast for this sensor.
    """

    method: Literal["gradient", "integrated", "edges"] = "gradient"
    inputs: dict[str, Any] = {}
    sample: int = 0
    output: str = ""
    sensor: str = ""


class Explanation(msgspec.Struct, frozen=True):
    """What made the answer, and what finding out cost.

    Attributes:
        parts: sensors with their share, the largest first; empty where inputs are no sensors.
        values: shares of every element, by input.
        edges: of the graph that the answer needs, the strongest first.
        total: the explained number, less what the baseline gives.
    """

    method: str
    milliseconds: float
    total: float = 0.0
    parts: tuple[tuple[str, float], ...] = ()
    values: dict[str, Any] = {}
    edges: tuple[dict[str, Any], ...] = ()


async def explained(registry: Registry, model: str, request: ExplainRequest) -> Explanation:
    """Explain one answer of a model at full width.

    Raises:
        NotFoundError: there is no such model, output, sensor, or graph.
        RequestError: the model was imported as ONNX.
        BadTensorError: the inputs are not those of one sample, or not of floats.
        MissingExtraError: torch is not installed.
    """
    row = await registry.trained(model)
    return await asyncio.to_thread(_explained, Path(row.directory), request)


def _explained(directory: Path, request: ExplainRequest) -> Explanation:
    try:
        from aimass_cloud.training.explaining import Explainer  # noqa: PLC0415  torch is of [train]
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'this needs {error.name}: pip install "aimass[cloud,train]"; predictions are explained'
            " without it by their parameter `explain`"
        ) from error
    model = TrainedModel.load(directory)
    inputs, explainer = _inputs(model, request), Explainer(model)
    if request.method == "edges":
        masks = explainer.edges(inputs, output=request.output, sensor=request.sensor, top=TOP)
        edges = tuple(msgspec.to_builtins(edge) for edge in masks.edges)
        return Explanation("edges", round(masks.milliseconds, 3), edges=edges)
    found = explainer.attribution(inputs, output=request.output, method=request.method)
    sensors = [sensor.name for sensor in model.info.contract.sensors]
    shares = zip(sensors, found.by(-1).tolist(), strict=True) if sensors else ()
    return Explanation(
        found.method,
        round(found.milliseconds, 3),
        total=found.total,
        parts=tuple(sorted(shares, key=lambda part: -abs(part[1]))),
        values={name: array.tolist() for name, array in found.values.items()},
    )


def _inputs(model: TrainedModel, request: ExplainRequest) -> Arrays:
    selftest = model.samples.selftest
    if not request.inputs:
        count = len(next(iter(selftest.values())))
        if not 0 <= request.sample < count:
            raise NotFoundError(f"no self-test sample {request.sample}; there are 0 to {count - 1}")
        at = slice(request.sample, request.sample + 1)
        return {name: array[at] for name, array in selftest.items()}
    try:
        return {
            spec.name: np.asarray(request.inputs[spec.name], _DTYPES[spec.datatype])
            for spec in model.info.contract.inputs
        }
    except (KeyError, ValueError, TypeError) as error:
        raise BadTensorError(f"inputs are not those of the model: {error}") from error
