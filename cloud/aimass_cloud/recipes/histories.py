"""Histories of users as training takes them: left out last items, batches of like lengths."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from aimass_cloud.datasets.interactions import Interactions
from aimass_cloud.models.network import Batch
from aimass_shared.errors import DataError

Ids = NDArray[np.int64]

GROUPS = 16
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


class Grouped:
    """Batches of histories of like lengths with drawn negatives; a source (see `recipes.task`).

    A batch of long histories has fewer of them, so that all steps have as many places.
    """

    def __init__(
        self, histories: Sequence[Ids], frequency: NDArray[np.float64], *, length: int, seed: int
    ) -> None:
        """Take what is trained on; those of one item teach nothing."""
        taught = sorted((history for history in histories if len(history) > 1), key=len)
        if not taught:
            raise DataError("no user has two items to learn from")
        ends = np.linspace(0, len(taught), min(GROUPS, len(taught)) + 1).astype(int)
        self._groups = [
            padded(taught[a:b], min(length + 1, len(taught[b - 1]))) for a, b in pairwise(ends)
        ]
        places = np.array([group.size for group in self._groups], float)
        self._odds = places / places.sum()
        self._mean = places.sum() / len(taught)
        weight = frequency**POWER
        self._share = np.cumsum(weight) / weight.sum()
        self._log_share = np.log(np.maximum(weight / weight.sum(), 1e-12)).astype(np.float32)
        self._seed = seed

    def drawing(self, *, batch: int, negatives: int, rank: int = 0, world: int = 1) -> "Drawing":
        """Batches of about so many histories, of which `rank` gets its share."""
        return Drawing(self, batch, negatives, rank, world)

    def batch(self, number: int, drawing: "Drawing") -> Batch:
        """Batch of a number."""
        random = np.random.default_rng((self._seed, number))
        group = self._groups[random.choice(len(self._groups), p=self._odds)]
        count = max(drawing.world, round(drawing.batch * self._mean / group.shape[1]))
        chosen = random.integers(len(group), size=count)[drawing.rank :: drawing.world]
        random = np.random.default_rng((self._seed, number, drawing.rank + 1))
        drawn = np.searchsorted(self._share, random.random(drawing.negatives))
        negatives = np.minimum(drawn, len(self._share) - 1)
        log_q = self._log_share[negatives] + np.float32(np.log(drawing.negatives))
        return {
            "sequence": torch.from_numpy(group[chosen]),
            "negatives": torch.from_numpy(negatives),
            "log_q": torch.from_numpy(log_q),
        }


@dataclass(frozen=True, eq=False)
class Drawing:
    """What one process draws from grouped histories."""

    groups: Grouped
    batch: int
    negatives: int
    rank: int
    world: int

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches from number `start` on, without end."""
        number = start
        while True:
            yield self.groups.batch(number, self)
            number += 1
