"""Training in the cloud: a VAR from moments, the graph forecaster on it, honest figures of both.

Needs the extra `train` (torch).
"""

from aimass_cloud.models.forecaster import nesting
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.training.pipeline import (
    TrainSettings,
    evaluate_forecast,
    train,
    with_weights,
)
from aimass_cloud.training.trainer import Plan, Progress

__all__ = [
    "Plan",
    "Progress",
    "TrainSettings",
    "TrainedModel",
    "evaluate_forecast",
    "nesting",
    "train",
    "with_weights",
]
