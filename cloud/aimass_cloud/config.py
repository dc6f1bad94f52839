"""Every setting of the coordinator, with its default and its unit.

Read with `aimass_shared.settings.load(CloudSettings, prefix="AIMASS_")`: defaults, then a TOML
file, then the environment (`AIMASS_HTTP__PORT=8081`), then command-line options.
"""

from typing import Annotated, Literal

import msgspec

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared with, not bound to
"""Listening on every address, and how such a listener is reached from its own machine."""
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the API listens. TLS is on for every address that is not loopback ("auto").

    Attributes:
        names: names and addresses by which devices reach this machine, for the certificates of the
            API and of our own broker; loopback, the machine's own name and `host` are always in.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    names: tuple[str, ...] = ()
    tls: Literal["auto", "on", "off"] = "auto"
    max_body_bytes: Positive = 8 << 20
    max_blob_bytes: Positive = 512 << 20


class MqttSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fleet's broker. Without `url` the coordinator runs one of its own beside itself.

    Attributes:
        url: `mqtt://host:port` or `mqtts://host:port` of a broker that is already there.
        host: where our own broker listens; "" = where the API does.
        port: of our own broker; 0 takes a free one and keeps it in the data directory.
        broker: which own broker: mosquitto where installed, else the pure-Python one ("auto").
    """

    url: str = ""
    host: str = ""
    port: Port = 0
    broker: Literal["auto", "mosquitto", "embedded"] = "auto"


class TrustSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long identities and signatures live."""

    device_certificate_days: Positive = 30
    join_token_minutes: Positive = 15
    root_days: Positive = 365
    targets_days: Positive = 90
    snapshot_days: Positive = 7
    timestamp_hours: Positive = 24


class ServingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Model as a service: the queue and the batches of the full model.

    Attributes:
        tails: of cut slices, that are kept in memory.
    """

    max_batch: Positive = 64
    queue_limit: Positive = 2048
    default_deadline_ms: Positive = 1000
    threads: Positive = 1
    tails: Positive = 4


class SlicingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user's own model may take when it is imported, in a process of its own."""

    deadline_s: Positive = 900
    memory_mib: Positive = 8192


class TrainingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training in the coordinator.

    Attributes:
        data_roots: folders and `s3://` addresses below which a job may read data; without any,
            `data` in `data_dir` and the working directory.
    """

    data_roots: tuple[str, ...] = ()


class CloudSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of the coordinator. `database_url` defaults to SQLite in `data_dir`."""

    data_dir: str = ".aimass"
    database_url: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    http: HttpSettings = HttpSettings()
    mqtt: MqttSettings = MqttSettings()
    trust: TrustSettings = TrustSettings()
    serving: ServingSettings = ServingSettings()
    slicing: SlicingSettings = SlicingSettings()
    training: TrainingSettings = TrainingSettings()
