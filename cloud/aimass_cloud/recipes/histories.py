"""Histories of users as training takes them: left out last items, batches of like lengths."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aimass_cloud.datasets.interactions import Interactions
from aimass_cloud.models.network import Batch
from aimass_shared.errors import DataError

Ids = NDArray[np.int64]

LEAST_USERS = 20
EVALUATED = 3
"""Items that a user needs to be judged on the last one."""
POWER = 0.5
"""Of the frequency of an item, in how often it is drawn as a negative."""


@dataclass(frozen=True, eq=False)
class Asked:
    """Histories `[n, length]`, newest last, 0 = padding, and the item that came next `[n]`."""

    history: Ids
    item: Ids

    def __len__(self) -> int:
        """How many there are."""
        return len(self.item)

    def some(self, most: int, seed: int) -> "Asked":
        """At most so many, drawn."""
        chosen = np.random.default_rng((seed, most)).permutation(len(self))[:most]
        return Asked(self.history[np.sort(chosen)], self.item[np.sort(chosen)])


@dataclass(frozen=True, eq=False)
class Split:
    """Leave-last-out: the last item of each user is the test, the one before is held back."""

    train: tuple[Ids, ...]
    held_back: Asked
    test: Asked

    def frequency(self, size: int) -> NDArray[np.float64]:
        """How many users took each item, of what is trained on."""
        return np.bincount(np.concatenate(self.train), minlength=size).astype(np.float64)


def split(data: Interactions, length: int) -> Split:
    """The split of users with three items or more; the others are trained on only.

    Raises:
        DataError: there are too few users to judge anything.
    """
    judged = [history for history in data.histories if len(history) >= EVALUATED]
    others = [history for history in data.histories if len(history) < EVALUATED]
    if len(judged) < LEAST_USERS:
        raise DataError(
            f"{len(judged)} users have {EVALUATED} items or more; at least {LEAST_USERS} are needed"
        )
    held_back, test = (
        Asked(
            padded([history[:end] for history in judged], length),
            np.array([history[end] for history in judged]),
        )
        for end in (-2, -1)
    )
    return Split((*(history[:-2] for history in judged), *others), held_back, test)


def padded(histories: Sequence[Ids], length: int) -> Ids:
    """The newest items of each history `[n, length]`, padded on the left with 0."""
    rows = np.zeros((len(histories), length), np.int64)
    for row, history in zip(rows, histories, strict=True):
        newest = history[-length:]
        row[length - len(newest) :] = newest
    return rows


class Epochs:
    """Histories of like lengths in batches, each once an epoch; a source is made with `drawing`.

    A batch of long histories has fewer of them, so that all steps have as many places. Which
    places of the order by length make a batch is fixed; who is there is drawn for each epoch.
    (Drawn with replacement, the ranker of the video games ends 4 % lower.)
    """

    def __init__(
        self, histories: Sequence[Ids], frequency: NDArray[np.float64], *, length: int, seed: int
    ) -> None:
        """Take what is trained on; those of one item teach nothing."""
        taught = sorted((history[-length - 1 :] for history in histories), key=len)
        self._histories = [history for history in taught if len(history) > 1]
        if not self._histories:
            raise DataError("no user has two items to learn from")
        self._lengths = np.array([len(history) for history in self._histories])
        weight = frequency**POWER
        self._share = np.cumsum(weight) / weight.sum()
        self._log_share = np.log(np.maximum(weight / weight.sum(), 1e-12)).astype(np.float32)
        self.seed = seed

    def drawing(self, *, batch: int, negatives: int, rank: int = 0, world: int = 1) -> "Drawing":
        """Batches of about so many histories, of which `rank` gets its share."""
        places = max(1.0, batch * float((self._lengths - 1).mean()))
        number = (np.cumsum(self._lengths - 1) - 1) // places
        starts = np.flatnonzero(np.diff(number, prepend=-1))
        return Drawing(self, starts, negatives, rank=rank, world=world)

    def order(self, epoch: int) -> Ids:
        """Numbers of the histories by length; those of one length in a drawn order."""
        random = np.random.default_rng((self.seed, epoch))
        return np.lexsort((random.random(len(self._lengths)), self._lengths))

    def batch(self, number: int, mine: Ids, drawing: "Drawing") -> Batch:
        """The batch of a number, of these histories."""
        random = np.random.default_rng((self.seed, number, drawing.rank))
        drawn = np.searchsorted(self._share, random.random(drawing.negatives))
        negatives = np.minimum(drawn, len(self._share) - 1)
        log_q = self._log_share[negatives] + np.float32(np.log(drawing.negatives))
        histories = [self._histories[one] for one in mine]
        return {
            "sequence": torch.from_numpy(padded(histories, int(self._lengths[mine].max()))),
            "negatives": torch.from_numpy(negatives),
            "log_q": torch.from_numpy(log_q),
        }


@dataclass(frozen=True, eq=False)
class Drawing:
    """What one process draws: batches begin at `starts` of an epoch's order."""

    histories: Epochs
    starts: Ids
    negatives: int
    rank: int
    world: int

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches from number `start` on, without end."""
        count = len(self.starts)
        for epoch in itertools.count(start // count):
            order = np.split(self.histories.order(epoch), self.starts[1:])
            turns = np.random.default_rng((self.histories.seed, epoch, 1)).permutation(count)
            first = max(0, start - epoch * count)
            for place, turn in enumerate(turns[first:].tolist(), first):
                members = order[turn]
                mine = members[self.rank :: self.world] if len(members) >= self.world else members
                yield self.histories.batch(epoch * count + place, mine, self)
