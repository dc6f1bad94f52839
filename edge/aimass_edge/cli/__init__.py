"""The `aimass-edge` command: enrol a device, run the agent, check it, ask it."""

from aimass_edge.cli.main import main

__all__ = ["main"]
