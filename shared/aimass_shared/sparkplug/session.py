"""The rules of Sparkplug sessions without I/O: an edge node's births, data and deaths.

Whoever connects calls these in order and publishes what they return, in that order. The host's side
is in `host`. Spec: Sparkplug 3.0.0 chapter 5 (operational behaviour) and 6.4 (payloads).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from aimass_shared.errors import ConflictError, NotFoundError
from aimass_shared.sparkplug import state, topics
from aimass_shared.sparkplug.datatypes import DataType
from aimass_shared.sparkplug.host import HostOptions, HostSession
from aimass_shared.sparkplug.payload import Metric, Payload, decode, encode
from aimass_shared.sparkplug.rules import (
    BD_SEQ,
    COUNTER,
    REBIRTH,
    Publication,
    death,
)

__all__ = ["EdgeOptions", "EdgeSession", "HostOptions", "HostSession", "Publication", "StateChange"]


class EdgeOptions(msgspec.Struct, frozen=True):
    """How an edge node behaves.

    Attributes:
        aliases: send numbers instead of names after the birth (some hosts cannot read them).
        datatypes: repeat datatypes after the birth (the same hosts want them).
        first_bd_seq: number of the first session; a restarted node goes on where it was.
        primary: host that must be online before anything is published ("" = none).
    """

    aliases: bool = False
    datatypes: bool = False
    first_bd_seq: int = 0
    primary: str = ""


class StateChange(NamedTuple):
    """What a primary host's STATE asks for: births, or a death and another server."""

    birth: bool
    leave: bool


class EdgeSession:
    """One edge node: what to publish, with bdSeq and seq counted.

    `metrics` are all that it will ever report, by device ("" = the node itself), with datatype and
    present value. Order of calls: `will` before each CONNECT; `births` when the subscriptions to
    `commands` are acknowledged; then `data`; `lost` when the connection is.
    """

    def __init__(
        self,
        group: str,
        node: str,
        metrics: Mapping[str, Sequence[Metric]],
        *,
        options: EdgeOptions | None = None,
    ) -> None:
        self._group = topics.check_id(group, "group")
        self._node = topics.check_id(node, "node")
        self._options = options or EdgeOptions()
        self._metrics = {
            device: {str(metric.name): metric for metric in owned}
            for device, owned in _with_aliases(metrics, self._options).items()
        }
        self._bd_seq = (self._options.first_bd_seq - 1) % COUNTER
        self._seq, self._born = 0, False
        self._host_online = not self._options.primary
        self._host_since = -1

    @property
    def born(self) -> bool:
        """Whether the births of this connection are out, so that `data` may be sent."""
        return self._born

    @property
    def may_birth(self) -> bool:
        """Whether the primary host, if there is one, is online."""
        return self._host_online

    @property
    def commands(self) -> str:
        """Topic of commands to the node; subscribe to it at QoS 1."""
        return str(topics.Topic(self._group, "NCMD", self._node))

    def will(self, now_ms: int) -> Publication:
        """The last will of the next CONNECT: each one is a session of its own (bdSeq grows)."""
        self._bd_seq = (self._bd_seq + 1) % COUNTER
        self._born = False
        return death(self._group, self._node, bd_seq=self._bd_seq, now_ms=now_ms)

    def births(self, now_ms: int) -> list[Publication]:
        """NBIRTH and all DBIRTHs, at connect and when a host asked for a rebirth."""
        self._seq, self._born = 0, True
        control = (
            Metric(name=BD_SEQ, datatype=DataType.INT64, value=self._bd_seq, timestamp=now_ms),
            Metric(name=REBIRTH, datatype=DataType.BOOLEAN, value=False, timestamp=now_ms),
        )
        own = (*control, *self._born_metrics("", now_ms))
        result = [self._numbered("NBIRTH", own, now_ms=now_ms)]
        for device in self._metrics:
            if device:
                metrics = self._born_metrics(device, now_ms)
                result.append(self._numbered("DBIRTH", metrics, device=device, now_ms=now_ms))
        return result

    def data(self, device: str, metrics: Iterable[Metric], *, now_ms: int) -> Publication | None:
        """New values of known metrics; None while there is no birth (the next one has them).

        Raises:
            NotFoundError: the device or a metric was not announced.
        """
        known = self._known(device)
        changed = [self._update(known, metric) for metric in metrics]
        if not self._born:
            return None
        sent = tuple(_after_birth(metric) for metric in changed)
        kind: topics.Kind = "DDATA" if device else "NDATA"
        return self._numbered(kind, sent, device=device, now_ms=now_ms)

    def device_death(self, device: str, *, now_ms: int) -> Publication:
        """The device's data is stale from now on.

        Raises:
            ConflictError: the node has not published its births.
            NotFoundError: there is no such device.
        """
        self._known(device)
        if not self._born:
            raise ConflictError(f"device {device} cannot die before the births of its node")
        return self._numbered("DDEATH", (), device=device, now_ms=now_ms)

    def death(self, now_ms: int) -> Publication:
        """NDEATH to publish before an intended disconnect."""
        self._born = False
        will = death(self._group, self._node, bd_seq=self._bd_seq, now_ms=now_ms)
        return will._replace(qos=0)

    def lost(self) -> None:
        """The connection is gone: nothing may be sent before new births."""
        self._born = False

    def wants_rebirth(self, topic: str, raw: bytes) -> bool:
        """Whether a message is a command to this node to publish its births again.

        Raises:
            MalformedMessageError, BodyTooLargeError: a command that cannot be read.
        """
        if topic != self.commands:
            return False
        return any(
            metric.name == REBIRTH and metric.value in (True, 1) for metric in decode(raw).metrics
        )

    def host_state(self, raw: bytes) -> StateChange:
        """Take a STATE of the primary host; an older one than the last changes nothing.

        Raises:
            MalformedMessageError: it cannot be read.
        """
        seen = state.decode(raw)
        if not self._options.primary or seen.timestamp < self._host_since:
            return StateChange(birth=False, leave=False)
        self._host_since, self._host_online = seen.timestamp, seen.online
        return StateChange(
            birth=seen.online and not self._born, leave=not seen.online and self._born
        )

    def _known(self, device: str) -> dict[str, Metric]:
        if device not in self._metrics:
            raise NotFoundError(f"Sparkplug node {self._node} has no device {device!r}")
        return self._metrics[device]

    def _update(self, known: dict[str, Metric], metric: Metric) -> Metric:
        before = known.get(str(metric.name))
        if before is None:
            raise NotFoundError(f"Sparkplug node {self._node} announced no metric {metric.name!r}")
        after = msgspec.structs.replace(metric, datatype=before.datatype, alias=before.alias)
        known[str(metric.name)] = msgspec.structs.replace(
            after, unit=before.unit, is_historical=False
        )
        return after

    def _born_metrics(self, device: str, now_ms: int) -> tuple[Metric, ...]:
        return tuple(
            metric
            if metric.timestamp is not None
            else msgspec.structs.replace(metric, timestamp=now_ms)
            for metric in self._metrics.get(device, {}).values()
        )

    def _numbered(
        self, kind: topics.Kind, metrics: tuple[Metric, ...], *, device: str = "", now_ms: int
    ) -> Publication:
        payload = Payload(timestamp=now_ms, metrics=metrics, seq=self._seq)
        self._seq = (self._seq + 1) % COUNTER
        raw = encode(payload, datatypes=kind.endswith("BIRTH") or self._options.datatypes)
        return Publication(str(topics.Topic(self._group, kind, self._node, device)), raw)


def _with_aliases(
    metrics: Mapping[str, Sequence[Metric]], options: EdgeOptions
) -> dict[str, list[Metric]]:
    """Aliases are unique over the node and all of its devices (6.4.6)."""
    if not options.aliases:
        return {device: list(owned) for device, owned in metrics.items()}
    result: dict[str, list[Metric]] = {}
    alias = 0
    for device, owned in metrics.items():
        result[device] = []
        for metric in owned:
            alias += 1
            result[device].append(msgspec.structs.replace(metric, alias=alias))
    return result


def _after_birth(metric: Metric) -> Metric:
    """After the birth a metric with an alias has no name (6.4.6), and none has its unit again."""
    name = metric.name if metric.alias is None else None
    return msgspec.structs.replace(metric, name=name, unit=None)
