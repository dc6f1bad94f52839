"""What a device computes for a round: moments of its history, or steps of gradient descent.

Both block the thread they run in and call `Job.check` between steps, which raises once the round's
deadline has passed or the agent stops. Windows come from history only, never from the network.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_edge.config import BoardSettings
from aimass_edge.runtime import CPU, Session, open_session
from aimass_shared.errors import (
    BadUpdateError,
    ConflictError,
    ModelLoadFailedError,
    NoActiveModelError,
    TrainingFailedError,
)
from aimass_shared.manifest import Contract
from aimass_shared.messages import RoundTask
from aimass_shared.moments import Segment, moments

Floats = NDArray[np.float32]
Parameters = dict[str, Floats]

GRADIENT = "grad."
DATA_INPUTS = ("values", "mask", "weight")
MAX_WINDOWS = 4096


class ActiveSlice(msgspec.Struct, frozen=True):
    """The slice that runs on this device: its name, its `train.onnx` if any, its contract."""

    name: str
    train: Path | None
    contract: Contract


class Job(msgspec.Struct, frozen=True):
    """One round's work for a trainer.

    Attributes:
        task: the invitation. arrays: those that came with it.
        segments: history without gaps: values `[T, S]` in the sensors' units, mask `[T, S]`.
        check: raises DeadlineExceededError when it is time to stop.
    """

    task: RoundTask
    arrays: Mapping[str, NDArray[Any]]
    segments: Sequence[Segment]
    check: Callable[[], None]


class Trained(msgspec.Struct, frozen=True):
    """What goes back: arrays (moments, or changes of parameters), how much they stand for."""

    arrays: Mapping[str, NDArray[Any]]
    examples: int
    metrics: dict[str, float]


class Trainer(Protocol):
    """Turns a round's invitation and private history into an update."""

    def train(self, job: Job) -> Trained:
        """Compute the update, in the calling thread.

        Raises:
            AimassError: this device cannot; code and detail go back to the coordinator.
        """
        ...


class StatisticsTrainer:
    """Second moments of the whole history (see `aimass_shared.moments`)."""

    def train(self, job: Job) -> Trained:
        """Sum up all complete regression rows.

        Raises:
            TrainingFailedError: there is no complete row yet.
        """
        task = job.task
        found = moments(_checked(job), sensors=task.sensors, lags=task.lags)
        if found.n == 0:
            raise TrainingFailedError(
                f"the history has no {task.lags + 1} complete rows in a row yet: wait for telemetry"
            )
        return Trained(arrays=found.arrays(), examples=found.n, metrics={})


class GradientTrainer:
    """Adam on the gradients that the active slice's `train.onnx` computes.

    The graph's inputs are `values` and `mask` `[batch, window + horizon, S]`, `weight` `[batch]`
    (0 = padding) and one per parameter; its outputs are `loss` and `grad.<parameter>`. Parameters
    without a gradient are fed as they came.

    Args:
        active: the slice that runs now, or None. board: how its graph is opened, on its processor.
        max_windows: drawn from a longer history, so that an epoch has an end on a slow device.
    """

    def __init__(
        self,
        active: Callable[[], ActiveSlice | None],
        board: BoardSettings,
        *,
        max_windows: int = MAX_WINDOWS,
    ) -> None:
        self._active = active
        # A gradient step is no model to build an engine of: its outputs are sums over the batch.
        self._board = msgspec.structs.replace(board, providers=(CPU,))
        self._max_windows = max_windows

    def train(self, job: Job) -> Trained:
        """Train on windows of the history; the update is the change of each trained parameter.

        Raises:
            NoActiveModelError, ConflictError: no slice is active, or not the one that is trained,
                or one that devices do not train.
            BadUpdateError: the round lacks a parameter. BadTensorError: one has another shape.
            TrainingFailedError: there is too little history, or the loss is not finite.
        """
        active, graph = self._fitting_slice(job.task)
        session = open_session(graph, self._board)
        try:
            return self._descend(job, _Step(session, job.arrays), active.contract)
        finally:
            session.close()

    def _fitting_slice(self, task: RoundTask) -> tuple[ActiveSlice, Path]:
        """The active slice and its gradient step."""
        active = self._active()
        if active is None:
            raise NoActiveModelError("no slice is active here, so there is nothing to train")
        if task.slice != active.name:
            raise ConflictError(f"the round trains {task.slice}, {active.name} is active here")
        sensors = tuple(sensor.name for sensor in active.contract.sensors)
        if (task.sensors, task.step_ms) != (sensors, active.contract.step_ms):
            raise ConflictError("the round's sensors or step are not those of the active model")
        if active.train is None:
            raise ConflictError(
                f"{active.name} of {active.contract.model} was released without a gradient step: it"
                " is not trained on devices"
            )
        return active, active.train

    def _descend(self, job: Job, step: "_Step", contract: Contract) -> Trained:
        windows = Windows(job.segments, step.rows, contract.min_coverage)
        draw = np.random.default_rng(job.task.seed)
        chosen = draw.permutation(windows.count)[: self._max_windows]
        if not chosen.size:
            raise TrainingFailedError(f"the history has no {step.rows} rows in a row yet")
        adam = Adam(job.task.learning_rate)
        losses: list[float] = []
        for _ in range(job.task.epochs):
            total = 0.0
            for batch in windows.batches(draw.permutation(chosen), step.batch):
                job.check()
                loss, gradients = step.run(batch)
                adam.step(step.parameters, gradients)
                total += loss * float(batch["weight"].sum())
            losses.append(total / chosen.size)
        metrics = {"loss": losses[-1], "first_loss": losses[0]}
        return Trained(arrays=step.changes(), examples=int(chosen.size), metrics=metrics)


class Adam:
    """Adam in numpy, with its state in float32 (Kingma and Ba, https://arxiv.org/abs/1412.6980)."""

    def __init__(self, learning_rate: float, *, decay: tuple[float, float] = (0.9, 0.999)) -> None:
        self._learning_rate = learning_rate
        self._decay = decay
        self._steps = 0
        self._moments: dict[str, tuple[Floats, Floats]] = {}

    def step(self, parameters: Parameters, gradients: Parameters) -> None:
        """Move `parameters` in place against their gradients."""
        self._steps += 1
        first, second = self._decay
        rate = self._learning_rate * np.sqrt(1 - second**self._steps) / (1 - first**self._steps)
        for name, gradient in gradients.items():
            mean, square = self._moments.setdefault(
                name, (np.zeros_like(gradient), np.zeros_like(gradient))
            )
            mean += (1 - first) * (gradient - mean)
            square += (1 - second) * (gradient * gradient - square)
            # epsilon scaled as in PyTorch, so that both take the same steps
            epsilon = 1e-8 * np.sqrt(1 - second**self._steps)
            parameters[name] -= (rate * mean / (np.sqrt(square) + epsilon)).astype(np.float32)


class Windows:
    """Windows of `rows` rows, at every row of history where enough values were measured."""

    def __init__(self, segments: Sequence[Segment], rows: int, min_coverage: float) -> None:
        self._segments = segments
        self._rows = rows
        places = [_starts(mask, rows, min_coverage) for _, mask in segments]
        self._segment = np.repeat(np.arange(len(places)), [len(place) for place in places])
        self._start = np.concatenate([np.empty(0, np.int64), *places])

    @property
    def count(self) -> int:
        """How many windows there are."""
        return len(self._start)

    def batches(self, order: NDArray[np.int64], size: int) -> Iterator[Parameters]:
        """Feeds of `size` windows each, in the order of their numbers; the last one is padded."""
        for first in range(0, len(order), size):
            yield self._batch(order[first : first + size], size)

    def _batch(self, numbers: NDArray[np.int64], size: int) -> Parameters:
        values = np.zeros((size, self._rows, self._segments[0][0].shape[1]), np.float32)
        mask, weight = np.zeros_like(values), np.zeros(size, np.float32)
        for place, number in enumerate(numbers):
            start = self._start[number]
            whole, known = self._segments[self._segment[number]]
            values[place] = whole[start : start + self._rows]
            mask[place] = known[start : start + self._rows]
        weight[: len(numbers)] = 1.0
        # Missing values may be NaN, which a mask cannot multiply away.
        return {"values": np.where(mask > 0, values, 0.0), "mask": mask, "weight": weight}


class _Step:
    """One `train.onnx` with the parameters that it moves."""

    def __init__(self, session: Session, arrays: Mapping[str, NDArray[Any]]) -> None:
        shapes = {spec.name: spec.shape for spec in session.inputs}
        outputs = {spec.name for spec in session.outputs}
        if not (shapes.keys() >= set(DATA_INPUTS) and "loss" in outputs):
            raise ModelLoadFailedError("the slice's train file is not a gradient step")
        wanted = [name for name in shapes if name not in DATA_INPUTS]
        if missing := [name for name in wanted if name not in arrays]:
            raise BadUpdateError(f"the round lacks the parameters {missing[:3]}")
        self.batch, self.rows, _ = shapes["values"]
        self.parameters = {name: np.array(arrays[name], np.float32) for name in wanted}
        self._trained = [name for name in wanted if GRADIENT + name in outputs]
        self._before = {name: self.parameters[name].copy() for name in self._trained}
        self._session = session

    def run(self, batch: Parameters) -> tuple[float, Parameters]:
        """The loss of a batch, and the gradient of each trained parameter."""
        results = self._session.run({**batch, **self.parameters})
        loss = float(results["loss"])
        if not np.isfinite(loss):
            raise TrainingFailedError("the loss is not finite: lower the round's learning rate")
        return loss, {name: results[GRADIENT + name] for name in self._trained}

    def changes(self) -> Parameters:
        """How far each trained parameter has moved."""
        return {name: self.parameters[name] - self._before[name] for name in self._trained}


def _starts(mask: Floats, rows: int, min_coverage: float) -> NDArray[np.int64]:
    """Rows of one segment where a window may start."""
    if len(mask) < rows:
        return np.empty(0, np.int64)
    sums = np.concatenate([[0.0], np.cumsum((mask > 0).mean(axis=1))])
    coverage = (sums[rows:] - sums[:-rows]) / rows
    return np.flatnonzero(coverage >= min_coverage - 1e-9)


def _checked(job: Job) -> Iterator[Segment]:
    for segment in job.segments:
        job.check()
        yield segment
