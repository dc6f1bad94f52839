"""A model that goes on learning: new shards and updates of sites come in, better candidates go out.

Nothing is restarted: weights, optimizer and what was seen stay while the inbox fills.
"""

from aimass_cloud.training.incremental.inbox import Delta, Inbox
from aimass_cloud.training.incremental.learner import Learner, Published, follow
from aimass_cloud.training.incremental.policy import Policy

__all__ = ["Delta", "Inbox", "Learner", "Policy", "Published", "follow"]
