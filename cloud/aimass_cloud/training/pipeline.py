"""From a recipe and data to a trained model with its report, and from a model to its children.

Choices are made on held-back samples, figures come from the test samples. The threads of torch are
limited to one: on a busy machine two are slower, and one is repeatable.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from aimass_cloud import recipes
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.assembly import drafted, figures, finished, settled
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.training.trainer import Progress, Trainer
from aimass_shared.errors import BadUpdateError
from aimass_shared.moments import Moments

Weights = Mapping[str, NDArray[np.float32]]


def quiet(_fraction: float, _message: str) -> None:
    """Progress that nobody watches."""


def train(
    recipe: str,
    run: RunSettings | None = None,
    *,
    base: Moments | None = None,
    progress: Progress = quiet,
) -> TrainedModel:
    """Train a recipe: all widths, then what is chosen on held-back samples, then a report.

    Args:
        recipe: its name.
        run: settings, the recipe's own if there are none.
        base: moments that sites shared; they are added to those of the data's own rows.
        progress: told the fraction done and what is going on.

    Raises:
        NotFoundError: there is no such recipe.
        BadDataError: the data are not of the recipe's layout.
        BadUpdateError: `base` is of other sensors or lags.
        TrainingFailedError: the data are unusable or the error grows without end.
    """
    plan = recipes.find(recipe)
    run = run or plan.run
    with repeatable(run.seed):
        started = time.process_time()
        progress(0.0, "reading data")
        task = plan.open(run, base)
        best = Trainer(task, run).train(progress)
        draft = drafted(plan, task, run, frozen=best.frozen)
        training = {
            "steps": best.step,
            "steps_taken": best.taken,
            "cpu_seconds": round(time.process_time() - started, 2),
        }
        model = settled(plan, draft)
        more = {"baselines": task.baselines(), "training": training, **task.report(model)}
        return finished(plan, model, more)


def evaluate(model: TrainedModel, weights: Weights, width: float = 1.0) -> dict[str, float]:
    """Figures of other full-width weights in a model, with the model's own constants.

    Raises:
        BadUpdateError: the weights are not those of this model: names, shapes, finite numbers.
        NotFoundError: the width was not trained.
    """
    _check_weights(model, weights)
    other = TrainedModel(model.info, {**weights}, model.constants, model.samples, model.assets)
    with repeatable(model.info.seed):
        return figures(recipes.find(model.info.recipe), other, width)


def with_weights(model: TrainedModel, weights: Weights) -> TrainedModel:
    """A child of a model: other weights, what depends on them chosen anew, a new report.

    Raises:
        BadUpdateError: the weights are not those of this model: names, shapes, finite numbers.
    """
    _check_weights(model, weights)
    plan = recipes.find(model.info.recipe)
    info = msgspec.structs.replace(model.info, parent=model.id, created=_now_ms())
    own = {name: np.array(array, np.float32) for name, array in weights.items()}
    with repeatable(model.info.seed):
        draft = TrainedModel(info, own, dict(model.constants), model.samples, model.assets)
        # What is not of its outputs (baselines, the monitor's figures) is the same for a child.
        return finished(plan, settled(plan, draft), model.metrics)


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """One thread and a generator of our own, and the caller's both back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _check_weights(model: TrainedModel, weights: Weights) -> None:
    if set(weights) != set(model.weights):
        odd = sorted(set(weights) ^ set(model.weights))
        raise BadUpdateError(f"weights of another model: {', '.join(odd)}")
    for name, array in weights.items():
        if array.shape != model.weights[name].shape:
            raise BadUpdateError(
                f"{name} must have shape {model.weights[name].shape}, got {array.shape}"
            )
        if not np.isfinite(array).all():
            raise BadUpdateError(f"{name} has numbers that are not finite")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
