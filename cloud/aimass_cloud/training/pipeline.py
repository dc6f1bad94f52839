"""From a recipe and data to a trained model with its report, and from a model to its children.

Choices are made on held-back samples, figures come from the test samples. The threads of torch are
limited to one: on a busy machine two are slower, and one is repeatable.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from aimass_cloud import recipes
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.assembly import drafted, figures, finished, settled
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.recipes.task import Recipe, Task
from aimass_cloud.training.run_directory import RunDirectory
from aimass_cloud.training.trainer import Progress, Trained, Trainer
from aimass_cloud.training.world import World, joined
from aimass_shared.errors import BadUpdateError, InvalidSettingError
from aimass_shared.moments import Moments

Weights = Mapping[str, NDArray[np.float32]]


def quiet(_fraction: float, _message: str) -> None:
    """Progress that nobody watches."""


def train(  # noqa: PLR0913  by name, and each has a default
    recipe: str,
    run: RunSettings | None = None,
    *,
    base: Moments | None = None,
    progress: Progress = quiet,
    directory: Path | None = None,
    resume: bool = False,
) -> TrainedModel:
    """Train a recipe: all widths, then what is chosen on held-back samples, then a report.

    Under `torchrun` all of its processes train one model, and all get it.

    Args:
        recipe: its name.
        run: settings, the recipe's own if there are none.
        base: moments that sites shared; they are added to those of the data's own rows.
        progress: told the fraction done and what is going on, in one of the processes.
        directory: where the run is kept (see `run_directory`), if anywhere.
        resume: go on with the run that is in the directory.

    Raises:
        ConflictError: the directory holds a run, and another one or none is to be resumed.
        InvalidSettingError: the settings do not fit the device or the number of processes.
        NotFoundError: there is no such recipe.
        DataError: the data are not of the recipe's layout.
        BadUpdateError: `base` is of other sensors or lags.
        TrainingFailedError: the data are unusable or the error grows without end.
    """
    plan = recipes.find(recipe)
    run = run or plan.run
    place = None if directory is None else RunDirectory(directory)
    with repeatable(run.seed, run.threads), joined(run) as world:
        told = progress if world.leads else quiet
        training = _Training(plan, run, base, world, place, told)
        return training.alone() if place is None else training.kept(place, resume=resume)


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
def repeatable(seed: int, threads: int = 1) -> Iterator[None]:
    """Threads and a generator of our own, and the caller's both back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, eq=False)
class _Training:
    plan: Recipe
    run: RunSettings
    base: Moments | None
    world: World
    place: RunDirectory | None
    progress: Progress
    started: float = field(default_factory=time.process_time)

    def alone(self) -> TrainedModel:
        """Train in this process, and keep nothing on disk."""
        if self.world.size > 1:
            raise InvalidSettingError("a training of several processes needs a directory: --out")
        task, best = self._trained()
        return self._modelled(task, best)

    def kept(self, place: RunDirectory, *, resume: bool) -> TrainedModel:
        """Train with all processes, into a directory; one that is finished is read."""
        if self.world.leads:
            place.check(self.plan.name, self.run, resume=resume)
        if not self.world.told(place.finished):
            task, best = self._trained()
            if self.world.leads:
                place.finish(best.rows, self._modelled(task, best))
        self.world.wait()
        return TrainedModel.load(place.model)

    def _trained(self) -> tuple[Task, Trained]:
        self.progress(0.0, "reading data")
        task = self.plan.open(self.run, self.base)
        if self.place is not None and self.world.leads:
            self.place.begin(self.plan.name, self.run)
        trainer = Trainer(task, self.run, world=self.world, directory=self.place)
        return task, trainer.train(self.progress)

    def _modelled(self, task: Task, best: Trained) -> TrainedModel:
        """The model with what is chosen for its weights, and its report."""
        plan = self.plan
        model = settled(plan, drafted(plan, task, self.run, frozen=best.frozen))
        own = {"baselines": task.baselines(), "training": self._figures(best)}
        return finished(plan, model, {**own, **task.report(model)})

    def _figures(self, best: Trained) -> dict[str, Any]:
        return {
            "steps": best.step,
            "steps_taken": best.taken,
            "processes": self.world.size,
            "samples_per_second": best.rows[-1].samples_per_second,
            "cpu_seconds": round(time.process_time() - self.started, 2),
        }


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
