"""The fleet: the certificate authority, enrolment, and the devices' rows."""

from aimass_cloud.fleet.api import EnrollController, FleetController, get_ca
from aimass_cloud.fleet.ca import (
    COORDINATOR,
    Authority,
    TlsPaths,
    local_hosts,
    open_authority,
    write_service_files,
)
from aimass_cloud.fleet.service import Device, Fleet

__all__ = [
    "COORDINATOR",
    "Authority",
    "Device",
    "EnrollController",
    "Fleet",
    "FleetController",
    "TlsPaths",
    "get_ca",
    "local_hosts",
    "open_authority",
    "write_service_files",
]
