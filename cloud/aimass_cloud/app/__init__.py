"""The coordinator as one process: its parts, its routes, its server."""

from aimass_cloud.app.server import serve

__all__ = ["serve"]
