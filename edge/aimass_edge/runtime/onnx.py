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

from aimass_edge.config import BoardSettings
from aimass_edge.runtime.backends import CPU, CUDA, NATIVE, TENSORRT
from aimass_edge.runtime.engines import bound
from aimass_edge.runtime.formats import formats_of
from aimass_edge.runtime.session import ANY_SIZE, Arrays, check_feeds
from aimass_shared.errors import (
    BadTensorError,
    ModelError,
    ModelLoadFailedError,
    NoActiveModelError,
)
from aimass_shared.manifest import TensorSpec

log = logging.getLogger(__name__)

LOG_FATAL = 4
MIB = 1 << 20
ENGINES = "onnxruntime"
"""Folder of the engines of ONNX Runtime's TensorRT provider, within that of engines."""
Options = dict[str, str]
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

    def __init__(self, path: Path, board: BoardSettings, *, profile_to: str = "") -> None:
        """Load `path` for the first of `board.providers` that this build of ONNX Runtime has.

        Args:
            path: the ONNX file.
            board: providers, threads, memory.
            profile_to: start of the name of a file with the time of every node; "" for none.

        Raises:
            ModelLoadFailedError: the file is missing, damaged or not supported.
        """
        usable = usable_providers(board.providers)
        if not path.is_file():
            raise ModelLoadFailedError(f"there is no model file {path}")
        options = _options(board.threads)
        if profile_to:
            options.enable_profiling, options.profile_file_prefix = True, profile_to
        try:
            session = onnxruntime.InferenceSession(
                str(path),
                options,
                providers=[(n, provider_options(n, path, board)) for n in usable],
            )
        except ORT_ERRORS as error:
            raise ModelLoadFailedError(f"ONNX Runtime refused {path.name}: {error}") from error
        self._path = path
        self._session = session
        self._inputs = tuple(_spec(path, node) for node in session.get_inputs())
        self._outputs = tuple(_spec(path, node) for node in session.get_outputs())
        self._provider = str(session.get_providers()[0])
        self._metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map

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
    def metadata(self) -> dict[str, str]:
        """What its author wrote into the file."""
        return dict(self._metadata)

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

    def end_profiling(self) -> Path:
        """Write the times of all nodes down; where they are (one JSON list of events)."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Free the model; runs that are under way finish first."""
        self._session = None


def usable_providers(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `wanted` that this build has, then the CPU, which it always has.

    ONNX Runtime falls back by itself, but only with a Python warning that a service never sees.
    """
    available = onnxruntime.get_available_providers()
    asked = [name for name in wanted if name != NATIVE]
    missing = [name for name in asked if name not in available]
    if missing:
        log.warning(
            "ONNX Runtime has no %s here (it has %s)", ", ".join(missing), ", ".join(available)
        )
    found = [name for name in asked if name in available]
    return tuple(dict.fromkeys([*found, CPU]))


def provider_options(name: str, path: Path, board: BoardSettings) -> Options:
    """What a provider is told; those of GPUs were never run here (docs/devices.md).

    Raises:
        ModelLoadFailedError: the file cannot be read as ONNX.
    """
    if name == CUDA:
        # Its arena doubles by default, and its search for the fastest convolution takes seconds.
        return {
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "gpu_mem_limit": str(int(board.memory_mib * MIB)),
        }
    return _tensorrt_options(path, board) if name == TENSORRT else {}


def _tensorrt_options(path: Path, board: BoardSettings) -> Options:
    """Engines are kept, and built once for any batch instead of again for each new one."""
    engines, formats = board.engines, formats_of(path)
    folder = Path(engines.folder) / ENGINES
    folder.mkdir(parents=True, exist_ok=True)
    bound(folder, engines.kept)
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_max_workspace_size": str(engines.workspace_mib * MIB),
        # Its networks are typed weakly: without these, such layers run in fp32.
        "trt_fp16_enable": str(int("fp16" in formats)),
        "trt_int8_enable": str(int("int8" in formats)),
    }
    for end, windows in (("min", 1), ("opt", 1), ("max", engines.most_batch)):
        shapes = _shapes(path, windows)
        if shapes:
            options[f"trt_profile_{end}_shapes"] = shapes
    return options


def _shapes(path: Path, windows: int) -> str:
    """All inputs with so many windows, as the provider writes them; "" where sizes are fixed."""
    session = onnxruntime.InferenceSession(str(path), _options(1), providers=[CPU])
    specs = [_spec(path, node) for node in session.get_inputs()]
    if not any(ANY_SIZE in spec.shape for spec in specs):
        return ""
    sizes = {s.name: [windows if size < 0 else size for size in s.shape] for s in specs}
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in sizes.items())


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
