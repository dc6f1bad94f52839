"""What a loaded model looks like to the agent, and the check of what is fed to it.

Nothing here knows a runtime: `aimass_edge.runtime.onnx` and `paced` implement `Session`, and every
implementation passes the same contract tests.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadTensorError
from aimass_shared.manifest import TensorSpec

Arrays = Mapping[str, NDArray[Any]]
ANY_SIZE = -1
DTYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


class Session(Protocol):
    """A model that is loaded and can run, from several threads at once."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` needs, all of them."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` gives back."""

    @property
    def provider(self) -> str:
        """What executes the model, such as `CPUExecutionProvider`."""

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run the model once over one batch.

        Raises:
            BadTensorError: a name, a type or a shape is not what `inputs` says.
            ModelError: the runtime failed although the inputs were right.
            NoActiveModelError: the session was closed.
        """

    def close(self) -> None:
        """Free the model; a second call does nothing."""


def check_feeds(specs: tuple[TensorSpec, ...], feeds: Arrays) -> None:
    """Refuse feeds that do not fit: every input present, none besides, types and shapes right.

    A first axis of any size is the batch, which all such inputs share.

    Raises:
        BadTensorError: the detail says what was expected.
    """
    missing = [spec.name for spec in specs if spec.name not in feeds]
    unknown = sorted(set(feeds) - {spec.name for spec in specs})
    if missing or unknown:
        wanted = ", ".join(describe(spec) for spec in specs)
        raise BadTensorError(
            f"inputs are {wanted}; missing: {', '.join(missing) or 'none'},"
            f" unknown: {', '.join(unknown) or 'none'}"
        )
    for spec in specs:
        _check_tensor(spec, feeds[spec.name])
    _check_batch(specs, feeds)


def describe(spec: TensorSpec) -> str:
    """A tensor in one word for a person, such as `values FP32[?,16,52]`."""
    sizes = ",".join("?" if size == ANY_SIZE else str(size) for size in spec.shape)
    return f"{spec.name} {spec.datatype}[{sizes}]"


def _check_tensor(spec: TensorSpec, array: NDArray[Any]) -> None:
    if array.dtype != DTYPES[spec.datatype]:
        raise BadTensorError(f"expected {describe(spec)}, got elements of type {array.dtype}")
    fits = len(array.shape) == len(spec.shape) and all(
        want in (ANY_SIZE, have) for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits or 0 in array.shape:
        raise BadTensorError(f"expected {describe(spec)}, got shape {list(array.shape)}")


def _check_batch(specs: tuple[TensorSpec, ...], feeds: Arrays) -> None:
    sizes = {s.name: feeds[s.name].shape[0] for s in specs if s.shape[:1] == (ANY_SIZE,)}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise BadTensorError(f"inputs must have the same batch, but {told}")
