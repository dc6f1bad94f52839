"""Which runtime opens models on this device, and why those that were asked for before it do not."""

import ctypes
import functools

import msgspec
import onnxruntime

from aimass_edge.config import BoardSettings
from aimass_edge.runtime import cuda, tensorrt
from aimass_shared.slices import Precision

NATIVE = "tensorrt"
TENSORRT, CUDA, CPU = (
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "CPUExecutionProvider",
)
INFER_LIBRARIES = ("libnvinfer.so.10", "libnvinfer.so.11", "libnvinfer.so.8")

PRECISIONS: dict[str, tuple[Precision, ...]] = {
    NATIVE: ("int8-trt", "fp16", "fp32"),
    TENSORRT: ("int8-trt", "fp16", "fp32"),
    CUDA: ("fp16", "fp32"),
}
"""What each runs well, best first; every other one as a processor does."""
ON_PROCESSORS: tuple[Precision, ...] = ("int8", "int8-dyn", "fp32")


class Backend(msgspec.Struct, frozen=True):
    """What opens models here.

    Attributes:
        provider: the first of `board.providers` that this device has, else the processor.
        passed: those before it, and why each cannot be used.
    """

    provider: str
    passed: dict[str, str] = {}

    @property
    def runtime(self) -> str:
        """What runs models, with its version, such as `onnxruntime 1.32.0`."""
        if self.provider == NATIVE:
            return tensorrt.version()
        return f"onnxruntime {onnxruntime.__version__}"

    @property
    def is_tensorrt(self) -> bool:
        """Whether TensorRT runs the models, by itself or within ONNX Runtime."""
        return self.provider in {NATIVE, TENSORRT}

    @property
    def arithmetic(self) -> str:
        """Whose tolerance a self-test goes by: "cpu", or "tensorrt" of all that runs on a GPU."""
        return "tensorrt" if self.provider in PRECISIONS else "cpu"

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Number formats that it runs well, best first."""
        return PRECISIONS.get(self.provider, ON_PROCESSORS)

    def told(self) -> str:
        """One line for a person."""
        passed = "; ".join(f"not {name}: {why}" for name, why in self.passed.items())
        return f"{self.provider} ({passed})" if passed else self.provider


def backend_of(board: BoardSettings) -> Backend:
    """The backend of a board; never fails, since every device has a processor."""
    passed: dict[str, str] = {}
    for name in board.providers:
        why = _why_not(name)
        if not why:
            return Backend(name, passed)
        passed[name] = why
    return Backend(CPU, passed)


@functools.cache
def _why_not(name: str) -> str:
    """Why a provider cannot be used in this process; "" where it can."""
    if name == NATIVE:
        return tensorrt.why_not()
    available = onnxruntime.get_available_providers()
    if name not in available:
        return f"this ONNX Runtime was built without it (it has {', '.join(available)})"
    if name == TENSORRT and not any(map(_loads, INFER_LIBRARIES)):
        return f"none of {', '.join(INFER_LIBRARIES)} can be loaded: install TensorRT"
    return cuda.why_not() if name in {TENSORRT, CUDA} else ""


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
