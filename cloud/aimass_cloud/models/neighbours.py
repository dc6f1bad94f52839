"""Which items go with which, in closed form: counts of pairs in histories, as neighbours of items.

Item-based neighbourhoods: Sarwar et al. (WWW 2001), with shrinkage (Bell and Koren, ICDM 2007) and
counts that fade with the distance of the two items in a history. Numpy only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class Affinity(NamedTuple):
    """How counts become the weight of a neighbour: `count / (f_i^power f_j^(1 - power) + shrink)`.

    Attributes:
        fade: what a pair counts for one more step between its items; 1 = distance does not matter.
        back: what a pair counts for the earlier item, seen from the later one.
        shrink: what is added to the norm, so that a few counts weigh little.
        power: of the frequency of the item in the history; the rest is of the neighbour's.
        recency: what an item of a history counts for one step further back.
    """

    fade: float = 0.8
    back: float = 0.5
    shrink: float = 20.0
    power: float = 0.6
    recency: float = 0.7


@dataclass(frozen=True, eq=False)
class Pairs:
    """Directed pairs of items: `later` came after `earlier`, each pair once.

    Attributes:
        counts: of all histories, as they fade. users: histories that have the pair.
        frequency: histories that have an item, by its number.
    """

    earlier: Ids
    later: Ids
    counts: NDArray[np.float64]
    users: NDArray[np.float64]
    frequency: NDArray[np.float64]

    def both_ways(self, back: float) -> "Pairs":
        """Pairs with what they count from the other side; each pair of items once."""
        if not back:
            return self
        earlier = np.concatenate([self.earlier, self.later])
        later = np.concatenate([self.later, self.earlier])
        counts = np.concatenate([self.counts, back * self.counts])
        users = np.concatenate([self.users, self.users])
        return _summed(earlier, later, (counts, users), frequency=self.frequency)

    @property
    def reversed(self) -> "Pairs":
        """The other way round."""
        return Pairs(self.later, self.earlier, self.counts, self.users, self.frequency)

    def of_users(self, least: int) -> "Pairs":
        """Those of at least so many histories."""
        kept = self.users >= least
        earlier, later = self.earlier[kept], self.later[kept]
        return Pairs(earlier, later, self.counts[kept], self.users[kept], self.frequency)


def count_pairs(histories: Sequence[Ids], size: int, *, fade: float, reach: int = 50) -> Pairs:
    """Pairs of histories; long histories count less (`1 / log(2 + length)`).

    Args:
        histories: numbers from 1 on, oldest first.
        size: how many numbers there are, 0 included.
        fade: see `Affinity`.
        reach: most steps between the items of a pair.
    """
    lengths = np.array([len(history) for history in histories])
    owners = np.repeat(np.arange(len(histories)), lengths)
    items = np.concatenate([*histories, np.empty(0, np.int64)])
    share = 1 / np.log(2.0 + lengths)
    parts = [
        (items[:-step][same], items[step:][same], share[owners[step:][same]] * fade ** (step - 1))
        for step, same in _steps(owners, reach)
    ]
    earlier, later, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    frequency = np.bincount(items, minlength=size).astype(np.float64)
    return _summed(earlier, later, (counts, np.ones_like(counts)), frequency=frequency)


def _steps(owners: Ids, reach: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """For each distance, which places are of the same history as the one so much later."""
    yield 1, owners[1:] == owners[:-1]
    for step in range(2, reach + 1):
        same = owners[step:] == owners[:-step]
        if not same.any():
            return
        yield step, same


def _summed(
    earlier: Ids,
    later: Ids,
    counted: tuple[NDArray[np.float64], NDArray[np.float64]],
    *,
    frequency: NDArray[np.float64],
) -> Pairs:
    size = len(frequency)
    keys = earlier * size + later
    order = np.argsort(keys, kind="stable")
    keys, first = np.unique(keys[order], return_index=True)
    counts, users = (
        np.add.reduceat(column[order], first) if len(first) else column for column in counted
    )
    return Pairs(keys // size, keys % size, counts, users, frequency)


class Neighbours(NamedTuple):
    """The nearest items of each item, `[size, most]`; number 0 with weight 0 where there are fewer.

    Item 0 (padding) has none.
    """

    ids: Ids
    weights: Floats


def nearest(pairs: Pairs, most: int, *, shrink: float, power: float) -> Neighbours:
    """The neighbours of each item with the largest weights.

    Args:
        pairs: from an item to its neighbours.
        most: neighbours of an item.
        shrink: see `Affinity`.
        power: see `Affinity`.
    """
    frequency = pairs.frequency
    norm = frequency[pairs.earlier] ** power * frequency[pairs.later] ** (1 - power)
    weights = pairs.counts / (norm + shrink)
    # One key instead of two: the item, and within it the weight, largest first.
    order = np.argsort(pairs.earlier - weights / (2 * weights.max(initial=1e-12)), kind="stable")
    item = pairs.earlier[order]
    first = np.searchsorted(item, np.arange(len(frequency)))
    place = np.arange(len(item)) - first[item]
    kept = place < most
    ids = np.zeros((len(frequency), most), np.int64)
    values = np.zeros((len(frequency), most), np.float32)
    ids[item[kept], place[kept]] = pairs.later[order][kept]
    values[item[kept], place[kept]] = weights[order][kept]
    return Neighbours(ids, values)


def averaging(neighbours: Neighbours) -> Neighbours:
    """Weights of each item in sum 1, where it has neighbours."""
    total = neighbours.weights.sum(axis=1, keepdims=True)
    return Neighbours(neighbours.ids, neighbours.weights / np.maximum(total, 1e-12))


def scores(neighbours: Neighbours, histories: Ids, recency: float) -> Floats:
    """Weights of all items `[n, size]` for histories `[n, length]`, newest last, 0 = padding."""
    size, length = len(neighbours.ids), histories.shape[1]
    fading = recency ** np.arange(length - 1, -1, -1, dtype=np.float32)
    rows = np.arange(len(histories))[:, None, None] * size
    places = rows + neighbours.ids[histories]
    weights = neighbours.weights[histories] * fading[None, :, None].astype(np.float32)
    found = np.bincount(places.ravel(), weights.ravel(), minlength=len(histories) * size)
    result = found.reshape(len(histories), size).astype(np.float32)
    result[:, 0] = 0.0
    return result
