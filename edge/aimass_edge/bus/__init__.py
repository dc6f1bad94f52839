"""MQTT for the agent: `Bus`, the one place that touches paho."""

from aimass_edge.bus.connection import Bus, Callback
from aimass_edge.bus.options import BusOptions, Inbound, TlsFiles, Will

__all__ = ["Bus", "BusOptions", "Callback", "Inbound", "TlsFiles", "Will"]
