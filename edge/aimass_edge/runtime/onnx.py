"""ONNX Runtime behind the `Session` protocol: loading, providers, and its many exceptions.

It decides nothing about when or how often a model runs. One intra-op thread is right for small
models (measured: knowledge of the project on serving); the memory arena is off because batches vary
and devices are short of memory.
"""

import logging
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from aimass_edge.runtime.session import ANY_SIZE, Arrays, check_feeds
from aimass_shared.errors import (
    BadTensorError,
    ModelError,
    ModelLoadFailedError,
    NoActiveModelError,
)
from aimass_shared.manifest import TensorSpec

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
LOG_FATAL = 4
DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
}
# ONNX Runtime's exceptions have no common base, and their set differs between its versions.
ORT_ERRORS: tuple[type[Exception], ...] = (
    *(
        kind
        for kind in vars(ort_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    MemoryError,
    RuntimeError,
    ValueError,
)


class OnnxSession:
    """A model in ONNX Runtime. Loads in the constructor, so make it in a worker thread."""

    def __init__(self, path: Path, *, providers: tuple[str, ...], threads: int) -> None:
        """Load `path` for the first of `providers` that this build of ONNX Runtime has.

        Raises:
            ModelLoadFailedError: the file is missing, damaged or not supported.
        """
        usable = usable_providers(providers)
        if not path.is_file():
            raise ModelLoadFailedError(f"there is no model file {path}")
        try:
            session = onnxruntime.InferenceSession(
                str(path), _options(threads), providers=list(usable)
            )
        except ORT_ERRORS as error:
            raise ModelLoadFailedError(f"ONNX Runtime refused {path.name}: {error}") from error
        self._path = path
        self._session = session
        self._inputs = tuple(_spec(path, node) for node in session.get_inputs())
        self._outputs = tuple(_spec(path, node) for node in session.get_outputs())
        self._provider = str(session.get_providers()[0])

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` needs."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` gives back."""
        return self._outputs

    @property
    def provider(self) -> str:
        """The execution provider that was chosen."""
        return self._provider

    @property
    def waits(self) -> bool:
        """An accelerator is waited for; a processor computes."""
        return self._provider != CPU

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run once; see `Session.run` for what is raised."""
        session = self._session
        if session is None:
            raise NoActiveModelError(f"{self._path.name} was closed; open it again")
        check_feeds(self._inputs, feeds)
        try:
            results = session.run(None, dict(feeds))
        except ort_state.InvalidArgument as error:
            raise BadTensorError(f"{self._path.name} refused its inputs: {error}") from error
        except ORT_ERRORS as error:
            raise ModelError(f"{self._path.name} failed in ONNX Runtime: {error}") from error
        return {spec.name: array for spec, array in zip(self._outputs, results, strict=True)}

    def close(self) -> None:
        """Free the model; runs that are under way finish first."""
        self._session = None


def usable_providers(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `wanted` that this build has, then the CPU, which it always has.

    ONNX Runtime falls back by itself, but only with a Python warning that a service never sees.
    """
    available = onnxruntime.get_available_providers()
    missing = [name for name in wanted if name not in available]
    if missing:
        log.warning(
            "ONNX Runtime has no %s here (it has %s)", ", ".join(missing), ", ".join(available)
        )
    found = [name for name in wanted if name in available]
    return tuple(dict.fromkeys([*found, CPU]))


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    # What goes wrong is raised; ONNX Runtime would also print it on stderr.
    options.log_severity_level = LOG_FATAL
    return options


def _spec(path: Path, node: onnxruntime.NodeArg) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        raise ModelLoadFailedError(f"{path.name}: tensor {node.name} is a {node.type}, not numeric")
    shape = tuple(size if isinstance(size, int) else ANY_SIZE for size in node.shape)
    return TensorSpec(name=node.name, datatype=datatype, shape=shape)
