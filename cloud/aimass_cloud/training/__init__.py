"""Training in the cloud: a VAR from moments, the graph forecaster on it, honest figures of both."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.models.trained import TrainedModel
from aimass_shared.moments import Moments

__all__ = ["TrainedModel", "evaluate_forecast", "train", "with_weights"]

Progress = Callable[[float, str], None]


def train(
    recipe: str, *, seed: int = 0, base: Moments | None = None, progress: Progress
) -> TrainedModel:
    """Train a recipe."""
    raise NotImplementedError


def evaluate_forecast(
    model: TrainedModel, weights: Mapping[str, NDArray[np.float32]], width: float = 1.0
) -> float:
    """Mean squared error of other weights in a model, in squared standard deviations."""
    raise NotImplementedError


def with_weights(model: TrainedModel, weights: Mapping[str, NDArray[np.float32]]) -> TrainedModel:
    """A child of a model: the same constants, other weights, a new id and new metrics."""
    raise NotImplementedError
