"""TensorRT itself behind the `Session` protocol: an engine of an ONNX file, built on this device.

One file for both packages, whose names are the same: `tensorrt` (JetPack's, TensorRT 10) and
`tensorrt_rtx` (GPUs of workstations). The network is strongly typed: the precision is that of the
ONNX file's types. Building takes minutes on a small board, so it happens in a child process
(`building`) with a deadline, once for each engine (`engines`).

What was run: parsing, building, keeping and refusing, with tensorrt_rtx without a GPU. Loading an
engine and running it need a GPU and were never run (docs/devices.md).
"""

import importlib
from pathlib import Path
from typing import Any

from aimass_edge.config import EngineSettings
from aimass_edge.runtime.cuda import Cuda, open_cuda
from aimass_edge.runtime.engines import EngineKey, file_sha256
from aimass_edge.runtime.executing import EngineSession
from aimass_edge.runtime.formats import formats_of
from aimass_edge.runtime.session import ANY_SIZE, describe
from aimass_shared.errors import ModelError, ModelLoadFailedError
from aimass_shared.manifest import TensorSpec

RTX = "tensorrt_rtx"
PACKAGES = ("tensorrt", RTX)
INSTALL = (
    "install TensorRT for Python: on a Jetson `apt install python3-libnvinfer` and an environment"
    " made with --system-site-packages; elsewhere `pip install tensorrt-rtx`"
)
DATATYPES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "BOOL": "BOOL",
}
MIB = 1 << 20
REASON_CHARS = 300


def package() -> Any:  # noqa: ANN401  two packages without types, of the same names
    """The first of both packages that can be imported.

    Raises:
        ModelLoadFailedError: there is none; the detail says what to install.
    """
    reasons = []
    for name in PACKAGES:
        try:
            found = importlib.import_module(name)
        except (ImportError, OSError) as error:
            reasons.append(f"{name}: {error}")
            continue
        if hasattr(found, "Builder"):
            return found
        reasons.append(f"{name}: not NVIDIA's package")
    raise ModelLoadFailedError(f"TensorRT is not there ({'; '.join(reasons)}): {INSTALL}")


def version() -> str:
    """Package and version, such as `tensorrt 10.3.0`.

    Raises:
        ModelLoadFailedError: there is none.
    """
    found = package()
    return f"{found.__name__} {found.__version__}"


def why_not() -> str:
    """Why TensorRT cannot be used here; "" where it can."""
    try:
        trt, cuda = package(), open_cuda()
        if trt.__name__ == RTX:
            _target(trt, cuda.capability())
    except (ModelLoadFailedError, ModelError) as error:
        return error.detail
    return ""


def key_of(model: Path, engines: EngineSettings, *, capability: str) -> EngineKey:
    """What the engine of a file follows from, on a GPU of a compute capability.

    Raises:
        ModelLoadFailedError: there is no TensorRT, or the file cannot be read.
    """
    trt = package()
    try:
        sha256 = file_sha256(model)
    except OSError as error:
        raise ModelLoadFailedError(f"{model} cannot be read: {error.strerror}") from error
    return EngineKey(
        model=sha256,
        formats=formats_of(model),
        package=trt.__name__,
        version=str(trt.__version__),
        capability=capability,
        most_batch=engines.most_batch,
        workspace_mib=engines.workspace_mib,
    )


def build(model: Path, engines: EngineSettings, *, capability: str = "") -> bytes:
    """Build the engine of an ONNX file; takes seconds to minutes, and may crash this process.

    Args:
        model: the file.
        engines: batch and memory.
        capability: build for this one; "" for the GPU that is here. `tensorrt_rtx` builds for
            others without a GPU, `tensorrt` only for its own.

    Raises:
        ModelLoadFailedError: TensorRT refuses it; the detail names the operator.
    """
    trt = package()
    log = _log(trt)
    builder = trt.Builder(log)
    if builder is None:
        raise ModelLoadFailedError(f"TensorRT does not start: {log.last}")
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    # By path: weights that lie in files beside it are found from there.
    if not parser.parse_from_file(str(model)):
        raise ModelLoadFailedError(f"TensorRT refuses {model.name}: {_refusal(parser, log)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, engines.workspace_mib * MIB)
    _add_profile(builder, network, config=config, most_batch=engines.most_batch)
    if capability and trt.__name__ == RTX:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_target(trt, capability), 0)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise ModelLoadFailedError(f"TensorRT builds no engine of {model.name}: {log.last}")
    return bytes(built)


class LoadedEngine:
    """`Engine` over TensorRT's own objects."""

    def __init__(self, engine: Any, context: Any) -> None:  # noqa: ANN401  see `package`
        trt = package()
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        taken = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self._engine, self._context = engine, context
        self.inputs = tuple(_spec(engine, name) for name in taken)
        self.outputs = tuple(_spec(engine, name) for name in names if name not in taken)

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Say how large an input of the next run is."""
        if not self._context.set_input_shape(name, shape):
            raise ModelError(f"TensorRT refuses input {name} of shape {list(shape)}")

    def shape(self, name: str) -> tuple[int, ...]:
        """How large an output is, once all inputs are set."""
        shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise ModelError(f"the size of output {name} is known after a run only")
        return shape

    def bind(self, name: str, pointer: int) -> None:
        """Say where a tensor lives."""
        if not self._context.set_tensor_address(name, pointer):
            raise ModelError(f"TensorRT refuses the memory of {name}")

    def launch(self, stream: int) -> None:
        """Begin a run."""
        if not self._context.execute_async_v3(stream):
            raise ModelError("TensorRT did not start the run")


def load(raw: bytes, most_batch: int, cuda: Cuda) -> EngineSession:
    """A session over a serialised engine.

    Raises:
        ModelLoadFailedError: TensorRT refuses it: damaged, or of another version or GPU.
    """
    trt = package()
    log = _log(trt)
    engine = trt.Runtime(log).deserialize_cuda_engine(raw)
    context = None if engine is None else engine.create_execution_context()
    if context is None:
        raise ModelLoadFailedError(f"TensorRT does not load its engine: {log.last}")
    return EngineSession(LoadedEngine(engine, context), cuda, most_batch)


def _log(trt: Any) -> Any:  # noqa: ANN401  see `package`
    """A logger of TensorRT's that prints nothing and remembers the last error."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the base is of a package without types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "it gives no reason"

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity <= trt.ILogger.Severity.ERROR:
                self.last = " ".join(message.split())[:REASON_CHARS]

    return Log()


def _network_flags(trt: Any) -> int:  # noqa: ANN401  see `package`
    """Strongly typed; explicit batch besides, where TensorRT still knows the other."""
    flags = trt.NetworkDefinitionCreationFlag
    wanted = [getattr(flags, name, None) for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH")]
    return sum(1 << int(flag) for flag in wanted if flag is not None)


def _refusal(parser: Any, log: Any) -> str:  # noqa: ANN401  see `package`
    """The first operator that is refused, and why."""
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        operator, reason = error.node_operator(), " ".join(error.desc().split())
        if operator:
            return f"{operator} ({error.node_name() or 'without a name'}): {reason}"[:REASON_CHARS]
    return str(log.last)


def _add_profile(
    builder: Any,  # noqa: ANN401  see `package`
    network: Any,  # noqa: ANN401
    *,
    config: Any,  # noqa: ANN401
    most_batch: int,
) -> None:
    """Any batch up to the largest, tuned for one window, which is what a device mostly runs."""
    profile, is_open = builder.create_optimization_profile(), False
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        shape = tuple(tensor.shape)
        if ANY_SIZE in shape[1:]:
            told = describe(TensorSpec(tensor.name, DATATYPES[tensor.dtype.name], shape))
            raise ModelLoadFailedError(
                f"TensorRT needs fixed sizes behind the batch, and {told} has an open one"
            )
        if shape[:1] == (ANY_SIZE,):
            rest = shape[1:]
            profile.set_shape(tensor.name, (1, *rest), (1, *rest), (most_batch, *rest))
            is_open = True
    if is_open:
        config.add_optimization_profile(profile)


def _target(trt: Any, capability: str) -> Any:  # noqa: ANN401  see `package`
    name = f"SM{capability.replace('.', '')}"
    found = getattr(trt.ComputeCapability, name, None)
    if found is None:
        raise ModelLoadFailedError(f"{trt.__name__} builds no engines for {name}")
    return found


def _spec(engine: Any, name: str) -> TensorSpec:  # noqa: ANN401  see `package`
    datatype = DATATYPES.get(engine.get_tensor_dtype(name).name)
    if datatype is None:
        raise ModelLoadFailedError(f"tensor {name} is of a type that requests cannot carry")
    return TensorSpec(name, datatype, tuple(int(size) for size in engine.get_tensor_shape(name)))
