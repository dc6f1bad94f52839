"""MQTT of the fleet <-> database and parts: `Bridge`."""

from aimass_cloud.bridge.connection import Bridge
from aimass_cloud.bridge.intake import Listeners

__all__ = ["Bridge", "Listeners"]
