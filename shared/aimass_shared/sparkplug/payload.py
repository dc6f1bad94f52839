"""The Sparkplug B payload: typed metrics <-> protobuf bytes. Rules of a session are in `session`.

Knows names, aliases, datatypes, null, quality and unit. A DataSet or a Template is read as a metric
without a value; neither is written. Spec: Sparkplug 3.0.0 section 6.4.
"""

import msgspec
from google.protobuf.message import DecodeError

from aimass_shared.errors import BodyTooLargeError, MalformedMessageError
from aimass_shared.sparkplug.datatypes import FIELDS, DataType, Value, packed, typed
from aimass_shared.sparkplug.wire import PayloadMessage, WireMetric, WirePayload, WireProperties

__all__ = ["BAD", "GOOD", "STALE", "DataType", "Metric", "Payload", "Value", "decode", "encode"]

MAX_PAYLOAD_BYTES = 1 << 20
MAX_METRICS = 10_000
BAD, GOOD, STALE = 0, 192, 500
QUALITY, UNIT = "Quality", "engUnit"
_SUBMESSAGES = frozenset({"dataset_value", "template_value"})
_KNOWN = frozenset(DataType)


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One value of one metric.

    Attributes:
        name: None where only the alias is sent. alias: number given to the name by a birth.
        timestamp: UTC ms of acquisition, None = that of the payload.
        datatype: None where it is not sent (after a birth); see `typed`.
        value: None = null. Arrays of numbers are tuples; arrays of booleans and strings, and
            files, are bytes as sent.
        is_historical: not a value of now. is_transient: not to be stored.
        quality: GOOD unless the property says something else. unit: property `engUnit`.
    """

    name: str | None = None
    alias: int | None = None
    timestamp: int | None = None
    datatype: DataType | None = None
    value: Value = None
    is_historical: bool = False
    is_transient: bool = False
    quality: int = GOOD
    unit: str | None = None


class Payload(msgspec.Struct, frozen=True):
    """All of a message. `seq` is None in deaths and commands."""

    timestamp: int | None = None
    metrics: tuple[Metric, ...] = ()
    seq: int | None = None


def encode(payload: Payload, *, datatypes: bool = True) -> bytes:
    """Bytes of a payload; without `datatypes` as messages after a birth have it.

    Raises:
        MalformedMessageError: a metric has a value but no datatype, or not one of its datatype, or
            a number does not fit into its field.
    """
    try:
        return _write(payload, datatypes=datatypes).SerializeToString()
    except ValueError as error:
        raise MalformedMessageError(f"a field of a payload is out of its range: {error}") from error


def decode(raw: bytes, max_bytes: int = MAX_PAYLOAD_BYTES) -> Payload:
    """Read a payload of a peer that is not trusted.

    Raises:
        BodyTooLargeError: it is over `max_bytes`.
        MalformedMessageError: it is no payload, has more than `MAX_METRICS` metrics, or a value
            that is not one of its datatype.
    """
    if len(raw) > max_bytes:
        raise BodyTooLargeError(f"payload has {len(raw)} bytes, the limit is {max_bytes}")
    try:
        return _read(PayloadMessage.FromString(raw))
    except (DecodeError, UnicodeDecodeError) as error:
        raise MalformedMessageError(f"no payload of Sparkplug B: {error}") from error


def _write(payload: Payload, *, datatypes: bool) -> WirePayload:
    wire = PayloadMessage()
    if payload.timestamp is not None:
        wire.timestamp = payload.timestamp
    if payload.seq is not None:
        wire.seq = payload.seq
    for metric in payload.metrics:
        target = wire.metrics.add()
        _put_head(target, metric)
        _put_value(target, metric, with_datatype=datatypes)
        _put_properties(target, metric)
    return wire


def _put_head(wire: WireMetric, metric: Metric) -> None:
    if metric.name is not None:
        wire.name = metric.name
    if metric.alias is not None:
        wire.alias = metric.alias
    if metric.timestamp is not None:
        wire.timestamp = metric.timestamp
    if metric.is_historical:
        wire.is_historical = True
    if metric.is_transient:
        wire.is_transient = True


def _put_value(wire: WireMetric, metric: Metric, *, with_datatype: bool) -> None:
    if metric.datatype is not None and with_datatype:
        wire.datatype = int(metric.datatype)
    if metric.value is None:
        wire.is_null = True
    elif metric.datatype is None:
        raise MalformedMessageError(f"metric {metric.name!r} has a value but no datatype")
    else:
        value = packed(metric.value, metric.datatype)
        setattr(wire, FIELDS[metric.datatype], value)


def _put_properties(wire: WireMetric, metric: Metric) -> None:
    if metric.quality != GOOD:
        wire.properties.keys.append(QUALITY)
        wire.properties.values.add(type=int(DataType.INT32)).int_value = metric.quality
    if metric.unit is not None:
        wire.properties.keys.append(UNIT)
        wire.properties.values.add(type=int(DataType.STRING)).string_value = metric.unit


def _read(wire: WirePayload) -> Payload:
    count = len(wire.metrics)
    if count > MAX_METRICS:
        raise MalformedMessageError(f"payload has {count} metrics, the limit is {MAX_METRICS}")
    return Payload(
        timestamp=wire.timestamp if wire.HasField("timestamp") else None,
        metrics=tuple(_read_metric(wire.metrics[index]) for index in range(count)),
        seq=wire.seq if wire.HasField("seq") else None,
    )


def _read_metric(wire: WireMetric) -> Metric:
    datatype = _read_datatype(wire)
    quality, unit = (
        _read_properties(wire.properties) if wire.HasField("properties") else (GOOD, None)
    )
    return Metric(
        name=_text(wire.name) if wire.HasField("name") else None,
        alias=wire.alias if wire.HasField("alias") else None,
        timestamp=wire.timestamp if wire.HasField("timestamp") else None,
        datatype=datatype,
        value=_read_value(wire, datatype),
        is_historical=wire.is_historical,
        is_transient=wire.is_transient,
        quality=quality,
        unit=unit,
    )


def _read_datatype(wire: WireMetric) -> DataType | None:
    if not wire.HasField("datatype"):
        return None
    return DataType(wire.datatype) if wire.datatype in _KNOWN else DataType.UNKNOWN


def _read_value(wire: WireMetric, datatype: DataType | None) -> Value:
    field = wire.WhichOneof("value")
    if wire.is_null or field is None or field in _SUBMESSAGES:
        return None
    value: Value = getattr(wire, field)
    return value if datatype is None else typed(value, datatype)


def _read_properties(wire: WireProperties) -> tuple[int, str | None]:
    quality, unit = GOOD, None
    for index in range(min(len(wire.keys), len(wire.values))):
        value = wire.values[index]
        field = value.WhichOneof("value")
        if wire.keys[index] == QUALITY and field in ("int_value", "long_value"):
            quality = int(getattr(value, field))
        elif wire.keys[index] == UNIT and field == "string_value":
            unit = _text(value.string_value)
    return quality, unit


def _text(text: object) -> str:
    """Protobuf gives bytes that are no UTF-8 as they are."""
    if not isinstance(text, str):
        raise MalformedMessageError("a name or a unit is no UTF-8")
    return text
