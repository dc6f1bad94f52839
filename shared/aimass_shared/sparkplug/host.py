"""The rules of a Sparkplug host application without I/O: births, aliases, order, when to ask again.

A host learns names and datatypes from births, and asks for a rebirth when it meets something that
it cannot read. It sends no other command. Spec: Sparkplug 3.0.0 sections 5.7, 5.11 and 6.4.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from aimass_shared.errors import MalformedMessageError, RequestError
from aimass_shared.sparkplug import state, topics
from aimass_shared.sparkplug.datatypes import DataType, typed
from aimass_shared.sparkplug.payload import (
    BAD,
    MAX_PAYLOAD_BYTES,
    Metric,
    Payload,
    decode,
)
from aimass_shared.sparkplug.rules import BD_SEQ, COUNTER, Publication, rebirth_request
from aimass_shared.sparkplug.topics import Topic

# Messages that wait for an earlier one, per node; each may be as large as a payload.
MAX_HELD = 32


class HostOptions(msgspec.Struct, frozen=True):
    """How long a missing message is waited for, and how often one node is asked for a rebirth."""

    reorder_ms: int = 1000
    rebirth_every_ms: int = 2000
    max_payload_bytes: int = MAX_PAYLOAD_BYTES


class Sample(NamedTuple):
    """Metrics of a birth or of data, with names and typed values; `timestamp` of the payload."""

    topic: Topic
    timestamp: int | None
    metrics: tuple[Metric, ...]
    birth: bool


class Gone(NamedTuple):
    """A device is offline, or (device "") a node with all its devices: their values are stale."""

    group: str
    node: str
    device: str


Event = Sample | Gone
Key = tuple[str, str]


@dataclass
class _Node:
    """What is known of one node since its last birth."""

    born: bool = False
    seq: int = 0
    bd_seq: object = None
    datatypes: dict[Key, DataType] = field(default_factory=dict)
    aliases: dict[int, Key] = field(default_factory=dict)
    aliases_sure: bool = True
    held: dict[int, tuple[Topic, Payload]] = field(default_factory=dict)
    held_since: int = 0
    wanted: bool = False
    asked: int | None = None

    def learn(self, device: str, payload: Payload) -> None:
        """Replace what was known of a device by its birth."""
        self.datatypes = {key: kind for key, kind in self.datatypes.items() if key[0] != device}
        self.aliases = {alias: key for alias, key in self.aliases.items() if key[0] != device}
        for metric in payload.metrics:
            if metric.name is None:
                continue
            key = (device, metric.name)
            self.datatypes[key] = metric.datatype or DataType.UNKNOWN
            if metric.alias is not None:
                self.aliases[metric.alias] = key

    def resolve(self, device: str, metric: Metric) -> Metric | None:
        """The metric with its name and a typed value; None if the births do not explain it."""
        key: Key | None = (device, metric.name) if metric.name is not None else None
        if key is None and metric.alias is not None and self.aliases_sure:
            key = self.aliases.get(metric.alias)
        datatype = None if key is None else self.datatypes.get(key)
        if key is None or datatype is None:
            return None
        try:
            value, quality = typed(metric.value, datatype), metric.quality
        except MalformedMessageError:
            value, quality = None, BAD
        return msgspec.structs.replace(
            metric, name=key[1], datatype=datatype, value=value, quality=quality
        )


class HostSession:
    """A host that follows edge nodes. Feed it messages and time, publish its `rebirths`."""

    def __init__(self, options: HostOptions | None = None) -> None:
        self._options = options or HostOptions()
        self._nodes: dict[Key, _Node] = {}

    def want_rebirth(self, group: str, node: str) -> None:
        """Ask for the births of a node, at the next `rebirths`."""
        self._nodes.setdefault((group, node), _Node()).wanted = True

    def lost(self) -> list[Event]:
        """Our own connection is gone: all nodes that were online are unknown until their births."""
        gone: list[Event] = [
            Gone(group, node, "") for (group, node), known in self._nodes.items() if known.born
        ]
        # When we asked last is kept, so that a connection that flaps does not ask each time.
        self._nodes = {key: _Node(asked=known.asked) for key, known in self._nodes.items()}
        return gone

    def take(self, topic: Topic, raw: bytes, now_ms: int) -> list[Event]:
        """Take a message of a node or a device; commands of others are passed over.

        Raises:
            MalformedMessageError, BodyTooLargeError: it cannot be read (a rebirth is wanted then).
        """
        if topic.kind in ("NCMD", "DCMD"):
            return []
        node = self._nodes.setdefault((topic.group, topic.node), _Node())
        try:
            payload = decode(raw, self._options.max_payload_bytes)
            if payload.seq is None and topic.kind != "NDEATH":
                raise MalformedMessageError(f"{topic} has no seq")
        except RequestError:
            node.wanted = True
            raise
        return list(self._apply_any(node, topic, payload, now_ms=now_ms))

    def tick(self, now_ms: int) -> list[Event]:
        """Give up on messages that have been missing for too long."""
        events: list[Event] = []
        for node in self._nodes.values():
            if node.held and now_ms - node.held_since >= self._options.reorder_ms:
                events += self._give_up(node)
        return events

    def rebirths(self, now_ms: int) -> list[Publication]:
        """The requests that are due, at most one per node in `rebirth_every_ms`."""
        due: list[Publication] = []
        for (group, name), node in self._nodes.items():
            recent = node.asked is not None and (
                0 <= now_ms - node.asked < self._options.rebirth_every_ms
            )
            if node.wanted and not recent:
                node.wanted, node.asked = False, now_ms
                due.append(rebirth_request(group, name, now_ms))
        return due

    def _apply_any(
        self, node: _Node, topic: Topic, payload: Payload, *, now_ms: int
    ) -> Iterator[Event]:
        if topic.kind == "NBIRTH":
            yield self._nbirth(node, topic, payload)
        elif topic.kind == "NDEATH":
            if node.born and _bd_seq(payload) == node.bd_seq:
                node.born = False
                node.held.clear()
                yield Gone(topic.group, topic.node, "")
        elif not node.born:
            node.wanted = True
        else:
            yield from self._in_order(node, topic, payload, now_ms=now_ms)

    def _nbirth(self, node: _Node, topic: Topic, payload: Payload) -> Sample:
        fresh = _Node(born=True, seq=payload.seq or 0, bd_seq=_bd_seq(payload), asked=node.asked)
        fresh.learn("", payload)
        self._nodes[(topic.group, topic.node)] = fresh
        return _sample(fresh, topic, payload)

    def _in_order(
        self, node: _Node, topic: Topic, payload: Payload, *, now_ms: int
    ) -> Iterator[Event]:
        seq = payload.seq or 0
        if (seq - node.seq - 1) % COUNTER >= COUNTER // 2:
            node.wanted = True  # not missing but old: the count cannot be trusted
            return
        if not node.held:
            node.held_since = now_ms
        node.held[seq] = (topic, payload)
        yield from self._drain(node)
        if len(node.held) > MAX_HELD:
            yield from self._give_up(node)

    def _drain(self, node: _Node) -> Iterator[Event]:
        while following := node.held.pop((node.seq + 1) % COUNTER, None):
            node.seq = (node.seq + 1) % COUNTER
            yield self._apply(node, *following)

    def _give_up(self, node: _Node) -> Iterator[Event]:
        """A message is lost: go on after it, and ask for the births, which have all values.

        It may have been a birth with other aliases, so none is believed any more.
        """
        node.wanted, node.aliases_sure = True, False
        while node.held:
            expected = (node.seq + 1) % COUNTER
            nearest = min(node.held, key=lambda seq: (seq - expected) % COUNTER)
            node.seq = (nearest - 1) % COUNTER
            yield from self._drain(node)

    def _apply(self, node: _Node, topic: Topic, payload: Payload) -> Event:
        if topic.kind == "DDEATH":
            node.learn(topic.device, Payload())
            return Gone(topic.group, topic.node, topic.device)
        if topic.kind == "DBIRTH":
            node.learn(topic.device, payload)
        return _sample(node, topic, payload)


class HostState:
    """STATE of a host application of our own: will, online, and the answer to a false offline."""

    def __init__(self, host: str) -> None:
        self._topic = topics.state(topics.check_id(host, "host"))
        self._since = 0

    @property
    def topic(self) -> str:
        """Topic to subscribe to at QoS 1 before `online` is published."""
        return self._topic

    def will(self, now_ms: int) -> Publication:
        """Last will of the next CONNECT."""
        self._since = now_ms
        return self._publication(online=False)

    def online(self) -> Publication:
        """To publish when the subscriptions are acknowledged, with the will's timestamp."""
        return self._publication(online=True)

    def answer(self, raw: bytes) -> Publication | None:
        """Our own STATE as others see it: an offline one, left by an older session, is corrected.

        Raises:
            MalformedMessageError: it cannot be read.
        """
        return None if state.decode(raw).online else self.online()

    def _publication(self, *, online: bool) -> Publication:
        raw = state.encode(state.State(online=online, timestamp=self._since))
        return Publication(self._topic, raw, qos=1, retain=True)


def _sample(node: _Node, topic: Topic, payload: Payload) -> Sample:
    resolved = [node.resolve(topic.device, metric) for metric in payload.metrics]
    if None in resolved:
        node.wanted = True
    metrics = tuple(metric for metric in resolved if metric is not None)
    return Sample(topic, payload.timestamp, metrics, birth=topic.kind in ("NBIRTH", "DBIRTH"))


def _bd_seq(payload: Payload) -> object:
    return next((metric.value for metric in payload.metrics if metric.name == BD_SEQ), None)
