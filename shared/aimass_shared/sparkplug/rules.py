"""What both sides of a Sparkplug session share: names of metrics, deaths, the one command.

The only command that this code base can make is the request for a rebirth.
"""

from typing import NamedTuple

from aimass_shared.sparkplug import topics
from aimass_shared.sparkplug.datatypes import DataType
from aimass_shared.sparkplug.payload import Metric, Payload, encode

BD_SEQ = "bdSeq"
REBIRTH = "Node Control/Rebirth"
COUNTER = 256


class Publication(NamedTuple):
    """A message to publish."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


def death(group: str, node: str, *, bd_seq: int, now_ms: int) -> Publication:
    """NDEATH as a last will: no seq, one metric, QoS 1 (5.4)."""
    metric = Metric(name=BD_SEQ, datatype=DataType.INT64, value=bd_seq, timestamp=now_ms)
    raw = encode(Payload(timestamp=now_ms, metrics=(metric,)))
    return Publication(str(topics.Topic(group, "NDEATH", node)), raw, qos=1)


def rebirth_request(group: str, node: str, now_ms: int) -> Publication:
    """NCMD that asks a node to publish its births again; it changes nothing in a plant."""
    metric = Metric(name=REBIRTH, datatype=DataType.BOOLEAN, value=True, timestamp=now_ms)
    raw = encode(Payload(timestamp=now_ms, metrics=(metric,)))
    return Publication(str(topics.Topic(group, "NCMD", node)), raw)
