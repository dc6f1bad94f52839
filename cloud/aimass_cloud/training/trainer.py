"""Sandwich training: each step lowers the error of all widths together, on one set of weights.

Yu and Huang, Universally slimmable networks (ICCV 2019). Steps are fixed, so the same seed gives
the same weights on the same machine, however busy it is. What is best is chosen on held-back rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import mse_loss

from aimass_cloud.models.forecaster import Forecaster, narrowed, nesting
from aimass_cloud.models.graph import SensorGraph
from aimass_cloud.training.batches import Batch
from aimass_shared.errors import TrainingFailedError

Progress = Callable[[float, str], None]
Edges = tuple[Tensor, Tensor]
Weights = dict[str, Tensor]


class Plan(msgspec.Struct, frozen=True):
    """How long and how fast to train.

    Attributes:
        steps: at most. batch: windows in a step. rate: the highest learning rate of Adam.
        warm_up: steps to reach it; then it falls on a cosine. decay: of the weights (AdamW).
        check: steps between two looks at the held-back error. patience: looks without gain.
    """

    steps: int = 200
    batch: int = 32
    rate: float = 1e-2
    warm_up: int = 30
    decay: float = 1e-3
    check: int = 50
    patience: int = 5


@dataclass(frozen=True, eq=False)
class Trained:
    """What training found best.

    Attributes:
        weights: of the forecaster, full width. graph: the frozen graph.
        steps: after which the weights were best. taken: steps in all. error: held-back, all widths.
    """

    weights: Weights
    graph: Weights
    steps: int
    taken: int
    error: float


class Trainer:
    """One training: a forecaster, its graph, and the best of both so far."""

    def __init__(
        self, forecaster: Forecaster, graph: SensorGraph, *, widths: Sequence[float], plan: Plan
    ) -> None:
        """Take modules that were just made; training changes them."""
        self._forecaster, self._graph = forecaster, graph
        self._widths, self._plan = tuple(widths), plan
        self._weights = dict(forecaster.named_parameters())
        self._nesting = nesting(tuple(self._weights))
        self._optimizer = torch.optim.AdamW(
            [*self._weights.values(), *graph.parameters()],
            lr=plan.rate,
            weight_decay=plan.decay,
        )

    def run(self, train: Batch, held_back: Batch, *, seed: int, progress: Progress) -> Trained:
        """Train until the plan ends or patience does.

        Raises:
            TrainingFailedError: the error is not a number any more.
        """
        plan, generator = self._plan, torch.Generator().manual_seed(seed)
        best = self._snapshot(0, held_back)
        for step in range(1, plan.steps + 1):
            self._step(step, train.take(_drawn(len(train), plan.batch, generator)))
            if step % plan.check == 0 or step == plan.steps:
                now = self._snapshot(step, held_back)
                best = self._better(best, now)
                progress(step / plan.steps, f"step {step}: held-back error {now.error:.4f}")
                if step - best.steps >= plan.patience * plan.check:
                    break
        return best

    def _step(self, step: int, batch: Batch) -> None:
        self._forecaster.train()
        for group in self._optimizer.param_groups:
            group["lr"] = _rate(self._plan, step)
        self._optimizer.zero_grad()
        torch.autograd.backward(self._error(batch))
        self._optimizer.step()

    def _error(self, batch: Batch) -> Tensor:
        """Mean squared error over all widths: the sandwich."""
        edges: Edges = self._graph()
        mask = torch.ones_like(batch.window)
        errors = []
        for width in self._widths:
            weights = narrowed(self._weights, self._nesting, width)
            inputs = (batch.window, mask, batch.linear, edges)
            added = functional_call(self._forecaster, weights, inputs)
            errors.append(mse_loss(batch.linear + added, batch.target))
        return torch.stack(errors).mean()

    @torch.no_grad()
    def _snapshot(self, step: int, held_back: Batch) -> Trained:
        self._forecaster.eval()
        return Trained(
            weights={name: weight.detach().clone() for name, weight in self._weights.items()},
            graph=self._graph.frozen(),
            steps=step,
            taken=step,
            error=float(self._error(held_back)),
        )

    @staticmethod
    def _better(best: Trained, now: Trained) -> Trained:
        if not math.isfinite(now.error):
            raise TrainingFailedError(
                f"the error is {now.error} after {now.taken} steps: lower the learning rate"
            )
        kept = now if now.error < best.error else best
        return Trained(kept.weights, kept.graph, kept.steps, now.taken, kept.error)


def _drawn(count: int, batch: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (batch,), generator=generator)


def _rate(plan: Plan, step: int) -> float:
    rising = min(1.0, step / plan.warm_up)
    return plan.rate * rising * (1 + math.cos(math.pi * step / plan.steps)) / 2
