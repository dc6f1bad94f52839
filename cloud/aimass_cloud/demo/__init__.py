"""The whole loop on one machine: coordinator, three agents, three plants, all real processes."""

from aimass_cloud.demo.run import DemoOptions, run

__all__ = ["DemoOptions", "run"]
