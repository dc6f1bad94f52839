"""Memory and streams of an NVIDIA GPU: the few calls of CUDA's runtime library that are needed.

The library comes with JetPack or with the driver's toolkit and is loaded when it is asked for; no
Python package is needed. Pointers and streams are plain numbers.
"""

import ctypes
from typing import Any, Protocol

from numpy.typing import NDArray

from aimass_shared.errors import ModelError, ModelLoadFailedError

LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
INSTALL = (
    "install the CUDA runtime (libcudart): on a Jetson `apt install nvidia-jetpack`, elsewhere the"
    " CUDA toolkit of the driver"
)
MAJOR, MINOR = 75, 76
"""Attributes of a device: both halves of its compute capability."""
TO_DEVICE, TO_HOST = 1, 2


class Accelerator(Protocol):
    """Where an engine's tensors live; every call but `upload` and `download` is short."""

    def allocate(self, size: int) -> int:
        """A pointer to so many bytes."""

    def free(self, pointer: int) -> None:
        """Give memory back."""

    def upload(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        """Copy a contiguous array there; it must live until `wait` returns."""

    def download(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        """Copy from there into a contiguous array, which is filled once `wait` returns."""

    def open_stream(self) -> int:
        """A queue of work."""

    def close_stream(self, stream: int) -> None:
        """End a queue."""

    def wait(self, stream: int) -> None:
        """Return when the queue is empty."""


class Cuda:
    """`Accelerator` by CUDA's runtime library, on the first GPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p

    def devices(self) -> int:
        """How many GPUs the driver shows.

        Raises:
            ModelError: there is no driver, or one that is too old.
        """
        count = ctypes.c_int(0)
        self._call("cudaGetDeviceCount", ctypes.byref(count))
        return count.value

    def capability(self) -> str:
        """Compute capability of the GPU, such as "8.7"."""
        halves = []
        for attribute in (MAJOR, MINOR):
            value = ctypes.c_int(0)
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
            halves.append(str(value.value))
        return ".".join(halves)

    def allocate(self, size: int) -> int:
        """A pointer to so many bytes."""
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        return int(pointer.value or 0)

    def free(self, pointer: int) -> None:
        """Give memory back."""
        self._call("cudaFree", ctypes.c_void_p(pointer))

    def upload(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        """Copy a contiguous array there."""
        self._copy(pointer, array.ctypes.data, size=array.nbytes, kind=TO_DEVICE, stream=stream)

    def download(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        """Copy from there into a contiguous array."""
        self._copy(array.ctypes.data, pointer, size=array.nbytes, kind=TO_HOST, stream=stream)

    def open_stream(self) -> int:
        """A queue of work."""
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        return int(stream.value or 0)

    def close_stream(self, stream: int) -> None:
        """End a queue."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def wait(self, stream: int) -> None:
        """Return when the queue is empty; what failed in it is raised here."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def _copy(self, target: int, source: int, *, size: int, kind: int, stream: int) -> None:
        ends = ctypes.c_void_p(target), ctypes.c_void_p(source)
        self._call("cudaMemcpyAsync", *ends, ctypes.c_size_t(size), kind, ctypes.c_void_p(stream))

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            text = self._library.cudaGetErrorString(status)
            told = text.decode(errors="replace") if text else "no text"
            raise ModelError(f"{name} failed with CUDA error {status}: {told}")


def open_cuda(libraries: tuple[str, ...] = LIBRARIES) -> Cuda:
    """CUDA's runtime library with at least one GPU.

    Raises:
        ModelLoadFailedError: there is none; the detail says what to install.
    """
    for name in libraries:
        try:
            cuda = Cuda(ctypes.CDLL(name))
        except OSError:
            continue
        return _with_device(cuda)
    raise ModelLoadFailedError(f"there is no CUDA here: {INSTALL}")


def why_not(libraries: tuple[str, ...] = LIBRARIES) -> str:
    """Why CUDA cannot be used; "" where it can."""
    try:
        open_cuda(libraries)
    except ModelLoadFailedError as error:
        return error.detail
    return ""


def _with_device(cuda: Cuda) -> Cuda:
    try:
        count = cuda.devices()
    except ModelError as error:
        raise ModelLoadFailedError(f"CUDA has no GPU: {error.detail}") from error
    if not count:
        raise ModelLoadFailedError("CUDA has no GPU: the driver shows none")
    return cuda
