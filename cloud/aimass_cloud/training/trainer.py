"""The training loop of every recipe: fixed steps, looks at held-back samples, the best one kept.

Steps are fixed, so the same seed gives the same weights on the same machine, however busy it is;
and a training that is taken up at a checkpoint goes on as if it had never stopped.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from aimass_cloud.models.network import Frozen
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.recipes.task import Task
from aimass_cloud.training.history import Meter, Row, peak_memory
from aimass_cloud.training.looking import Best, Looker
from aimass_cloud.training.optimizing import rate_at
from aimass_cloud.training.run_directory import RunDirectory
from aimass_cloud.training.stepping import Stepper
from aimass_cloud.training.world import World
from aimass_shared.errors import TrainingFailedError

Progress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class Trained:
    """What training found best.

    Attributes:
        frozen: weights and constants; only the process that leads has them.
        step: after which they were best. taken: steps in all.
        error: what the task watches. rows: of all looks.
    """

    frozen: Frozen
    step: int
    taken: int
    error: float
    rows: tuple[Row, ...]


class Trainer:
    """One training of a task's network, by all processes together."""

    def __init__(
        self,
        task: Task,
        run: RunSettings,
        *,
        world: World | None = None,
        directory: RunDirectory | None = None,
    ) -> None:
        """Draw a network from torch's generator.

        Args:
            task: what to train.
            run: how.
            world: all processes; this one alone if not given.
            directory: where checkpoints and metrics go, if anywhere.

        Raises:
            InvalidSettingError: the network has no such loss.
        """
        self._task, self._run, self._directory = task, run, directory
        self._world = world or World()
        network = task.network()
        network.choose_loss(run.loss)
        self._looker = Looker(task, network, self._world.device) if self._world.leads else None
        self._stepper = Stepper(network, run, self._world)
        self._meter = Meter(self._world, run.batch)
        self._best = Best(float("inf"), 0, {})
        self._step = 0
        self._rows: tuple[Row, ...] = ()

    def train(self, progress: Progress) -> Trained:
        """Train until the plan ends or patience does, from the last checkpoint where there is one.

        Raises:
            TrainingFailedError: the error is not a number any more.
            StateCorruptError: there are checkpoints, and all of them are damaged.
        """
        self._resume()
        if not self._rows:
            self._look(progress)
        world = self._world
        source = self._task.source(batch=self._run.batch, rank=world.rank, world=world.size)
        batches = source.batches(self._step)
        while not self._ended:
            self._step += 1
            self._meter.add(self._stepper.take(self._step, next(batches)))
            if self._due(self._run.check):
                self._look(progress)
            if self._due(self._run.checkpoint) or self._ended:
                self._keep()
        best, nothing = self._best, Frozen({}, {})
        frozen = self._looker.frozen(best) if self._looker else nothing
        return Trained(frozen, best.step, self._step, best.error, self._rows)

    @property
    def _ended(self) -> bool:
        patience = self._run.patience * self._run.check
        return self._step >= self._run.steps or self._step - self._best.step >= patience

    def _due(self, every: int) -> bool:
        return self._step % every == 0 or self._step == self._run.steps

    def _look(self, progress: Progress) -> None:
        """Look at the weights as they are; the process that leads looks for all."""
        step, run, world = self._step, self._run, self._world
        loss, pace = self._meter.taken()
        with self._meter.paused():
            weights, looker = self._stepper.shown(), self._looker
            error = world.told(looker.error(weights, run.widths) if looker else 0.0)
            _check(error, step)
            if error < self._best.error:
                self._best = Best(error, step, looker.weights() if looker else {})
        rate = rate_at(run, step)
        row = Row(step, loss, error, rate, pace, *peak_memory(world))
        self._rows += (row.with_graph(looker.graph_moved() if looker else None),)
        if world.leads:
            if self._directory:
                self._directory.record(self._rows)
            progress(step / run.steps, self._rows[-1].told(run.steps))

    def _keep(self) -> None:
        """Write a checkpoint."""
        if self._directory is None:
            return
        with self._meter.paused():
            state = self._stepper.state(self._best, self._rows, self._step)
            if self._world.leads:
                self._directory.checkpoints.save(state)
            self._world.wait()

    def _resume(self) -> None:
        """Go on from the last whole checkpoint, if there is one."""
        if self._directory is None:
            return
        checkpoints = self._directory.checkpoints
        step = int(self._world.told(checkpoints.newest() if self._world.leads else 0))
        if step:
            state = checkpoints.load(step)
            self._stepper.restore(state)
            self._step, self._best, self._rows = state.step, state.best, state.rows


def _check(error: float, step: int) -> None:
    if not math.isfinite(error):
        raise TrainingFailedError(
            f"the error is {error} after {step} steps: lower the learning rate"
        )
