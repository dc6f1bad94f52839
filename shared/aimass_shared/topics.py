"""The MQTT fleet tree: build and parse. The only file with a "/" in a fleet topic.

    aimass/v1/{device}/up/{state,reported,round/{id},d/{stream}}
    aimass/v1/{device}/down/{desired,round/{id},ack/{stream}}

`{device}` is the certificate's common name and the MQTT client id, so one broker pattern per
direction (`aimass/v1/%u/up/#`, `aimass/v1/%u/down/#`) keeps every device in its own subtree.
"""

import re
from typing import NamedTuple

from aimass_shared.errors import MalformedMessageError

ROOT = "aimass/v1"
SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class FleetTopic(NamedTuple):
    """A parsed topic: who, which way, what, and the item within it ("" where there is none)."""

    device: str
    direction: str
    kind: str
    item: str


def check_segment(text: str, what: str) -> str:
    """Return `text` if it may stand in a topic, a file name and a certificate.

    Raises:
        MalformedMessageError: it is empty, longer than 64 characters or has another character.
    """
    if not SEGMENT.fullmatch(text):
        raise MalformedMessageError(
            f"{what} {text!r} must be 1-64 letters, digits, '_', '.' or '-'"
        )
    return text


def state(device: str) -> str:
    """Topic of a device's birth, heartbeat and last will (retained)."""
    return f"{ROOT}/{device}/up/state"


def reported(device: str) -> str:
    """Topic of what a device runs (retained)."""
    return f"{ROOT}/{device}/up/reported"


def desired(device: str) -> str:
    """Topic of what a device shall run (retained)."""
    return f"{ROOT}/{device}/down/desired"


def stream(device: str, name: str) -> str:
    """Topic of one outbox stream."""
    return f"{ROOT}/{device}/up/d/{name}"


def ack(device: str, name: str) -> str:
    """Topic of the cumulative acknowledgement of one outbox stream."""
    return f"{ROOT}/{device}/down/ack/{name}"


def round_task(device: str, task: str) -> str:
    """Topic that invites a device to a federated round."""
    return f"{ROOT}/{device}/down/round/{task}"


def round_reply(device: str, task: str) -> str:
    """Topic of a device's answer to a federated round."""
    return f"{ROOT}/{device}/up/round/{task}"


def all_down(device: str) -> str:
    """Filter of everything that the coordinator sends to one device."""
    return f"{ROOT}/{device}/down/#"


def all_up() -> str:
    """Filter of everything that devices send."""
    return f"{ROOT}/+/up/#"


_PATTERN = re.compile(
    rf"{ROOT}/(?P<device>[^/+#]+)/"
    r"(?:(?P<up>up)/(?:(?P<u>state|reported)|(?P<ui>round|d)/(?P<uitem>[^/+#]+))"
    r"|(?P<down>down)/(?:(?P<d>desired)|(?P<di>round|ack)/(?P<ditem>[^/+#]+)))"
)


def parse(topic: str) -> FleetTopic:
    """Split a fleet topic.

    Raises:
        MalformedMessageError: the topic is not one of the tree.
    """
    match = _PATTERN.fullmatch(topic)
    if match is None:
        raise MalformedMessageError(f"topic {topic!r} is not in the fleet tree {ROOT}")
    part = match.groupdict(default="")
    return FleetTopic(
        device=part["device"],
        direction=part["up"] or part["down"],
        kind=part["u"] or part["ui"] or part["d"] or part["di"],
        item=part["uitem"] or part["ditem"],
    )
