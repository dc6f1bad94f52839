"""The training loop of every recipe: fixed steps, looks at held-back samples, the best one kept.

Steps are fixed, so the same seed gives the same weights on the same machine, however busy it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.utils import clip_grad_norm_

from aimass_cloud.models.network import Batch, Frozen
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.recipes.task import Task
from aimass_cloud.training.objective import Objective
from aimass_shared.errors import TrainingFailedError

Progress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class Trained:
    """What training found best.

    Attributes:
        frozen: weights and constants. step: after which they were best. taken: steps in all.
        error: what the task watches.
    """

    frozen: Frozen
    step: int
    taken: int
    error: float


class Trainer:
    """One training of a task's network."""

    def __init__(self, task: Task, run: RunSettings) -> None:
        """Draw a network from torch's generator."""
        self._task, self._run = task, run
        self._objective = Objective(task.network(), widths=run.widths, kind=run.nesting)
        self._optimizer = torch.optim.AdamW(
            self._objective.parameters(),
            lr=run.optimizer.rate,
            weight_decay=run.optimizer.decay,
        )

    def train(self, progress: Progress) -> Trained:
        """Train until the plan ends or patience does.

        Raises:
            TrainingFailedError: the error is not a number any more.
        """
        run, best = self._run, self._look(0)
        batches = self._task.source(batch=run.batch).batches(0)
        for step in range(1, run.steps + 1):
            self._step(step, next(batches))
            if step % run.check == 0 or step == run.steps:
                now = self._look(step)
                best = _better(best, now)
                progress(step / run.steps, f"step {step}: held-back error {now.error:.4f}")
                if step - best.step >= run.patience * run.check:
                    break
        return best

    def _step(self, step: int, batch: Batch) -> None:
        self._objective.train()
        for group in self._optimizer.param_groups:
            group["lr"] = _rate(self._run, step)
        self._optimizer.zero_grad()
        torch.autograd.backward(self._objective(batch, step))
        if self._run.clip_norm:
            clip_grad_norm_(self._objective.parameters(), self._run.clip_norm)
        self._optimizer.step()

    @torch.no_grad()
    def _look(self, step: int) -> Trained:
        self._objective.eval()
        network = self._objective.network
        error = self._task.watch(network, self._run.widths, self._objective.predict)
        return Trained(network.frozen(), step, step, error)


def _better(best: Trained, now: Trained) -> Trained:
    if not math.isfinite(now.error):
        raise TrainingFailedError(
            f"the error is {now.error} after {now.taken} steps: lower the learning rate"
        )
    kept = now if now.error < best.error else best
    return Trained(kept.frozen, kept.step, now.taken, kept.error)


def _rate(run: RunSettings, step: int) -> float:
    rising = min(1.0, step / max(1, run.schedule.warm_up))
    return run.optimizer.rate * rising * (1 + math.cos(math.pi * step / run.steps)) / 2
