"""How well scores and yes-or-no answers agree with what people said. Numpy only."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]
FLAT = 1e-12


def pearson(one: Numbers, other: Numbers) -> float:
    """Pearson's correlation; 0 where one of them does not vary."""
    left, right = (np.asarray(each, np.float64) - np.mean(each) for each in (one, other))
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norm if norm > FLAT else 0.0


def spearman(one: Numbers, other: Numbers) -> float:
    """Spearman's correlation: Pearson's of the ranks, equal values sharing theirs."""
    return pearson(_ranks(one), _ranks(other))


def unexplained(given: Numbers, wanted: Numbers) -> float:
    """Mean squared error as a share of the variance of what is wanted."""
    return float(np.mean((given - wanted) ** 2) / max(float(np.var(wanted)), FLAT))


def accuracy(given: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Share of the answers that are right."""
    return float((given == wanted).mean())


def f1(given: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Harmonic mean of precision and recall; 0 where there is nothing to find and nothing found."""
    return float(2 * (given & wanted).sum() / max(1, int(given.sum() + wanted.sum())))


def _ranks(values: Numbers) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)
