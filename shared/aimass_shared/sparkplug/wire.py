"""Protobuf messages of the Sparkplug payload, built at import from a field table.

No generated code: protoc's Python output refuses to load on an older runtime, and flwr, onnx and
tuf pin different ones. Field numbers and types are those of Sparkplug 3.0.0 section 6.4.1. The
protocols tell mypy what a message has; meaning (signs, datatypes, quality) is in `payload`.
"""

from collections.abc import MutableSequence
from typing import Protocol, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "aimass.sparkplug"
_TYPES = {
    "u32": _Field.TYPE_UINT32,
    "u64": _Field.TYPE_UINT64,
    "f32": _Field.TYPE_FLOAT,
    "f64": _Field.TYPE_DOUBLE,
    "bool": _Field.TYPE_BOOL,
    "str": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}
_SCALARS = (
    "int_value u32, long_value u64, float_value f32, double_value f64, boolean_value bool,"
    " string_value str"
)
# message -> fields "name type" numbered from 1 ("*" = repeated), then those of its `oneof value`.
_TABLE: dict[str, tuple[str, str]] = {
    "Payload": ("timestamp u64, metrics *Metric, seq u64, uuid str, body bytes", ""),
    "Metric": (
        (
            "name str, alias u64, timestamp u64, datatype u32, is_historical bool,"
            " is_transient bool, is_null bool, metadata MetaData, properties PropertySet"
        ),
        _SCALARS + ", bytes_value bytes, dataset_value DataSet, template_value Template",
    ),
    "MetaData": (
        (
            "is_multi_part bool, content_type str, size u64, seq u64, file_name str,"
            " file_type str, md5 str, description str"
        ),
        "",
    ),
    "PropertySet": ("keys *str, values *PropertyValue", ""),
    "PropertyValue": (
        "type u32, is_null bool",
        _SCALARS + ", propertyset_value PropertySet, propertysets_value PropertySetList",
    ),
    "PropertySetList": ("propertyset *PropertySet", ""),
    "DataSet": ("num_of_columns u64, columns *str, types *u32, rows *Row", ""),
    "Row": ("elements *DataSetValue", ""),
    "DataSetValue": ("", _SCALARS),
    "Template": (
        "version str, metrics *Metric, parameters *Parameter, template_ref str, is_definition bool",
        "",
    ),
    "Parameter": ("name str, type u32", _SCALARS),
}

WireValue = int | float | bool | str | bytes


class WireMessage(Protocol):
    """What all messages have."""

    def SerializeToString(self) -> bytes: ...  # noqa: D102, N802 - protobuf's name
    def HasField(self, name: str) -> bool: ...  # noqa: D102, N802 - protobuf's name
    def WhichOneof(self, name: str) -> str | None: ...  # noqa: D102, N802 - protobuf's name


class WirePropertyValue(WireMessage, Protocol):
    """A value of a property."""

    type: int
    int_value: int
    string_value: str


class _PropertyValues(Protocol):
    def add(self, *, type: int) -> WirePropertyValue: ...  # noqa: A002 - the field's name
    def __getitem__(self, index: int) -> WirePropertyValue: ...
    def __len__(self) -> int: ...


class WireProperties(WireMessage, Protocol):
    """Keys and values of the same index."""

    keys: MutableSequence[str]
    values: _PropertyValues


class WireMetric(WireMessage, Protocol):
    """A metric; the value is in one field of the oneof `value`."""

    name: str
    alias: int
    timestamp: int
    datatype: int
    is_historical: bool
    is_transient: bool
    is_null: bool
    properties: WireProperties


class _Metrics(Protocol):
    def add(self) -> WireMetric: ...
    def __getitem__(self, index: int) -> WireMetric: ...
    def __len__(self) -> int: ...


class WirePayload(WireMessage, Protocol):
    """A payload."""

    timestamp: int
    seq: int
    metrics: _Metrics


class _PayloadClass(Protocol):
    def __call__(self) -> WirePayload: ...
    def FromString(self, raw: bytes) -> WirePayload: ...  # noqa: N802 - protobuf's name


def _add_field(
    message: descriptor_pb2.DescriptorProto, number: int, spec: str, *, oneof: bool
) -> None:
    name, kind = spec.split()
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind.startswith("*"):
        field.label, kind = _Field.LABEL_REPEATED, kind[1:]
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    if oneof:
        field.oneof_index = 0


def _add_message(file: descriptor_pb2.FileDescriptorProto, name: str) -> None:
    plain, values = ([part for part in spec.split(", ") if part] for spec in _TABLE[name])
    message = file.message_type.add(name=name)
    if values:
        message.oneof_decl.add(name="value")
    for number, spec in enumerate(plain + values, start=1):
        _add_field(message, number, spec, oneof=number > len(plain))


def _build() -> _PayloadClass:
    file = descriptor_pb2.FileDescriptorProto(
        name="aimass/sparkplug.proto", package=_PACKAGE, syntax="proto2"
    )
    for name in _TABLE:
        _add_message(file, name)
    # A pool of its own: the default one may hold another library's Sparkplug messages.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.Payload")
    return cast("_PayloadClass", message_factory.GetMessageClass(descriptor))


PayloadMessage = _build()
