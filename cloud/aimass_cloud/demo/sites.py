"""The demo's three sites: which board stands there, and how its plant speaks MQTT.

A site's agent is configured as an integrator would do it: a profile of firmware_configs and a TOML
file for the site.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from aimass_cloud.recipes import ShippedPlant

Kind = Literal["sparkplug", "json", "uns"]


@dataclass(frozen=True)
class Site:
    """One site.

    Attributes:
        name: of the site; its device's id begins with it. profile: its board.
        kind: how its plant speaks. topic: where it publishes; `{sensor}` stands for the tag.
        answers: where its agent publishes predictions (json and uns).
        group, node, device: Sparkplug ids of the plant.
        window_budget_ms: what the site gives to one window; its device has other work too.
        queue_limit: requests that may wait at its endpoint.
    """

    name: str
    profile: str
    kind: Kind
    topic: str = ""
    answers: str = ""
    group: str = ""
    node: str = ""
    device: str = ""
    window_budget_ms: float = 20.0
    queue_limit: int = 64


SITES = (
    Site(
        name="north",
        profile="jetson-orin-nano",
        kind="sparkplug",
        group="acme",
        node="north-gateway",
        device="reactor",
        window_budget_ms=0.58,
    ),
    Site(
        name="east",
        profile="raspberry-pi-5",
        kind="json",
        topic="plant/east/telemetry",
        answers="plant/east/predictions",
        window_budget_ms=0.66,
        queue_limit=4,
    ),
    Site(
        name="south",
        profile="x86-gateway",
        kind="uns",
        topic="umh/v1/acme/south/reactor/_raw/{sensor}",
        answers="umh/v1/acme/south/reactor/_aimass_v1/prediction",
    ),
)


def site_config(
    site: Site, plant: ShippedPlant, *, broker_port: int, broker_version: int, api_port: int
) -> bytes:
    """The site's TOML file: its telemetry source, its endpoint, and that its board is simulated."""
    sensors = [sensor.name for sensor in plant.load().sensors]
    source = {
        "kind": site.kind,
        "url": f"mqtt://127.0.0.1:{broker_port}",
        "version": broker_version,
        "sensors": sensors,
        "step_ms": plant.step_ms,
        "group": site.group,
        "node": site.node,
        "device": site.device,
        "topic": site.topic,
        "publish_topic": site.answers,
    }
    document = {
        "heartbeat_s": 1.0,
        "board": {"simulate": True, "window_budget_ms": site.window_budget_ms},
        "capacity": {"queue_limit": site.queue_limit},
        "source": source,
        "api": {"port": api_port},
        "update": {"trial_predictions": 10},
    }
    return _toml(document)


def _toml(document: dict[str, object]) -> bytes:
    """TOML of a document of one level of tables; JSON's scalars and lists are TOML's."""
    plain = {name: value for name, value in document.items() if not isinstance(value, dict)}
    lines = [_line(name, value) for name, value in plain.items()]
    for name, table in document.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(_line(key, value) for key, value in table.items())]
    return ("\n".join(lines) + "\n").encode()


def _line(name: str, value: object) -> str:
    return f"{name} = {msgspec.json.encode(value).decode()}"
