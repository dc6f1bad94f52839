"""Datatypes of Sparkplug metrics, and what a value on the wire means under one.

Where the specification contradicts the reference implementation (Eclipse Tahu), this follows the
latter, as all peers do: UInt32 goes into `long_value`, small signed numbers are extended to 32
bits, arrays are little-endian. Spec: Sparkplug 3.0.0 sections 6.4.16 and 6.4.17.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import TypeVar

from aimass_shared.errors import MalformedMessageError

X = TypeVar("X", int, float, str, bytes)


class DataType(IntEnum):
    """Datatypes of metrics (6.4.16); arrays travel in bytes."""

    UNKNOWN = 0
    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATETIME = 13
    TEXT = 14
    UUID = 15
    DATASET = 16
    BYTES = 17
    FILE = 18
    TEMPLATE = 19
    PROPERTY_SET = 20
    PROPERTY_SET_LIST = 21
    INT8_ARRAY = 22
    INT16_ARRAY = 23
    INT32_ARRAY = 24
    INT64_ARRAY = 25
    UINT8_ARRAY = 26
    UINT16_ARRAY = 27
    UINT32_ARRAY = 28
    UINT64_ARRAY = 29
    FLOAT_ARRAY = 30
    DOUBLE_ARRAY = 31
    BOOLEAN_ARRAY = 32
    STRING_ARRAY = 33
    DATETIME_ARRAY = 34


T = DataType
Numbers = tuple[int | float, ...]
Value = int | float | bool | str | bytes | Numbers | None

_SIGNED = {T.INT8: 8, T.INT16: 16, T.INT32: 32, T.INT64: 64}
_UNSIGNED = {T.UINT8: 8, T.UINT16: 16, T.UINT32: 32, T.UINT64: 64, T.DATETIME: 64}
_REALS = frozenset({T.FLOAT, T.DOUBLE})
_TEXTS = frozenset({T.STRING, T.TEXT, T.UUID})
# struct letters of the arrays of numbers (6.4.17), always little-endian.
_ARRAYS = dict(zip(range(T.INT8_ARRAY, T.DOUBLE_ARRAY + 1), "bhiqBHIQfd", strict=True))
_ARRAYS[T.DATETIME_ARRAY] = "Q"
_OPAQUE = frozenset({T.BYTES, T.FILE, T.BOOLEAN_ARRAY, T.STRING_ARRAY})
# The field of the oneof `value` that we write; any is read.
FIELDS: Mapping[int, str] = {
    **dict.fromkeys((T.INT8, T.INT16, T.INT32, T.UINT8, T.UINT16), "int_value"),
    **dict.fromkeys((T.INT64, T.UINT32, T.UINT64, T.DATETIME), "long_value"),
    T.FLOAT: "float_value",
    T.DOUBLE: "double_value",
    T.BOOLEAN: "boolean_value",
    **dict.fromkeys(_TEXTS, "string_value"),
    **dict.fromkeys((*_ARRAYS, *_OPAQUE), "bytes_value"),
}
_MASK_32, _MASK_64 = (1 << 32) - 1, (1 << 64) - 1


def typed(value: Value, datatype: DataType) -> Value:
    """A value as its datatype means it: signs, truth values, arrays. Typed values stay the same.

    Raises:
        MalformedMessageError: the value cannot be one of the datatype.
    """
    if value is None or datatype == T.UNKNOWN:
        return value
    try:
        return _converted(value, datatype)
    except (TypeError, ValueError, struct.error) as error:
        raise MalformedMessageError(
            f"a {type(value).__name__} is no {datatype.name} of Sparkplug: {error}"
        ) from error


def _converted(value: Value, datatype: DataType) -> Value:
    if datatype in _REALS:
        return float(value if isinstance(value, int) else _checked(value, float))
    if datatype in _SIGNED or datatype in _UNSIGNED:
        return _integer(_checked(value, int), datatype)
    if datatype == T.BOOLEAN:
        return bool(_checked(value, int))
    if datatype in _TEXTS:
        return _checked(value, str)
    if datatype in _ARRAYS:
        return value if isinstance(value, tuple) else _unpack(_checked(value, bytes), datatype)
    return _checked(value, bytes)


def _integer(value: int, datatype: DataType) -> int:
    """Masked to its width first: peers extend small negative numbers to 8, 32 or 64 bits."""
    bits = _SIGNED.get(datatype)
    if bits is None:
        return value & ((1 << _UNSIGNED[datatype]) - 1)
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _unpack(raw: bytes, datatype: DataType) -> Numbers:
    letter = _ARRAYS[datatype]
    return struct.unpack(f"<{len(raw) // struct.calcsize(letter)}{letter}", raw)


def _checked(value: Value, kind: type[X]) -> X:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} needed")
    return value


def packed(value: Value, datatype: DataType) -> int | float | str | bytes:
    """A value that is not null as the wire has it, for the field of `FIELDS`.

    Raises:
        MalformedMessageError: the value is none of the datatype, or outside of its range.
    """
    converted = typed(value, datatype)
    if datatype not in FIELDS or converted is None:
        raise MalformedMessageError(f"a {datatype.name} of Sparkplug cannot be written")
    if isinstance(converted, tuple):
        return _pack(converted, datatype)
    if isinstance(converted, int) and not isinstance(converted, bool):
        if converted != value:
            raise MalformedMessageError(f"{value!r} is out of the range of {datatype.name}")
        # Negative numbers in two's complement of the field, not of the datatype.
        return converted & (_MASK_64 if FIELDS[datatype] == "long_value" else _MASK_32)
    return converted


def _pack(numbers: Numbers, datatype: DataType) -> bytes:
    try:
        return struct.pack(f"<{len(numbers)}{_ARRAYS[datatype]}", *numbers)
    except struct.error as error:
        raise MalformedMessageError(f"no {datatype.name} of Sparkplug: {error}") from error
