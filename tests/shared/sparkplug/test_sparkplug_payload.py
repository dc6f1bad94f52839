import contextlib
import math
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared.errors import BodyTooLargeError, MalformedMessageError
from aimass_shared.sparkplug.datatypes import DataType, Value, typed
from aimass_shared.sparkplug.payload import BAD, GOOD, STALE, Metric, Payload, decode, encode
from aimass_shared.sparkplug.wire import PayloadMessage

TIMES = st.integers(0, 2**64 - 1)


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    return (
        st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if signed
        else st.integers(0, 2**bits - 1)
    )


def arrays(element: st.SearchStrategy[int] | st.SearchStrategy[float]) -> st.SearchStrategy[Value]:
    return st.lists(element, max_size=5).map(tuple)


D = DataType
VALUES: dict[DataType, st.SearchStrategy[Value]] = {
    **{D(1 + n): integers(8 << n, signed=True) for n in range(4)},
    **{D(5 + n): integers(8 << n, signed=False) for n in range(4)},
    D.FLOAT: st.floats(width=32, allow_nan=False),
    D.DOUBLE: st.floats(allow_nan=False),
    D.BOOLEAN: st.booleans(),
    **dict.fromkeys((D.STRING, D.TEXT, D.UUID), st.text(st.characters(codec="utf-8"))),
    D.DATETIME: TIMES,
    **dict.fromkeys((D.BYTES, D.FILE, D.BOOLEAN_ARRAY, D.STRING_ARRAY), st.binary()),
    **{D(22 + n): arrays(integers(8 << n, signed=True)) for n in range(4)},
    **{D(26 + n): arrays(integers(8 << n, signed=False)) for n in range(4)},
    D.FLOAT_ARRAY: arrays(st.floats(width=32, allow_nan=False)),
    D.DOUBLE_ARRAY: arrays(st.floats(allow_nan=False)),
    D.DATETIME_ARRAY: arrays(TIMES),
}


@st.composite
def metrics(draw: st.DrawFn) -> Metric:
    datatype = draw(st.sampled_from(sorted(VALUES)))
    return Metric(
        name=draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=9)),
        alias=draw(st.none() | TIMES),
        timestamp=draw(st.none() | TIMES),
        datatype=datatype,
        value=draw(st.none() | VALUES[datatype]),
        is_historical=draw(st.booleans()),
        is_transient=draw(st.booleans()),
        quality=draw(st.sampled_from([GOOD, BAD, STALE])),
        unit=draw(st.none() | st.just("degC")),
    )


payloads = st.builds(
    Payload,
    timestamp=st.none() | TIMES,
    metrics=st.lists(metrics(), max_size=4).map(tuple),
    seq=st.none() | st.integers(0, 255),
)


@given(payloads)
def test_a_payload_comes_back_as_it_was(payload: Payload) -> None:
    assert decode(encode(payload)) == payload


@given(payloads)
def test_the_birth_gives_back_what_data_leaves_out(payload: Payload) -> None:
    for sent, metric in zip(
        payload.metrics, decode(encode(payload, datatypes=False)).metrics, strict=True
    ):
        assert metric.datatype is None
        assert sent.datatype is not None
        assert typed(metric.value, sent.datatype) == sent.value


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with contextlib.suppress(MalformedMessageError):
        decode(raw)


@given(payloads, st.data())
def test_damaged_payloads_are_read_or_refused(payload: Payload, data: st.DataObject) -> None:
    raw = bytearray(encode(payload) or b"\0")
    for _ in range(3):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedMessageError):
        decode(bytes(raw))


# Bytes as the specification's protobuf schema gives them, made by hand: field number and wire type.
def metric_bytes(*fields: bytes) -> bytes:
    body = b"".join(fields)
    return b"\x12" + bytes([len(body)]) + body


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def datatype(code: int) -> bytes:
    return b"\x20" + varint(code)


def int_value(number: int) -> bytes:
    return b"\x50" + varint(number)


def long_value(number: int) -> bytes:
    return b"\x58" + varint(number)


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ((datatype(1), int_value(0xFFFFFFFB)), -5),  # Int8 extended to 32 bits (Java, JS)
        ((datatype(1), int_value(0xFB)), -5),  # Int8 in 8 bits (pysparkplug)
        ((datatype(2), int_value(0xFFFE)), -2),
        ((datatype(3), int_value(0x80000000)), -(2**31)),
        ((datatype(4), long_value(2**64 - 1)), -1),
        ((datatype(7), int_value(2**32 - 1)), 2**32 - 1),  # UInt32 as the text has it
        ((datatype(7), long_value(2**32 - 1)), 2**32 - 1),  # and as everybody sends it
        ((datatype(8), long_value(2**64 - 1)), 2**64 - 1),
        ((datatype(9), b"\x65" + struct.pack("<f", 1.5)), 1.5),
        ((datatype(10), b"\x69" + struct.pack("<d", 1e300)), 1e300),
        ((datatype(10), int_value(3)), 3.0),
        ((datatype(11), b"\x70\x01"), True),
        ((datatype(12), b"\x7a\x02hi"), "hi"),
        ((datatype(3), int_value(5), b"\x38\x01"), None),  # is_null wins
        ((datatype(3),), None),
        ((datatype(99), int_value(5)), 5),
        ((datatype(16), b"\x8a\x01\x00"), None),  # a DataSet
        ((datatype(22), b"\x82\x01\x02\xef\x7b"), (-17, 123)),
    ],
)
def test_the_wire_means_what_the_specification_and_its_peers_mean(
    fields: tuple[bytes, ...], value: Value
) -> None:
    (metric,) = decode(metric_bytes(*fields)).metrics
    assert metric.value == value
    assert type(metric.value) is type(value)


def test_we_send_what_the_pickiest_peer_reads() -> None:
    def raw(kind: DataType, value: Value) -> bytes:
        return encode(Payload(metrics=(Metric(datatype=kind, value=value),)))

    assert raw(D.INT8, -5) == metric_bytes(datatype(1), int_value(0xFFFFFFFB))
    assert raw(D.UINT32, 7) == metric_bytes(datatype(7), long_value(7))
    assert raw(D.INT64, -1) == metric_bytes(datatype(4), long_value(2**64 - 1))
    assert raw(D.INT32, None) == metric_bytes(datatype(3), b"\x38\x01")


def test_quality_and_unit_travel_as_properties() -> None:
    metric = Metric(name="T", datatype=D.FLOAT, value=1.0, quality=STALE, unit="degC")
    wire = PayloadMessage.FromString(encode(Payload(metrics=(metric,))))
    properties = wire.metrics[0].properties
    assert list(properties.keys) == ["Quality", "engUnit"]
    assert (properties.values[0].type, properties.values[0].int_value) == (3, 500)
    assert (properties.values[1].type, properties.values[1].string_value) == (12, "degC")


def test_nan_and_infinity_pass_the_codec() -> None:
    for number in (math.nan, math.inf):
        metric = Metric(datatype=D.DOUBLE, value=number)
        (back,) = decode(encode(Payload(metrics=(metric,)))).metrics
        assert str(back.value) == str(number)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (None, 1),
        (D.UINT8, 256),
        (D.INT8, -129),
        (D.FLOAT, "1"),
        (D.STRING, 1),
        (D.INT16_ARRAY, (40_000,)),
        (D.INT16_ARRAY, b"123"),
        (D.TEMPLATE, b""),
        (D.UNKNOWN, 1),
    ],
)
def test_a_value_that_its_datatype_cannot_hold_is_not_sent(
    kind: DataType | None, value: Value
) -> None:
    with pytest.raises(MalformedMessageError):
        encode(Payload(metrics=(Metric(datatype=kind, value=value),)))


@pytest.mark.parametrize(
    "payload",
    [Payload(timestamp=-1), Payload(seq=2**64), Payload(metrics=(Metric(name="\ud800"),))],
)
def test_fields_out_of_range_are_not_sent(payload: Payload) -> None:
    with pytest.raises(MalformedMessageError):
        encode(payload)


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage",
        metric_bytes(datatype(12), int_value(1)),
        metric_bytes(datatype(23), b"\x82\x01\x01\xef"),
        metric_bytes(b"\x0a\x01\xff"),
        b"\x12\x00" * 10_001,
    ],
    ids=["garbage", "text of a number", "half a number", "no UTF-8", "too many metrics"],
)
def test_malformed_payloads_are_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode(raw)


def test_a_payload_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(BodyTooLargeError, match="limit is 10"):
        decode(b"x" * 11, 10)


def test_metrics_are_plain_data() -> None:
    metric = Metric(name="a", datatype=D.INT8, value=1)
    assert msgspec.structs.replace(metric, value=2) != metric
