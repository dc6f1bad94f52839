"""Which answers of a classifier are worth a second opinion: a learned gain, within a budget. Pure.

The gain is the chance that the cloud's label is another one, a ridge regression over how sure the
slice was, learned from the hand-offs themselves (recursive least squares; Haykin, Adaptive filter
theory, ch. 10). A fixed threshold drifts: one that was set for 30 % of the requests let 35 % go on
other data (measured). So the threshold follows the quantile that the budget asks for, in large
steps first (Angelopoulos et al., Online conformal prediction with decaying step sizes, ICML 2024):
after n requests the share that went is off by (1 + FIRST) / (RATE n) at most, whatever the data do.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FIRST, RATE = 0.5, 0.02
"""Step of the threshold at the first request and from the 25th on; gains are 0 to 1."""
FORGETS: Final = 0.999
PRIOR: Final = 20.0
"""Hand-offs that the first guess is worth."""
EXPLORES: Final = 0.1
"""Share of the budget for requests that look sure: else the gate would only see its own kind."""

SUMS: Final = 0.05
"""What probabilities in int8 may be off, all together."""

Floats = NDArray[np.floating[Any]]


class Gate:
    """One model's gate. Belongs to one event loop."""

    def __init__(self, share: float, seed: int = 0) -> None:
        """Let this share of the requests through, 0 to 1."""
        self._share = share
        self._threshold = 1.0 - share
        self._asked = 0
        # As good as any guess: what the slice is not sure of, the cloud changes.
        self._weights = np.array([0.0, 0.0, 0.0, 1.0])
        self._inverse = np.eye(len(self._weights)) / PRIOR
        self._random = np.random.default_rng(seed)

    def wants(self, probabilities: Floats) -> bool:
        """Whether a request should go to the cloud; each request is asked about once.

        Args:
            probabilities: `[samples, classes]` that the slice gave.
        """
        gain = float(np.clip(features(probabilities).mean(axis=0) @ self._weights, 0.0, 1.0))
        explores = self._random.random() < EXPLORES * self._share and self._threshold <= 1.0
        wanted = bool(gain > self._threshold or explores)
        self._asked += 1
        self._threshold += max(RATE, FIRST / self._asked) * (float(wanted) - self._share)
        return wanted

    def learn(self, probabilities: Floats, labels: NDArray[Any]) -> None:
        """Take in what the cloud said.

        Args:
            probabilities: `[samples, classes]` that the slice gave.
            labels: `[samples]`, numbers of the classes that the cloud took.
        """
        changed = probabilities.argmax(axis=1) != labels
        for row, target in zip(features(probabilities), changed, strict=True):
            seen = self._inverse @ row
            step = seen / (FORGETS + row @ seen)
            self._weights = self._weights + step * (float(target) - row @ self._weights)
            inverse = (self._inverse - np.outer(step, seen)) / FORGETS
            # In exact arithmetic it is symmetric; rounding must not add up over months.
            self._inverse = np.clip((inverse + inverse.T) / 2, -1e3, 1e3)


def features(probabilities: Floats) -> NDArray[np.float64]:
    """How unsure each sample is `[samples, 4]`: 1, and three measures of 0 (sure) to 1."""
    shares = _shares(np.nan_to_num(np.asarray(probabilities, np.float64)))
    top = np.sort(shares, axis=1)
    first, second = top[:, -1], top[:, -2] if shares.shape[1] > 1 else np.zeros(len(shares))
    logs = np.log(np.maximum(shares, 1e-12))
    entropy = -(shares * logs).sum(axis=1) / np.log(max(2, shares.shape[1]))
    ones = np.ones(len(shares))
    return np.stack([ones, 1.0 - first, np.clip(entropy, 0.0, 1.0), 1.0 - (first - second)], axis=1)


def _shares(given: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities; a user's own model may give numbers that are not, such as logits."""
    is_share = (given >= 0).all() and np.allclose(given.sum(axis=1), 1.0, atol=SUMS)
    if is_share:
        return np.minimum(given, 1.0)
    powers = np.exp(np.clip(given - given.max(axis=1, keepdims=True), -700.0, 0.0))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
