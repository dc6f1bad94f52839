"""How good lists of ten are, and the lists of popularity and of tuned item neighbourhoods."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.models.neighbours import (
    Affinity,
    Ids,
    Neighbours,
    Pairs,
    count_pairs,
    nearest,
    scores,
)
from aimass_cloud.recipes.histories import Asked

Floats = NDArray[np.float32]
Score = Callable[[Ids], Floats]

TOP = 10
CHUNK = 256


class Grid(NamedTuple):
    """Affinities that are tried: all kinds of counts, shrinkages and powers, then recencies."""

    counts: Sequence[tuple[float, float]]
    shrink: Sequence[float]
    power: Sequence[float]
    recency: Sequence[float]


# Item-kNN is symmetric: what was taken together, in any order and at any distance.
ITEM_KNN = Grid(((1.0, 1.0),), (5.0, 20.0, 50.0), (0.5, 0.6, 0.7), (0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
OURS = Grid(((1.0, 1.0), (0.8, 0.5)), (10.0, 20.0), (0.5, 0.6), (0.6, 0.7, 0.8))


class Chosen(NamedTuple):
    """What tuning found best."""

    affinity: Affinity
    neighbours: Neighbours
    ndcg: float


def figures(items: Ids, right: Ids) -> dict[str, float]:
    """Share of lists `[n, 10]` that hold the right item, and that share discounted by its place."""
    hits = items == right[:, None]
    discount = 1 / np.log2(np.arange(2, 2 + items.shape[1]))
    return {
        f"hr_at_{TOP}": float(hits.any(axis=1).mean()),
        f"ndcg_at_{TOP}": float((hits * discount).sum(axis=1).mean()),
    }


def top(score: Score, history: Ids) -> Ids:
    """The ten best items that are not in a history, for each `[n, length]`."""
    items = np.zeros((len(history), TOP), np.int64)
    for rows, newest in _chunks(history):
        items[rows] = _best(score(newest), newest)
    return items


def popularity(frequency: NDArray[np.float64]) -> Score:
    """The same scores for everybody: how many users took an item."""
    return lambda history: np.tile(frequency.astype(np.float32), (len(history), 1))


def neighbourhood(neighbours: Neighbours, recency: float) -> Score:
    """Scores by neighbours (see `models.neighbours`)."""
    return lambda history: scores(neighbours, history, recency)


def tuned(train: Sequence[Ids], size: int, held_back: Asked, *, grid: Grid, most: int) -> Chosen:
    """The neighbourhoods that rank held-back items best.

    Args:
        train: histories to count.
        size: how many numbers there are.
        held_back: what is ranked.
        grid: what is tried.
        most: neighbours of an item.
    """
    middle = grid.recency[len(grid.recency) // 2]
    tried = [
        _judged(nearest(pairs, most, shrink=shrink, power=power), affinity, held_back)
        for counts, pairs in _counted(train, size, grid.counts).items()
        for shrink in grid.shrink
        for power in grid.power
        for affinity in (Affinity(*counts, shrink, power, middle),)
    ]
    best = max(tried, key=lambda one: one.ndcg)
    others = [value for value in grid.recency if value != middle]
    again = [
        _judged(best.neighbours, best.affinity._replace(recency=value), held_back)
        for value in others
    ]
    return max((best, *again), key=lambda one: one.ndcg)


def _counted(
    train: Sequence[Ids], size: int, counts: Sequence[tuple[float, float]]
) -> Mapping[tuple[float, float], Pairs]:
    return {
        (fade, back): count_pairs(train, size, fade=fade).both_ways(back) for fade, back in counts
    }


def _judged(neighbours: Neighbours, affinity: Affinity, held_back: Asked) -> Chosen:
    found = top(neighbourhood(neighbours, affinity.recency), held_back.history)
    return Chosen(affinity, neighbours, figures(found, held_back.item)[f"ndcg_at_{TOP}"])


def _chunks(history: Ids) -> Iterator[tuple[Ids, Ids]]:
    """Rows of like lengths, without the padding that all of them have."""
    lengths = (history > 0).sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    for at in range(0, len(order), CHUNK):
        rows = order[at : at + CHUNK]
        yield rows, history[rows][:, history.shape[1] - max(1, int(lengths[rows].max())) :]


def _best(score: Floats, history: Ids) -> Ids:
    """Where scores are equal, the item with the smaller number comes first: the more frequent."""
    score[np.arange(len(score))[:, None], history] = -np.inf
    score[:, 0] = -np.inf
    most = min(4 * TOP, score.shape[1] - 1)
    some = np.sort(np.argpartition(-score, most, axis=1)[:, :most], axis=1)
    place = np.argsort(-np.take_along_axis(score, some, axis=1), axis=1, kind="stable")[:, :TOP]
    return np.asarray(np.take_along_axis(some, place, axis=1))
