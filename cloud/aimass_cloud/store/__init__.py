"""The database: tables, engine, migrations, and content-addressed files."""

from aimass_cloud.store.blobs import Blobs
from aimass_cloud.store.engine import Store

__all__ = ["Blobs", "Store"]
