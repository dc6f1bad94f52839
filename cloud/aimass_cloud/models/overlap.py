"""What text matching is compared with: shared words, tf-idf, and a ridge over such measures.

Texts are numbers of words `[texts, length]`, as a vocabulary gives them. No torch in here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.models.word_tables import weights
from aimass_shared.vocabulary import PADDING

RIDGE: Final = 1.0

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Sides = tuple[Ids, Ids]


def jaccard(sides: Sides) -> Floats:
    """Words that both texts have, as a share of the words that any of them has."""
    return _each(_jaccard, sides)


@dataclass(frozen=True, eq=False)
class TfIdf:
    """Cosine of the counts of words, rare words counting more (`weight` `[V]`)."""

    weight: Floats

    @classmethod
    def fit(cls, sides: Sides, size: int) -> "TfIdf":
        """Take the weights of words from training texts."""
        return cls(weights(np.concatenate(sides), size).astype(np.float64))

    def score(self, sides: Sides) -> Floats:
        """The cosine of each pair."""
        return _each(self._cosine, sides)

    def _cosine(self, one: Ids, other: Ids) -> float:
        told = [dict(zip(*np.unique(ids, return_counts=True), strict=True)) for ids in (one, other)]
        weighted = [{k: n * self.weight[k] for k, n in counts.items()} for counts in told]
        shared = sum(weighted[0][word] * weighted[1].get(word, 0.0) for word in weighted[0])
        norms = [sum(value**2 for value in counts.values()) ** 0.5 for counts in weighted]
        return float(shared / max(norms[0] * norms[1], 1e-12))


@dataclass(frozen=True, eq=False)
class OverlapRidge:
    """A ridge regression over measures of overlap."""

    tf_idf: TfIdf
    mean: Floats
    scale: Floats
    coefficients: Floats
    intercept: float

    @classmethod
    def fit(cls, sides: Sides, score: Floats, size: int) -> "OverlapRidge":
        """Solve for training pairs."""
        tf_idf = TfIdf.fit(sides, size)
        measures = _measures(sides, tf_idf)
        mean, scale = measures.mean(axis=0), measures.std(axis=0).clip(1e-6)
        scaled = (measures - mean) / scale
        gram = scaled.T @ scaled + RIDGE * np.eye(scaled.shape[1])
        middle = float(score.mean())
        return cls(tf_idf, mean, scale, np.linalg.solve(gram, scaled.T @ (score - middle)), middle)

    def score(self, sides: Sides) -> Floats:
        """The score of each pair, in the units of the training scores."""
        scaled = (_measures(sides, self.tf_idf) - self.mean) / self.scale
        return np.asarray(scaled @ self.coefficients + self.intercept)


def _measures(sides: Sides, tf_idf: TfIdf) -> Floats:
    counts = np.stack([(ids != PADDING).sum(axis=1) for ids in sides]).astype(np.float64)
    told = [
        jaccard(sides),
        tf_idf.score(sides),
        _each(_pairs, sides),
        np.abs(counts[0] - counts[1]),
        counts.min(axis=0) / counts.max(axis=0).clip(1),
    ]
    columns = np.stack(told, axis=1)
    return np.concatenate([columns, columns**2], axis=1)


def _each(measure: Callable[[Ids, Ids], float], sides: Sides) -> Floats:
    rows: Sequence[float] = [
        measure(one[one != PADDING], other[other != PADDING])
        for one, other in zip(*sides, strict=True)
    ]
    return np.array(rows, np.float64)


def _jaccard(one: Ids, other: Ids) -> float:
    left, right = set(one.tolist()), set(other.tolist())
    return len(left & right) / max(1, len(left | right))


def _pairs(one: Ids, other: Ids) -> float:
    """Pairs of words in order that both texts have."""
    left, right = (
        set(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True)) for ids in (one, other)
    )
    return len(left & right) / max(1, len(left | right))
