"""Brokers of our own: `FleetBroker` for devices (mutual TLS), `PlantBroker` for a demo."""

from aimass_cloud.broker.mosquitto import COORDINATOR, TlsFiles
from aimass_cloud.broker.own import FleetBroker, PlantBroker

__all__ = ["COORDINATOR", "FleetBroker", "PlantBroker", "TlsFiles"]
