"""Training in the cloud: one trainer for every recipe, honest figures, children of a model.

Needs the extra `train` (torch).
"""

from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.run import Optimizer, RunSettings, Schedule
from aimass_cloud.training.pipeline import evaluate, train, with_weights
from aimass_cloud.training.trainer import Progress

__all__ = [
    "Optimizer",
    "Progress",
    "RunSettings",
    "Schedule",
    "TrainedModel",
    "evaluate",
    "train",
    "with_weights",
]
