"""Configuration files for a mosquitto of our own; writes nothing and starts nothing.

The fleet's broker wants a client certificate, makes its common name the user *and* the client id
(otherwise any device with a certificate could take another's place), and gives every device its
own subtree. The plant's broker is plain and for loopback only.
"""

import os
import pwd
import shutil
from pathlib import Path

import msgspec

from aimass_shared.topics import ROOT

COORDINATOR = "coordinator"

ACL = f"""\
pattern write {ROOT}/%u/up/#
pattern read {ROOT}/%u/down/#

user {COORDINATOR}
topic readwrite {ROOT}/#
"""


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files of one end of a TLS connection: the CA that is trusted, our certificate and key."""

    ca: Path
    certificate: Path
    key: Path


def find() -> str | None:
    """Path of the mosquitto that is installed; Debian puts it where users do not look."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which("mosquitto", path=path)


def fleet_configuration(host: str, port: int, *, tls: TlsFiles, folder: Path) -> str:
    """`mosquitto.conf` of the fleet's broker; `folder` holds `acl` and the persistence file."""
    return f"""\
{_listener(host, port)}
allow_anonymous false
require_certificate true
use_identity_as_username true
use_username_as_clientid true
cafile {tls.ca}
certfile {tls.certificate}
keyfile {tls.key}
tls_version tlsv1.2
acl_file {folder / "acl"}
{_limits()}
persistence true
persistence_location {folder}/
autosave_interval 60
persistent_client_expiration 14d
"""


def plant_configuration(host: str, port: int) -> str:
    """`mosquitto.conf` of a broker without TLS, users or persistence."""
    return f"{_listener(host, port)}\nallow_anonymous true\n{_limits()}\npersistence false\n"


def _listener(host: str, port: int) -> str:
    # Without `user` a mosquitto that root starts changes its user: it could not read our keys, and
    # would forget that it is to end with us (see tether.py).
    name = pwd.getpwuid(os.geteuid()).pw_name
    return f"per_listener_settings false\nlistener {port} {host}\nuser {name}"


def _limits() -> str:
    # Nagle costs 40 ms on every QoS 1 round trip. The packet limit is ours of messages plus topic.
    return """\
set_tcp_nodelay true
max_inflight_messages 100
max_queued_messages 10000
max_packet_size 1114112
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages false"""
