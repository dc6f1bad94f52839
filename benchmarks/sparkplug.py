"""Encode and decode a Sparkplug DDATA of 52 metrics, against msgspec JSON, json, bare protobuf.

The same 52 values with alias and time. "bare protobuf" is the C library alone, filled and read by a
loop without checks: the floor of any Sparkplug codec in Python.
"""

import json
from collections.abc import Callable

import msgspec

from aimass_shared.sparkplug.datatypes import FIELDS, DataType
from aimass_shared.sparkplug.payload import Metric, Payload, decode, encode
from aimass_shared.sparkplug.wire import PayloadMessage
from benchmarks.harness.measure import Case, Figures, Scale, repeated

METRICS = 52
DOUBLE = FIELDS[DataType.DOUBLE]
TIME_MS = 1_800_000_000_000
MEASURE = "CPU us a payload"
VALUES = [100.0 + number / 7 for number in range(METRICS)]
PAYLOAD = Payload(
    timestamp=TIME_MS,
    metrics=tuple(
        Metric(alias=alias, timestamp=TIME_MS, datatype=DataType.DOUBLE, value=value)
        for alias, value in enumerate(VALUES)
    ),
    seq=7,
)


class JsonMetric(msgspec.Struct):
    """A metric as JSON would have it."""

    alias: int
    timestamp: int
    value: float


class JsonPayload(msgspec.Struct):
    """A message as JSON would have it."""

    timestamp: int
    seq: int
    metrics: list[JsonMetric]


STRUCT = JsonPayload(TIME_MS, 7, [JsonMetric(a, TIME_MS, v) for a, v in enumerate(VALUES)])
PLAIN = msgspec.to_builtins(STRUCT)
RAW = encode(PAYLOAD, datatypes=False)
RAW_JSON = msgspec.json.encode(STRUCT)
_ENCODER, _DECODER = msgspec.json.Encoder(), msgspec.json.Decoder(JsonPayload)


def run(scale: Scale) -> Figures:
    """Both directions."""
    figures = Figures()
    directions: dict[str, dict[str, Callable[[], object]]] = {
        "encode": {
            "aimass": lambda: encode(PAYLOAD, datatypes=False),
            "bare protobuf": bare_encode,
            "msgspec JSON": lambda: _ENCODER.encode(STRUCT),
            "json": lambda: json.dumps(PLAIN).encode(),
        },
        "decode": {
            "aimass": lambda: decode(RAW),
            "bare protobuf": bare_decode,
            "msgspec JSON": lambda: _DECODER.decode(RAW_JSON),
            "json": lambda: json.loads(RAW_JSON),
        },
    }
    for name, works in directions.items():
        contenders = {
            who: repeated(work, units=1, seconds=scale.seconds, measure=MEASURE)
            for who, work in works.items()
        }
        figures.measure(Case(name, contenders), scale.rounds)
    figures.notes.append(f"{len(RAW)} bytes as Sparkplug, {len(RAW_JSON)} as JSON")
    return figures


def bare_encode() -> bytes:
    wire = PayloadMessage()
    wire.timestamp, wire.seq = TIME_MS, 7
    for alias, value in enumerate(VALUES):
        metric = wire.metrics.add()
        metric.alias, metric.timestamp = alias, TIME_MS
        setattr(metric, DOUBLE, value)
    return wire.SerializeToString()


def bare_decode() -> list[tuple[int, int, float]]:
    wire = PayloadMessage.FromString(RAW)
    metrics = wire.metrics
    return [
        (one.alias, one.timestamp, getattr(one, DOUBLE))
        for one in (metrics[index] for index in range(len(metrics)))
    ]
