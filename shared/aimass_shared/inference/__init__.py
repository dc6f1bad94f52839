"""The Open Inference Protocol v2, for the coordinator, the agent and their clients.

One implementation for both sides: `codec` for the bodies, `asgi` for a server, `parts` for what
crosses a cut. Which model answers, and where, is behind the `Backend` protocol.
"""

from aimass_shared.inference.asgi import Backend, InferenceApp
from aimass_shared.inference.codec import (
    HEADER_LENGTH,
    MAX_DEADLINE_MS,
    InferRequest,
    InferResponse,
    ModelMetadata,
    ServerMetadata,
    WantedOutput,
    check_outputs,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from aimass_shared.inference.tensors import (
    Parameter,
    Tensor,
    batch_size,
    check_inputs,
    datatype_of,
    dtype_of,
    example,
    shape_fits,
)

__all__ = [
    "HEADER_LENGTH",
    "MAX_DEADLINE_MS",
    "Backend",
    "InferRequest",
    "InferResponse",
    "InferenceApp",
    "ModelMetadata",
    "Parameter",
    "ServerMetadata",
    "Tensor",
    "WantedOutput",
    "batch_size",
    "check_inputs",
    "check_outputs",
    "datatype_of",
    "decode_request",
    "decode_response",
    "dtype_of",
    "encode_request",
    "encode_response",
    "example",
    "shape_fits",
]
