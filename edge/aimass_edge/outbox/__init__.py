"""Store and forward: rows that reach the cloud although brokers, networks and processes die."""

from aimass_edge.outbox.cursor import Cursor, Want
from aimass_edge.outbox.delivery import Outbox, Publisher

__all__ = ["Cursor", "Outbox", "Publisher", "Want"]
