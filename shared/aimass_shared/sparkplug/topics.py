"""Sparkplug B 3.0 topics: build and parse. The only file with a "/" in a Sparkplug topic.

    spBv1.0/{group}/{NBIRTH|NDEATH|NDATA|NCMD}/{node}
    spBv1.0/{group}/{DBIRTH|DDEATH|DDATA|DCMD}/{node}/{device}
    spBv1.0/STATE/{host}

Spec: Sparkplug 3.0.0 chapter 4. Nothing here decides who may publish what.
"""

from typing import Literal, NamedTuple, cast, get_args

from aimass_shared.errors import InvalidSettingError, MalformedMessageError

NAMESPACE = "spBv1.0"
NodeKind = Literal["NBIRTH", "NDEATH", "NDATA", "NCMD"]
DeviceKind = Literal["DBIRTH", "DDEATH", "DDATA", "DCMD"]
Kind = Literal[NodeKind, DeviceKind]
_NODE_KINDS = frozenset(get_args(NodeKind))
_DEVICE_KINDS = frozenset(get_args(DeviceKind))
_NODE_LEVELS, _DEVICE_LEVELS = 4, 5


class Topic(NamedTuple):
    """A parsed topic; `device` is "" for a message of the node itself."""

    group: str
    kind: Kind
    node: str
    device: str = ""

    def __str__(self) -> str:
        """The topic as it is on the wire."""
        text = f"{NAMESPACE}/{self.group}/{self.kind}/{self.node}"
        return f"{text}/{self.device}" if self.device else text


def check_id(text: str, what: str) -> str:
    """Return `text` if it may be a group, node, device or host id.

    Raises:
        InvalidSettingError: it is empty or has one of the characters + / #.
    """
    if not text or set(text) & set("+/#\0"):
        raise InvalidSettingError(
            f"Sparkplug {what} {text!r} must not be empty or have any of + / #"
        )
    return text


def parse(text: str) -> Topic:
    """Split the topic of a node's or a device's message.

    Raises:
        MalformedMessageError: it is no such topic (a host's STATE is none either).
    """
    levels = text.split("/")
    expected = _DEVICE_KINDS if len(levels) == _DEVICE_LEVELS else _NODE_KINDS
    well_formed = len(levels) in (_NODE_LEVELS, _DEVICE_LEVELS) and all(levels)
    if not well_formed or levels[0] != NAMESPACE or levels[2] not in expected:
        raise MalformedMessageError(f"topic {text[:200]!r} is not one of Sparkplug B")
    return Topic(levels[1], cast("Kind", levels[2]), levels[3], "".join(levels[4:]))


def all_of_node(group: str, node: str) -> str:
    """Filter of all that a node and its devices send: `seq` counts over all of it."""
    return f"{NAMESPACE}/{group}/+/{node}/#"


def state(host: str) -> str:
    """Topic of a host application's state (retained)."""
    return f"{NAMESPACE}/STATE/{host}"
