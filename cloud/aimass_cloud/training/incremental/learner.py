"""The learner: one network that is trained without end, fed by an inbox, watched by a policy.

It continues a model that learns on telemetry by `Network.local_loss`, the same loss that devices
lower. Each arrival is applied once, whatever is killed when: what was applied is in the state that
is written before the file moves. Needs torch.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from aimass_cloud import recipes
from aimass_cloud.datasets import tables
from aimass_cloud.models.network import Network
from aimass_cloud.models.samples import Part
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.assembly import numbers, outputs_of
from aimass_cloud.training.incremental import windows
from aimass_cloud.training.incremental.inbox import DELTA, Delta, Inbox
from aimass_cloud.training.incremental.policy import Policy, Reason, due, is_better, share_of
from aimass_cloud.training.incremental.state import Ledger, State, load, save
from aimass_cloud.training.incremental.windows import Floats, Shelf
from aimass_cloud.training.local import LocalObjective
from aimass_cloud.training.pipeline import repeatable, with_weights
from aimass_shared.errors import AimassError, BadUpdateError, DataError, RequestError

INBOX = "inbox"
TINY = 1e-12

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Published:
    """A candidate that went out.

    Attributes:
        error: on held-back windows; `before` is that of the model it replaces, on the same.
    """

    model: TrainedModel
    reason: Reason
    error: float
    before: float


class Learner:
    """A model that goes on learning.

    Args:
        model: to start from; a state in the directory is taken up instead.
        directory: shards and updates of sites arrive in its `inbox/`; the state and the published
            models lie beside that.
        policy: how to go on.
        publish: told of each candidate that is better; after a kill perhaps twice.
        clock: seconds, for schedules.
    """

    def __init__(
        self,
        model: TrainedModel,
        directory: Path,
        *,
        policy: Policy,
        publish: Callable[[Published], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inbox, self._directory, self._policy = Inbox(directory / INBOX), directory, policy
        self._publish, self._clock = publish, clock
        self._model = model
        self._shelves: list[Shelf] = []
        self._published_s = clock()

    @property
    def model(self) -> TrainedModel:
        """The model that was published last."""
        return self._model

    def open(self) -> None:
        """Take up the state of an earlier run, if there is one, and read the shards it had.

        Raises:
            RequestError: the model's network does not learn on telemetry.
            StateCorruptError: the state is damaged.
        """
        self._inbox.open()
        state = load(self._directory)
        if state is not None:
            self._model = TrainedModel.load(self._directory / state.ledger.published[-1])
        network = recipes.find(self._model.info.recipe).module(
            self._model.info, self._model.constants
        )
        if not network.LEARNS_LOCALLY:
            raise RequestError(
                f"models of {self._model.info.recipe} do not learn on telemetry: train them anew"
            )
        self._begin(network, state)
        for path in self._inbox.taken():
            if path.name in self._ledger.shards:
                self._remember(path)
        if self._ledger.announced < len(self._ledger.published):
            self._tell(Published(self._model, "schedule", 0.0, 0.0))

    def _begin(self, network: Network, state: State | None) -> None:
        self._objective = LocalObjective(network, self._model)
        self._optimizer = torch.optim.Adam(self._objective.weights.values(), self._policy.rate)
        self._ledger = Ledger(published=(self._model.id,))
        if state is None:
            self._model.save(self._directory / self._model.id)
        else:
            self._ledger = state.ledger
            self._objective.put(state.weights)
            state.restore(self._optimizer, list(self._objective.weights))

    def close(self) -> None:
        """Keep what was learnt since the last arrival."""
        self._keep()

    def turn(self) -> bool:
        """Take what has arrived, learn some steps, publish what is due; whether anything was done.

        Raises:
            StorageError: the state cannot be written; nothing of this turn is lost.
        """
        arrivals = self._inbox.arrivals()
        for path in arrivals:
            self._arrived(path)
        with repeatable(self._model.info.seed):
            learnt = self._learn()
            reason = self._due()
            if reason is not None:
                self._offer(reason)
        return bool(arrivals) or learnt

    def _arrived(self, path: Path) -> None:
        if path.name in self._ledger.taken:  # killed between the state and the move
            self._inbox.take(path)
            return
        try:
            self._take(path)
        except AimassError as error:
            log.warning("refused %s: %s", path.name, error)
            self._inbox.refuse(path, str(error))
            return
        self._keep()
        self._inbox.take(path)
        log.info("took %s", path.name)

    def _take(self, path: Path) -> None:
        if path.name.endswith(DELTA):
            self._apply(Delta.read(path))
            self._ledger = self._ledger.after(path.name, shard=False)
            return
        self._remember(path)
        self._ledger = self._ledger.after(path.name, shard=True)

    def _apply(self, delta: Delta) -> None:
        """Add an update of sites, the less of it the more versions it is behind."""
        published = self._ledger.published
        if delta.base not in published:
            raise BadUpdateError(f"it was made from {delta.base!r}, which was not published here")
        staleness = len(published) - 1 - published.index(delta.base)
        share = share_of(self._policy, staleness)
        if not share:
            raise BadUpdateError(
                f"it is {staleness} published versions behind: at most"
                f" {self._policy.max_staleness} are taken"
            )
        self._objective.add(delta.weights, share)

    def _remember(self, path: Path) -> None:
        """Read a shard into memory; windows that look faulty are not learnt from."""
        contract, policy = self._model.info.contract, self._policy
        names = [sensor.name for sensor in contract.sensors]
        table = tables.read(str(path))
        if missing := [name for name in names if name not in table]:
            raise DataError(f"{path.name} lacks columns of the model: {', '.join(missing[:5])}")
        rows = tables.numbers(table, names, path.name)
        length = contract.window + contract.horizon
        shelf = windows.shelf_of(path.name, rows, length, held_back=policy.held_back)
        normal = shelf.starts[self._is_normal(shelf, length)]
        if len(normal) < (1 - policy.abnormal) * len(shelf.starts) or not len(normal):
            share = 1 - len(normal) / len(shelf.starts)
            raise DataError(
                f"{share:.0%} of its windows are over the model's alarm limit: if that is normal"
                " operation now, train the base anew"
            )
        shelf = Shelf(shelf.name, shelf.rows, normal, shelf.judged)
        self._shelves = windows.kept([*self._shelves, shelf], policy.max_rows)

    def _is_normal(self, shelf: Shelf, length: int) -> NDArray[np.bool_]:
        alarm, window = self._model.info.contract.alarm, self._model.info.contract.window
        if alarm is None:
            return np.ones(len(shelf.starts), np.bool_)
        values, mask = windows.cut(shelf, shelf.starts, length)
        part = Part({"values": values[:, :window], "mask": mask[:, :window]}, {})
        plan = recipes.find(self._model.info.recipe)
        score = outputs_of(plan, self._model, part, width=self._model.info.widths[0])[alarm.score]
        return np.asarray(score <= alarm.threshold)

    def _learn(self) -> bool:
        if not self._shelves:
            return False
        policy, contract = self._policy, self._model.info.contract
        length = contract.window + contract.horizon
        for step in range(self._ledger.steps, self._ledger.steps + policy.steps):
            random = np.random.default_rng((self._model.info.seed, step))
            values, mask = windows.drawn(
                self._shelves, random, batch=policy.batch, newest=policy.newest, length=length
            )
            self._optimizer.zero_grad()
            torch.autograd.backward(self._objective.loss(values, mask))
            self._optimizer.step()
        self._ledger = msgspec.structs.replace(
            self._ledger, steps=self._ledger.steps + policy.steps
        )
        return True

    def _due(self) -> Reason | None:
        ledger = self._ledger
        return due(
            self._policy,
            seconds=self._clock() - self._published_s,
            drift=self._drift(),
            has_learnt=ledger.steps > ledger.published_steps,
        )

    def _drift(self) -> float:
        """Error of the published model on the newest shard, as a multiple of that at first."""
        if not self._shelves:
            return 0.0
        now = self._error(self._model, self._shelves[-1:])
        first = self._ledger.first_error or now
        self._ledger = msgspec.structs.replace(self._ledger, first_error=first)
        return now / max(first, TINY)

    def _offer(self, reason: Reason) -> None:
        """Publish the weights of now, if they are better than what is published."""
        weights = numbers(self._objective.whole())
        candidate = with_weights(self._model, weights)
        error, before = (self._error(one, self._shelves) for one in (candidate, self._model))
        self._published_s = self._clock()
        steps = self._ledger.steps
        if not is_better(self._policy, candidate=error, published=before):
            log.info("candidate is no better (%.4f, published %.4f): kept back", error, before)
            self._ledger = msgspec.structs.replace(self._ledger, published_steps=steps)
            self._keep()
            return
        candidate.save(self._directory / candidate.id)
        self._model = candidate
        self._ledger = msgspec.structs.replace(
            self._ledger,
            published=(*self._ledger.published, candidate.id),
            published_steps=steps,
            first_error=0.0,
        )
        self._keep()
        self._tell(Published(candidate, reason, error, before))

    def _tell(self, published: Published) -> None:
        self._publish(published)
        told = len(self._ledger.published)
        self._ledger = msgspec.structs.replace(self._ledger, announced=told)
        self._keep()

    def _error(self, model: TrainedModel, shelves: list[Shelf]) -> float:
        """Error of a model on windows that nothing was learnt from, in the recipe's measure."""
        plan, contract = recipes.find(model.info.recipe), model.info.contract
        length = contract.window + contract.horizon
        cuts = [windows.cut(shelf, shelf.judged, length) for shelf in shelves]
        values, mask = (np.concatenate(each) for each in zip(*cuts, strict=True))
        part = Part(
            {"values": values[:, : contract.window], "mask": mask[:, : contract.window]}, {}
        )
        outputs = outputs_of(plan, model, part, width=model.info.widths[0])
        # What was not measured counts as forecast rightly, for every model alike.
        known = mask[:, contract.window :] > 0
        future = np.where(known, values[:, contract.window :], outputs["forecast"])
        truth: dict[str, Floats] = {"future": future, "scale": model.samples.test.truth["scale"]}
        return plan.error(outputs, truth)

    def _keep(self) -> None:
        save(self._directory, State.of(self._ledger, self._objective.whole(), self._optimizer))


def follow(learner: Learner, stop: Callable[[], bool], *, idle_s: float = 1.0) -> None:
    """Go on until told to stop; sleeps while there is nothing to learn from."""
    while not stop():
        if not learner.turn():
            time.sleep(idle_s)
