"""What a connection to a broker is made of, as plain data; nothing here connects."""

from typing import Literal, NamedTuple

import msgspec


class Will(NamedTuple):
    """What the broker publishes when this connection dies."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Inbound(NamedTuple):
    """A received message."""

    topic: str
    payload: bytes
    retain: bool


class TlsFiles(msgspec.Struct, frozen=True):
    """Paths of PEM files: the CA that is trusted, and our certificate with its key."""

    ca: str
    certificate: str
    key: str


class BusOptions(msgspec.Struct, frozen=True):
    """Where and how to connect.

    Attributes:
        version: MQTT 5, or 4 (3.1.1). tls: None = plain TCP.
        session_expiry_s: how long the broker keeps our session while we are away; 0 = clean start
            (on 3.1.1 any other value means "until we come back").
        queue_limit: received messages that wait for `messages()`, and QoS 0 messages that wait for
            the network.
        max_payload_bytes: larger messages are neither sent nor handed over.
    """

    host: str
    port: int
    client_id: str
    version: Literal[4, 5] = 5
    tls: TlsFiles | None = None
    username: str = ""
    password: str = ""
    keepalive_s: int = 30
    session_expiry_s: int = 0
    queue_limit: int = 10_000
    max_payload_bytes: int = 1 << 20
