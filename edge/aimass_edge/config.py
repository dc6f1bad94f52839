"""Every setting of the agent, with its default and its unit.

Read with `aimass_shared.settings.load(EdgeSettings, prefix="AIMASS_EDGE_")`: defaults, then a
profile of firmware_configs/ and the site's TOML file, then the environment
(`AIMASS_EDGE_API__PORT=8091`), then command-line options.
"""

from pathlib import Path
from typing import Literal

import msgspec

from aimass_shared.slices import Precision

Policy = Literal["local-first", "cascade", "cloud-first", "never-leave-site"]
"""Who is asked first where a request goes; see `HandoffSettings`."""


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TensorRT engines, which are built on the device and kept.

    Attributes:
        folder: where they are kept; "" = `engines` in `data_dir`.
        kept: how many; the one that was not used for longest goes first.
        most_batch: windows that one run takes at most; more are run in parts.
        workspace_mib: memory that a layer may take for its intermediate values.
        deadline_s: time that building one may take (minutes on a Jetson).
    """

    folder: str = ""
    kept: int = 8
    most_batch: int = 64
    workspace_mib: int = 512
    deadline_s: float = 840.0


class BoardSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this device gives to models; see `aimass_shared.slices.Board`.

    Attributes:
        precisions: number formats that it runs well, best first; () = those that suit the provider
            that is really used (`aimass_edge.runtime.backends`).
        providers: what runs models, best first: `tensorrt` (TensorRT itself), or a provider of
            ONNX Runtime. The first that this device has is taken.
        simulate: pace the runtime by `cpu_time_factor`, so that a fast machine stands in for this
            board (demo and tests); a real board leaves it off.
    """

    name: str = "x86-gateway"
    memory_mib: float = 2048.0
    cpu_time_factor: float = 1.0
    window_budget_ms: float = 50.0
    precisions: tuple[Precision, ...] = ()
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = 1
    simulate: bool = False
    engines: EngineSettings = EngineSettings()


class HardwareSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The facts of a board, for people and planners; nothing here changes what the agent does.

    Attributes:
        modules: part numbers, or the device-tree `compatible` of a board that has none.
        memory_mib: what the operating system sees. int8_tops: of the accelerator, sparse; 0 = none.
        compute_capability: of the GPU, such as "8.7". dla_cores: deep-learning accelerators.
        software: supported images. python: what the image brings.
        power_modes: by name; the ids differ from board to board, so they are looked up on the
            device (`/etc/nvpmodel.conf`).
    """

    modules: tuple[str, ...] = ()
    cpu: str = ""
    cores: int = 0
    memory_mib: int = 0
    accelerator: str = ""
    compute_capability: str = ""
    int8_tops: float = 0.0
    dla_cores: int = 0
    software: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    power_modes: tuple[str, ...] = ()


class SourceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where telemetry comes from and predictions go to: the factory's broker.

    Attributes:
        kind: "sparkplug" (Sparkplug B 3.0), "json" (one object a row), "uns" (one tag a topic,
            `{"timestamp_ms", "value"}`), or "none".
        url: `mqtt://host:port`, `mqtts://host:port`; credentials in `username`, `password_file`.
        version: MQTT 5 or 4 (3.1.1).
        group, node, device: Sparkplug ids of the machine that is watched.
        topic: filter with one named wildcard per level, such as `plant/{line}/telemetry` (json) or
            `umh/v1/acme/site/{line}/_raw/{sensor}` (uns).
        time_field: JSON pointer of the time. time_unit: what it is in.
        publish_topic: where predictions go (json and uns).
        publish_node: Sparkplug edge node id under which this agent publishes ("" = `aimass-` and
            its device id).
        sensors: names of the channels that are recorded, as the model has them; the order is that
            of a row. step_ms: time between two rows.
        rename: sensor names as the plant has them -> as the model has them.
        lateness_ms: how long a row waits for late values. hold_ms: how long a value holds without
            a new one (0 = while its source is online). future_ms: how far ahead a clock may be.
    """

    kind: Literal["sparkplug", "json", "uns", "none"] = "none"
    url: str = "mqtt://127.0.0.1:1883"
    version: Literal[4, 5] = 5
    username: str = ""
    password_file: str = ""
    group: str = ""
    node: str = ""
    device: str = ""
    topic: str = ""
    time_field: str = "/timestamp_ms"
    time_unit: Literal["ms", "s", "iso"] = "ms"
    publish_topic: str = ""
    publish_node: str = ""
    sensors: tuple[str, ...] = ()
    step_ms: int = 1000
    rename: dict[str, str] = {}
    lateness_ms: int = 0
    hold_ms: int = 0
    future_ms: int = 60_000
    max_payload_bytes: int = 1 << 20


class ApiSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The local inference endpoint (Open Inference Protocol v2); port 0 takes a free one."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 8090
    max_body_bytes: int = 8 << 20


class CapacitySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a request is too much for this device.

    Attributes:
        narrower: slices of the active release that are loaded beside it, if the board's memory has
            room for them: requests that the active one would be late for are answered by these.
    """

    default_deadline_ms: int = 250
    queue_limit: int = 64
    safety: float = 1.2
    narrower: int = 1


class HandoffSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Handing a request to the cloud: who is asked first, and when to stop trying.

    Attributes:
        policy: "local-first" asks the cloud where this device would be late, "cloud-first" wherever
            it has the time for an answer of its own afterwards, "never-leave-site" nowhere,
            whatever a release or an administrator wants. "cascade" is local first, and asks again
            about the answers of a classifier that are least sure.
        policies: of models by name, where another one is wanted.
        cascade_share: of the answers of a classifier that "cascade" asks the cloud about.
        min_budget_ms: time below which a hand-off is not tried.
        reserve_ms: time that a hand-off leaves beyond what an answer from here needs.
    """

    enabled: bool = True
    policy: Policy = "local-first"
    policies: dict[str, Policy] = {}
    cascade_share: float = 0.2
    min_budget_ms: int = 20
    reserve_ms: int = 20
    failures_to_open: int = 3
    retry_after_ms: int = 1000


class OutboxSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Store and forward: limits of the database, and of what is in flight."""

    max_rows: int = 500_000
    commit_ms: int = 50
    batch_rows: int = 100
    window_rows: int = 2000
    rewind_ms: int = 3000


class UpdateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fetching and proving a release.

    Attributes:
        trial_attempts: starts of the agent that a release on trial may take.
        trial_predictions: windows and requests after which it is kept.
        trial_s: time after which a release that takes requests only is kept, if none failed.
    """

    download_deadline_s: float = 600.0
    selftest_deadline_s: float = 30.0
    trial_attempts: int = 3
    trial_predictions: int = 20
    trial_s: float = 600.0


class HistorySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Private rows kept on the device for federated rounds; they never leave it."""

    max_rows: int = 100_000


class MonitorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When an alarm is raised here.

    Attributes:
        calibration_windows: windows after a release becomes active that are taken for normal
            operation of this site, and calibrate a limit of its own; 0 keeps the release's.
        site_rows: rows, from when a release brings a fleet on, that are taken for normal operation
            of this site; a monitor of its own, shrunk towards that fleet, is fitted on 80 % of them
            and calibrated on the rest. It replaces the release's scores, and any limit of
            `calibration_windows`. At least 200; 0 keeps the release's monitor.
    """

    calibration_windows: int = 0
    site_rows: int = 0


class EdgeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of the agent. `heartbeat_s` is also the period of the statistics in it."""

    data_dir: str = "/var/lib/aimass-edge"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    heartbeat_s: float = 5.0
    board: BoardSettings = BoardSettings()
    hardware: HardwareSettings = HardwareSettings()
    source: SourceSettings = SourceSettings()
    api: ApiSettings = ApiSettings()
    capacity: CapacitySettings = CapacitySettings()
    handoff: HandoffSettings = HandoffSettings()
    outbox: OutboxSettings = OutboxSettings()
    update: UpdateSettings = UpdateSettings()
    history: HistorySettings = HistorySettings()
    monitor: MonitorSettings = MonitorSettings()


def placed(settings: EdgeSettings) -> EdgeSettings:
    """The settings with every folder that follows from `data_dir` written out."""
    engines = settings.board.engines
    if engines.folder:
        return settings
    engines = msgspec.structs.replace(engines, folder=str(Path(settings.data_dir) / "engines"))
    board = msgspec.structs.replace(settings.board, engines=engines)
    return msgspec.structs.replace(settings, board=board)
