"""Telemetry of a plant in, predictions out: `Ingest` over Sparkplug B, JSON rows or a UNS.

No code path here leads from a prediction to a command of a node or a device (design decision 10).
"""

from aimass_edge.ingest.counters import IngestCounters
from aimass_edge.ingest.intake import Ingest
from aimass_edge.ingest.source import source_address

__all__ = ["Ingest", "IngestCounters", "source_address"]
