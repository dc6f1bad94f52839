"""The running agent: composes the parts in one task group, and nothing else."""

from aimass_edge.agent.agent import Agent, run

__all__ = ["Agent", "run"]
