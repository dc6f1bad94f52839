"""Requests whose tensors were packed by the caller: what crosses a cut, or inputs in a codec.

    POST /v2/models/{model}/versions/{release}/infer
    parameters: {"slice": "w1.00-fp32-cut-relu_3-1f2e3a4b"}
    inputs: one tensor `activations` UINT8 [n], a message of `aimass_shared.activations`

With the name of a cut slice the message has what crosses and its tail answers; outputs that the
head gives already are the caller's to add. With the name of a whole slice it has all its inputs.
The release must be named: the head of one and the tail of another are no model.

Pure: `asked` and `told` are the caller's side, `slice_of` and `unpacked` that of who answers.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_shared.activations import ActivationCodec, decode, encode
from aimass_shared.errors import BadTensorError, MalformedMessageError
from aimass_shared.inference.codec import InferRequest, InferResponse
from aimass_shared.inference.tensors import Tensor

Arrays = Mapping[str, NDArray[Any]]

SLICE: Final = "slice"
ACTIVATIONS: Final = "activations"
MAX_UNPACKED_BYTES: Final = 64 << 20


class Destination(msgspec.Struct, frozen=True):
    """Where packed tensors go.

    Attributes:
        release: that the slice is of.
        slice: its name, such as `w1.00-fp32-cut-relu_3-1f2e3a4b`.
        codec: how the tensors are packed.
        early: outputs that its head gives: they are not asked for.
    """

    release: str
    slice: str
    codec: ActivationCodec = "none"
    early: tuple[str, ...] = ()


def asked(request: InferRequest, arrays: Arrays, to: Destination) -> InferRequest:
    """A request with its tensors packed, for a slice of a release.

    Args:
        request: as it came; its model, deadline, parameters and wanted outputs are kept.
        arrays: what crosses the cut, or all inputs of the graph of a whole slice.
        to: the slice.

    Raises:
        BadTensorError: the arrays do not travel, or not in that codec.
    """
    message = np.frombuffer(encode(arrays, to.codec), np.uint8)
    return msgspec.structs.replace(
        request,
        version=to.release,
        inputs={ACTIVATIONS: message},
        outputs=tuple(one for one in request.outputs if one.name not in to.early),
        parameters={**request.parameters, SLICE: to.slice},
    )


def told(request: InferRequest, response: InferResponse, early: Arrays) -> InferResponse:
    """The answer to a request: what the tail gave, and what the head had given before.

    Args:
        request: as it came, before `asked`.
        response: of the tail.
        early: outputs of the head.
    """
    wanted = {one.name for one in request.outputs}
    given = {**early, **response.outputs}
    return msgspec.structs.replace(
        response,
        id=request.id,
        outputs={name: array for name, array in given.items() if not wanted or name in wanted},
    )


def slice_of(request: InferRequest) -> str:
    """The slice whose packed tensors a request has; "" of a plain request.

    Raises:
        BadTensorError: the parameter is no name, or the request does not say of which release.
    """
    name = request.parameters.get(SLICE, "")
    if not isinstance(name, str):
        raise BadTensorError(f"parameter {SLICE} must be the name of a slice")
    if name and not request.version:
        raise BadTensorError(
            f"a request for slice {name} must name its release: POST"
            f" /v2/models/{request.model}/versions/RELEASE/infer"
        )
    return name


def unpacked(request: InferRequest, *, max_bytes: int = MAX_UNPACKED_BYTES) -> dict[str, Tensor]:
    """The tensors of a request for a slice.

    Args:
        request: of a caller that is not trusted.
        max_bytes: of all tensors together when unpacked.

    Raises:
        BadTensorError: its inputs are not one UINT8 tensor `activations` of one axis.
        MalformedMessageError: the message is none, was altered, or unpacks to too much.
    """
    message = request.inputs.get(ACTIVATIONS)
    if message is None or len(request.inputs) > 1 or message.dtype != np.uint8 or message.ndim != 1:
        raise BadTensorError(
            f"a request for a slice has one input, `{ACTIVATIONS}` UINT8 [n]; this one has"
            f" {', '.join(sorted(request.inputs)) or 'none'}"
        )
    try:
        return dict(decode(np.ascontiguousarray(message).data, max_decoded_bytes=max_bytes))
    except MalformedMessageError as error:
        raise MalformedMessageError(f"`{ACTIVATIONS}`: {error.detail}") from error
