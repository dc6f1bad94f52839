"""The `aimass` command: `serve` and `demo` run things, the others speak to a coordinator's API."""

from aimass_cloud.cli.main import main

__all__ = ["main"]
