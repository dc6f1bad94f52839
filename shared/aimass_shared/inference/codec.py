"""Requests and responses of the Open Inference Protocol v2, for servers and for clients.

A body is JSON, or JSON followed by the bytes of tensors; then the header
`Inference-Header-Content-Length` says where the JSON ends. No I/O, no HTTP: that is `asgi`.
"""

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from aimass_shared.errors import BadTensorError, MalformedMessageError
from aimass_shared.inference import tensors
from aimass_shared.inference.tensors import Parameter, Tensor, WireTensor
from aimass_shared.manifest import TensorSpec

HEADER_LENGTH = "inference-header-content-length"
MAX_DEADLINE_MS = 600_000
_ALIGNMENT = 8
Headers: TypeAlias = dict[str, str]


class WantedOutput(msgspec.Struct, frozen=True):
    """An output that a request asks for. `binary` None: as the request says for all."""

    name: str
    binary: bool | None = None


class InferRequest(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A request to run a model.

    Attributes:
        version: "" is the active one.
        deadline_ms: time from arrival to answer; None leaves it to the server.
        outputs: those that are wanted, all if empty.
        binary_output: whether outputs come as bytes, unless they say otherwise themselves.
        parameters: as received or to be sent, beside those that have a field here.
    """

    model: str
    inputs: Mapping[str, Tensor]
    version: str = ""
    id: str = ""
    deadline_ms: int | None = None
    outputs: tuple[WantedOutput, ...] = ()
    binary_output: bool = False
    parameters: Mapping[str, Parameter] = {}


class InferResponse(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a model answered. `parameters` hold `place` ("local", "cloud") and `service_ms`."""

    model: str
    version: str
    outputs: Mapping[str, Tensor]
    id: str = ""
    parameters: Mapping[str, Parameter] = {}


class ModelMetadata(msgspec.Struct, frozen=True):
    """What a model takes and gives; -1 in a shape is any size."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class ServerMetadata(msgspec.Struct, frozen=True):
    """Who answers, and which extensions of the protocol it knows."""

    name: str
    version: str
    extensions: tuple[str, ...] = ("binary_tensor_data",)


class _WireOutput(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Parameter] = {}


class _WireRequest(msgspec.Struct, frozen=True):
    inputs: tuple[WireTensor, ...]
    id: str = ""
    parameters: dict[str, Parameter] = {}
    outputs: tuple[_WireOutput, ...] = ()


class _WireResponse(msgspec.Struct, frozen=True):
    model_name: str
    outputs: tuple[WireTensor, ...]
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Parameter] = {}


_REQUESTS = msgspec.json.Decoder(_WireRequest)
_RESPONSES = msgspec.json.Decoder(_WireResponse)


def decode_request(
    body: bytes, header_length: int | None, *, model: str, version: str = ""
) -> InferRequest:
    """Read the body of an infer request; binary inputs are views of `body`.

    Args:
        body: JSON, or JSON and the bytes of tensors.
        header_length: bytes of JSON; None if all of the body is JSON.
        model: from the path.
        version: from the path, "" if it has none.

    Raises:
        MalformedMessageError: the JSON part is no request.
        BadTensorError: a tensor is not what it claims to be.
    """
    json, binary = _split(body, header_length)
    try:
        wire = _REQUESTS.decode(json)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(f"infer request does not decode: {error}") from error
    rest = dict(wire.parameters)
    return InferRequest(
        model=model,
        version=version,
        id=wire.id,
        inputs=tensors.read(wire.inputs, binary),
        deadline_ms=_deadline_ms(rest),
        binary_output=_flag(rest, "binary_data_output") or False,
        outputs=tuple(
            WantedOutput(o.name, _flag(o.parameters, "binary_data")) for o in wire.outputs
        ),
        parameters=rest,
    )


def decode_response(body: bytes, header_length: int | None) -> InferResponse:
    """Read the body of an infer response; binary outputs are views of `body`.

    Raises:
        MalformedMessageError: the JSON part is no response.
        BadTensorError: a tensor is not what it claims to be.
    """
    json, binary = _split(body, header_length)
    try:
        wire = _RESPONSES.decode(json)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(f"infer response does not decode: {error}") from error
    return InferResponse(
        model=wire.model_name,
        version=wire.model_version,
        id=wire.id,
        outputs=tensors.read(wire.outputs, binary),
        parameters=wire.parameters,
    )


def _split(body: bytes, header_length: int | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header_length is None:
        return view, view[:0]
    if not 0 <= header_length <= len(body):
        raise MalformedMessageError(
            f"{HEADER_LENGTH} is {header_length}, the body has {len(body)} bytes"
        )
    return view[:header_length], view[header_length:]


def _deadline_ms(parameters: dict[str, Parameter]) -> int | None:
    value = parameters.pop("deadline_ms", None)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_DEADLINE_MS:
        raise MalformedMessageError(
            f"parameter deadline_ms must be a whole number from 1 to {MAX_DEADLINE_MS}"
        )
    return value


def _flag(parameters: dict[str, Parameter], name: str) -> bool | None:
    value = parameters.pop(name, None)
    if value is None or isinstance(value, bool):
        return value
    raise MalformedMessageError(f"parameter {name} must be true or false")


def encode_request(request: InferRequest) -> tuple[bytes, Headers]:
    """Body and headers of a request, with all inputs as bytes.

    Raises:
        BadTensorError: an input has a type that cannot be sent.
    """
    parameters: dict[str, Parameter] = dict(request.parameters)
    if request.binary_output:
        parameters["binary_data_output"] = True
    if request.deadline_ms is not None:
        parameters["deadline_ms"] = request.deadline_ms
    json: dict[str, object] = {
        "inputs": [tensors.head(name, a, binary=True) for name, a in request.inputs.items()]
    }
    if request.outputs:
        json["outputs"] = [_wanted(output) for output in request.outputs]
    body, length = _joined(
        json | _optional(request.id, parameters),
        [tensors.raw_bytes(name, array) for name, array in request.inputs.items()],
    )
    return body, _headers(length)


def _wanted(output: WantedOutput) -> dict[str, object]:
    if output.binary is None:
        return {"name": output.name}
    return {"name": output.name, "parameters": {"binary_data": output.binary}}


def encode_response(request: InferRequest, response: InferResponse) -> tuple[bytes, int | None]:
    """Body of a response as the request wants it, and the length of its JSON if bytes follow.

    Raises:
        BadTensorError: an output is wanted that the model does not have, or cannot be sent.
    """
    chosen = _chosen(request, response.outputs)
    json: dict[str, object] = {
        "model_name": response.model,
        "model_version": response.version,
        "outputs": [
            tensors.head(name, response.outputs[name], binary=binary)
            for name, binary in chosen.items()
        ],
    }
    chunks = [
        tensors.raw_bytes(name, response.outputs[name]) for name, binary in chosen.items() if binary
    ]
    return _joined(json | _optional(response.id or request.id, response.parameters), chunks)


def _chosen(request: InferRequest, outputs: Mapping[str, Tensor]) -> dict[str, bool]:
    """The outputs to send, and whether as bytes."""
    if not request.outputs:
        return dict.fromkeys(outputs, request.binary_output)
    check_outputs(request, tuple(outputs))
    return {
        wanted.name: request.binary_output if wanted.binary is None else wanted.binary
        for wanted in request.outputs
    }


def check_outputs(request: InferRequest, names: tuple[str, ...]) -> None:
    """Check before a run that a model has all outputs that are wanted.

    Raises:
        BadTensorError: names those that it has.
    """
    unknown = [wanted.name for wanted in request.outputs if wanted.name not in names]
    if unknown:
        raise BadTensorError(f"no outputs {unknown}; the model has {', '.join(sorted(names))}")


def _optional(identity: str, parameters: Mapping[str, Parameter]) -> dict[str, object]:
    result: dict[str, object] = {}
    if identity:
        result["id"] = identity
    if parameters:
        result["parameters"] = dict(parameters)
    return result


def _joined(json: dict[str, object], chunks: list[bytes]) -> tuple[bytes, int | None]:
    head = msgspec.json.encode(json)
    if not chunks:
        return head, None
    # Spaces after JSON are JSON; with them the first tensor can be used where it lies.
    head += b" " * (-len(head) % _ALIGNMENT)
    return b"".join([head, *chunks]), len(head)


def _headers(length: int | None) -> Headers:
    if length is None:
        return {"content-type": "application/json"}
    return {"content-type": "application/octet-stream", HEADER_LENGTH: str(length)}
