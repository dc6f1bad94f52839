"""Tensors on the wire of the Open Inference Protocol v2: as JSON numbers and texts, or as bytes.

Only tensors: the requests and responses that carry them are in `codec`, the bytes of texts are in
`texts`.
Source: github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and
the binary tensor data extension of Triton.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import GenericAlias
from typing import TypeAlias, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadTensorError
from aimass_shared.inference import texts
from aimass_shared.inference.texts import TEXT
from aimass_shared.manifest import BYTES, TensorSpec

Tensor: TypeAlias = NDArray[np.generic]
Parameter: TypeAlias = str | int | float | bool

MAX_TENSORS = 64
MAX_RANK = 8
_JSON_KINDS = {"b": bool, "i": int, "u": int, "f": float, "O": str}
_DTYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: TEXT,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class WireTensor(msgspec.Struct, frozen=True):
    """A tensor in the JSON part of a body; `data` stays unread until its type is known."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Parameter] = {}
    data: msgspec.Raw = msgspec.Raw(b"")


def dtype_of(datatype: str) -> np.dtype[np.generic]:
    """The numpy type of a datatype of the protocol, little-endian; BYTES are objects (`str`).

    Raises:
        BadTensorError: it is not one of those that are supported.
    """
    dtype = _DTYPES.get(datatype)
    if dtype is None:
        raise BadTensorError(f"datatype {datatype} is not supported; use one of {_supported()}")
    return dtype


def datatype_of(array: Tensor) -> str:
    """The protocol's name for the type of an array.

    Raises:
        BadTensorError: the protocol has none that is supported.
    """
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise BadTensorError(f"an array of {array.dtype} cannot be sent; use {_supported()}")
    return name


def _supported() -> str:
    return ", ".join(_DTYPES)


def read(tensors: Sequence[WireTensor], binary: memoryview) -> dict[str, Tensor]:
    """Read all tensors of a body; arrays over `binary` are views, and read-only.

    Args:
        tensors: from the JSON part.
        binary: the bytes after the JSON part, empty if there are none.

    Raises:
        BadTensorError: names the tensor, and what is wrong with it.
    """
    if len(tensors) > MAX_TENSORS:
        raise BadTensorError(f"{len(tensors)} tensors in one body, the limit is {MAX_TENSORS}")
    arrays: dict[str, Tensor] = {}
    offset = 0
    for tensor in tensors:
        if tensor.name in arrays:
            raise BadTensorError(f"tensor `{tensor.name}` comes twice")
        size = _binary_size(tensor)
        chunk = None if size is None else binary[offset : offset + size]
        arrays[tensor.name] = _array(tensor, chunk)
        offset += size or 0
    if offset != len(binary):
        raise BadTensorError(
            f"the body has {len(binary)} bytes of tensor data, the tensors claim {offset}"
        )
    return arrays


def _binary_size(tensor: WireTensor) -> int | None:
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise BadTensorError(f"tensor `{tensor.name}`: binary_data_size must be a whole number")
    return size


def _array(tensor: WireTensor, chunk: memoryview | None) -> Tensor:
    if len(tensor.shape) > MAX_RANK or any(size < 0 for size in tensor.shape):
        raise BadTensorError(
            f"tensor `{tensor.name}`: shape {list(tensor.shape[: MAX_RANK + 1])} must have at most"
            f" {MAX_RANK} dimensions, none negative"
        )
    dtype = dtype_of(tensor.datatype)
    found = _from_json(tensor, dtype) if chunk is None else _from_bytes(tensor, dtype, chunk)
    try:
        return found.reshape(tensor.shape)
    except ValueError as error:  # numpy limits axes even where another one is 0
        raise BadTensorError(
            f"tensor `{tensor.name}`: shape {list(tensor.shape)} is too large"
        ) from error


def _from_bytes(tensor: WireTensor, dtype: np.dtype[np.generic], chunk: memoryview) -> Tensor:
    if memoryview(tensor.data):
        raise BadTensorError(f"tensor `{tensor.name}` has both data and binary_data_size")
    if dtype == TEXT:
        _check_whole(tensor, chunk)
        count = math.prod(tensor.shape)
        return texts.unpacked(tensor.name, count, chunk)
    expected = math.prod(tensor.shape) * dtype.itemsize
    claimed = tensor.parameters["binary_data_size"]
    if not expected == claimed == len(chunk):
        raise BadTensorError(
            f"tensor `{tensor.name}`: {tensor.datatype} of shape {list(tensor.shape)} is"
            f" {expected} bytes; binary_data_size says {claimed}, the body has {len(chunk)}"
        )
    if dtype.kind == "b":  # any other byte than 0 and 1 would be neither true nor false to numpy
        truth: Tensor = np.frombuffer(chunk, np.uint8) != 0
        return truth
    array = np.frombuffer(chunk, dtype)
    return array if array.flags.aligned else array.copy()  # runtimes want aligned memory


def _check_whole(tensor: WireTensor, chunk: memoryview) -> None:
    claimed = tensor.parameters["binary_data_size"]
    if claimed != len(chunk):
        raise BadTensorError(
            f"tensor `{tensor.name}`: binary_data_size says {claimed}, the body has {len(chunk)}"
        )


def _from_json(tensor: WireTensor, dtype: np.dtype[np.generic]) -> Tensor:
    raw = memoryview(tensor.data)
    if not raw:
        raise BadTensorError(f"tensor `{tensor.name}` has neither data nor binary_data_size")
    depth = _depth(raw)
    if depth not in {1, len(tensor.shape)}:
        raise BadTensorError(
            f"tensor `{tensor.name}`: data must be flat or nested like shape {list(tensor.shape)}"
        )
    array = _parsed(tensor, dtype, (raw, depth))
    flat = (math.prod(tensor.shape),)
    if array.shape not in {flat, tensor.shape}:
        raise BadTensorError(
            f"tensor `{tensor.name}`: shape {list(tensor.shape)} does not fit data of shape"
            f" {list(array.shape)}"
        )
    return array


def _parsed(
    tensor: WireTensor, dtype: np.dtype[np.generic], data: tuple[memoryview, int]
) -> Tensor:
    raw, depth = data
    try:
        values = _decoder(dtype.kind, depth).decode(raw)
        with np.errstate(over="ignore"):  # what does not fit becomes infinite: refused below
            array: Tensor = np.array(values, dtype)
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        raise BadTensorError(f"tensor `{tensor.name}`: {tensor.datatype} data: {error}") from error
    if dtype.kind == "f" and not np.isfinite(array.astype(np.float64, copy=False)).all():
        raise BadTensorError(f"tensor `{tensor.name}`: a value is too large for {tensor.datatype}")
    if dtype == TEXT and not all(isinstance(text, str) for text in array.flat):
        raise BadTensorError(f"tensor `{tensor.name}`: its lists differ in length")
    return array


def _depth(raw: memoryview) -> int:
    """How many lists the first number is in, at most one more than any tensor may have."""
    head = bytes(raw[: 16 * MAX_RANK]).split()
    text = b"".join(head)[: MAX_RANK + 1]
    return len(text) - len(text.lstrip(b"["))


@lru_cache(maxsize=64)
def _decoder(kind: str, depth: int) -> "msgspec.json.Decoder[object]":
    annotation: object = _JSON_KINDS[kind]
    for _ in range(depth):
        annotation = GenericAlias(list, (annotation,))
    return msgspec.json.Decoder(cast("type[object]", annotation))


def head(name: str, array: Tensor, *, binary: bool) -> dict[str, object]:
    """The JSON part of a tensor; its bytes follow separately if `binary`.

    Raises:
        BadTensorError: the type is not supported, or JSON cannot carry a value.
    """
    result: dict[str, object] = {
        "name": name,
        "datatype": datatype_of(array),
        "shape": array.shape,
    }
    size = len(texts.packed(name, array.flat)) if array.dtype == TEXT else array.nbytes
    if binary:
        return {**result, "parameters": {"binary_data_size": size}}
    if array.dtype.kind == "f" and not np.isfinite(array.astype(np.float64, copy=False)).all():
        raise BadTensorError(
            f"tensor `{name}` is not finite, which JSON cannot carry; ask for binary"
        )
    return {**result, "data": array.ravel().tolist()}


def raw_bytes(name: str, array: Tensor) -> bytes:
    """The bytes of a tensor: row-major, little-endian.

    Raises:
        BadTensorError: it is of BYTES, and an element is no text.
    """
    if array.dtype == TEXT:
        return texts.packed(name, array.flat)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def example(specs: Sequence[TensorSpec], batch: int) -> dict[str, Tensor]:
    """Zeros and empty texts as a model takes them; `batch` stands in for each size that is open."""
    return {
        spec.name: np.full(
            [batch if size < 0 else size for size in spec.shape],
            "" if spec.datatype == BYTES else 0,
            dtype_of(spec.datatype),
        )
        for spec in specs
    }


def check_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, Tensor]) -> None:
    """Check tensors against what a model expects; -1 in a spec is any size.

    Raises:
        BadTensorError: names what is expected.
    """
    if inputs.keys() != {spec.name for spec in specs}:
        raise BadTensorError(
            f"inputs {sorted(inputs)} are not those of the model: {_all_described(specs)}"
        )
    for spec in specs:
        array = inputs[spec.name]
        if datatype_of(array) != spec.datatype or not shape_fits(spec, array.shape):
            raise BadTensorError(
                f"input `{spec.name}` is {datatype_of(array)} {list(array.shape)},"
                f" expected {spec.datatype} {list(spec.shape)} (-1 is any size)"
            )


def batch_size(inputs: Mapping[str, Tensor]) -> int:
    """How many windows inputs hold, whose first dimension is the batch.

    Raises:
        BadTensorError: the inputs do not agree, or hold none.
    """
    sizes = {name: array.shape[:1] for name, array in inputs.items()}
    found = set(sizes.values())
    if len(found) != 1 or found <= {(), (0,)}:
        counted = ", ".join(f"`{name}` {list(size)}" for name, size in sizes.items())
        raise BadTensorError(f"all inputs must hold the same windows, at least one: {counted}")
    (size,) = found.pop()
    return int(size)


def shape_fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    """Whether a shape is one that a spec allows; -1 in the spec is any size."""
    return len(shape) == len(spec.shape) and all(
        want in {-1, size} for want, size in zip(spec.shape, shape, strict=True)
    )


def _all_described(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"`{spec.name}` {spec.datatype} {list(spec.shape)}" for spec in specs)
