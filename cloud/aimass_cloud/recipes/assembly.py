"""Putting a model together: a draft with nothing learned, what is settled after, and its report."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import torch

from aimass_cloud.models.network import Frozen, called, nesting_of, tensors
from aimass_cloud.models.samples import Arrays, Part
from aimass_cloud.models.trained import ModelInfo, TrainedModel, identify
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.recipes.task import Recipe, Task

BATCH = 256


def drafted(
    plan: Recipe, task: Task, run: RunSettings, *, frozen: Frozen | None = None
) -> TrainedModel:
    """A model without report, of what training found, or that has learned nothing (for exports)."""
    network = task.network()
    weights, constants = (numbers(part) for part in frozen or network.frozen())
    axes = nesting_of(network).axes
    info = ModelInfo(
        id=f"{task.contract.model}-draft",
        recipe=plan.name,
        parent="",
        seed=run.seed,
        config=msgspec.to_builtins(task.config),
        contract=task.contract,
        metrics={},
        created=_now_ms(),
        widths=run.widths,
        axes={name: axes[name] for name in weights},
        per_width=task.per_width,
        data=run.data,
    )
    for name in task.per_width:
        constants[name] = np.stack([constants[name]] * len(run.widths))
    return TrainedModel(info, weights, constants, task.samples(), task.assets)


def settled(plan: Recipe, draft: TrainedModel) -> TrainedModel:
    """The model with what is chosen once its weights are final."""
    constants = {**draft.constants, **plan.settle(draft)}
    return TrainedModel(draft.info, draft.weights, constants, draft.samples, draft.assets)


def finished(plan: Recipe, model: TrainedModel, more: Mapping[str, Any]) -> TrainedModel:
    """The model with its report and its id."""
    widths = model.info.widths
    found = {f"{width:.2f}": figures(plan, model, width) for width in widths}
    own = {"by_width": found, "parameters": model.parameters}
    metrics = {**more, **found[f"{widths[0]:.2f}"], **own}
    info = msgspec.structs.replace(
        model.info,
        id=identify(model.info.contract.model, model.weights, model.constants),
        metrics=metrics,
    )
    return TrainedModel(info, model.weights, model.constants, model.samples, model.assets)


def figures(plan: Recipe, model: TrainedModel, width: float = 1.0) -> dict[str, float]:
    """Figures of a model at a width, on its test samples."""
    test = model.samples.test
    return plan.figures(outputs_of(plan, model, test, width=width), test.truth)


@torch.no_grad()
def outputs_of(plan: Recipe, model: TrainedModel, part: Part, *, width: float) -> Arrays:
    """What a model gives at a width for some samples, by the names of its contract's outputs."""
    network = plan.module(model.info, model.constants).eval()
    arrays, contract = tensors(model.at(width)), model.info.contract
    inputs = [torch.from_numpy(part.inputs[spec.name]) for spec in contract.inputs]
    parts = [
        called(network, arrays, [one[at : at + BATCH] for one in inputs])
        for at in range(0, len(part), BATCH)
    ]
    return {
        spec.name: torch.cat([outputs[index] for outputs in parts]).numpy()
        for index, spec in enumerate(contract.outputs)
    }


def numbers(named: Mapping[str, torch.Tensor]) -> Arrays:
    """Tensors as arrays, in the order of their names."""
    return {name: tensor.numpy() for name, tensor in sorted(named.items())}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
