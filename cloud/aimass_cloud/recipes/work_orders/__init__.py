"""Pairs of maintenance work orders: what ships for `text-match`.

Nobody scored these pairs: their score comes from MaintIE's annotations (Bikaun et al., LREC-COLING
2024), in which people typed every thing, activity and state of 1,076 short texts by a common
scheme. Two texts are related as far as their types agree, whatever words they use: "front revolving
light not working" and "front headlight blown" name the same state of the same kind of thing: 1.
"""

import gzip
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets.pairs import PairParts, Pairs

SEED: Final = 20
SHARES: Final = (0.7, 0.1, 0.2)
"""Of the texts, for training, held back and test: no text is in two parts."""
COUNTS: Final = (3_000, 400, 600)
BINS: Final = 5
SAME_BRANCH: Final = 0.5
"""How far two types agree that differ in their last step only."""

Floats = NDArray[np.float64]


class _Entity(msgspec.Struct, frozen=True):
    type: str


class _Order(msgspec.Struct, frozen=True):
    text: str
    entities: tuple[_Entity, ...]


@lru_cache(maxsize=1)
def load() -> PairParts:
    """The pairs, spread evenly over the scores from 0 to 1; always the same."""
    raw = gzip.decompress((resources.files(__package__) / "gold_release.json.gz").read_bytes())
    orders = [one for one in msgspec.json.decode(raw, type=list[_Order]) if one.entities]
    random = np.random.default_rng(SEED)
    shuffled = [orders[index] for index in random.permutation(len(orders))]
    ends = [round(share * len(orders)) for share in np.cumsum((0.0, *SHARES))]
    parts = [
        _paired(shuffled[first:stop], count, random)
        for first, stop, count in zip(ends, ends[1:], COUNTS, strict=False)
    ]
    return PairParts(*parts)


def agreement(orders: Sequence[Sequence[str]]) -> Floats:
    """How far the types of some texts agree, each with each, 0 to 1: `[texts, texts]`.

    Of each type of a text, how near the nearest one of the other text is; the mean over both.
    """
    names = sorted({name for order in orders for name in order})
    near = np.array([[_near(one, other) for other in names] for one in names])
    holds = np.array([[name in order for name in names] for order in orders], np.float64)
    best = np.array([near[held > 0].max(axis=0) for held in holds])
    found, count = holds @ best.T, holds.sum(axis=1)
    return np.asarray((found + found.T) / (count[:, None] + count[None, :]))


def _near(one: str, other: str) -> float:
    if one == other:
        return 1.0
    branch = one.rpartition("/")[0]
    return SAME_BRANCH if "/" in branch and branch == other.rpartition("/")[0] else 0.0


def _paired(orders: Sequence[_Order], count: int, random: np.random.Generator) -> Pairs:
    scores = agreement([[entity.type for entity in one.entities] for one in orders])
    first, second = np.triu_indices(len(orders), 1)
    score = scores[first, second]
    bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    chosen = np.concatenate(
        [
            random.choice(within, min(len(within), count // BINS), replace=False)
            for within in (np.flatnonzero(bins == number) for number in range(BINS))
        ]
    )
    chosen = random.permutation(chosen)
    a, b = ([orders[index].text for index in side[chosen]] for side in (first, second))
    return Pairs(a, b, np.round(score[chosen], 3))
