"""A session over an engine that lives on an accelerator: tensors there and back, batches in parts.

Nothing here knows TensorRT or CUDA: `Engine` is what is asked of the one, `cuda.Accelerator` of the
other.
"""

import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aimass_edge.runtime.cuda import Accelerator
from aimass_edge.runtime.session import ANY_SIZE, Arrays, check_feeds, windows_of
from aimass_shared.errors import BadTensorError, NoActiveModelError
from aimass_shared.inference import dtype_of
from aimass_shared.manifest import TensorSpec


class Engine(Protocol):
    """A loaded engine with one context: what `TensorrtSession` asks of TensorRT."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Say how large an input of the next run is."""

    def shape(self, name: str) -> tuple[int, ...]:
        """How large an output is, once all inputs are set."""

    def bind(self, name: str, pointer: int) -> None:
        """Say where a tensor lives."""

    def launch(self, stream: int) -> None:
        """Begin a run."""


class EngineSession:
    """A session over an engine. Tensors of a run live in buffers that grow and are kept."""

    def __init__(self, engine: Engine, memory: Accelerator, most_batch: int) -> None:
        """Take over an engine; `load` makes one from bytes."""
        self._engine: Engine | None = engine
        self._inputs, self._outputs = engine.inputs, engine.outputs
        self._memory = memory
        self._most_batch = most_batch
        self._stream = memory.open_stream()
        self._buffers: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

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
        """What executes the model."""
        return "tensorrt"

    @property
    def waits(self) -> bool:
        """The GPU is waited for."""
        return True

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run once, or in parts of what the engine was built for; see `Session.run`."""
        with self._lock:
            engine = self._engine
            if engine is None:
                raise NoActiveModelError("the engine was closed; open it again")
            check_feeds(self._inputs, feeds)
            self._check_parts(feeds)
            parts = [self._run(engine, part) for part in self._parts(feeds)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """Free the engine and its memory; a run that is under way finishes first."""
        with self._lock:
            if self._engine is None:
                return
            self._engine = None
            for pointer, _ in self._buffers.values():
                self._memory.free(pointer)
            self._buffers.clear()
            self._memory.close_stream(self._stream)

    def _check_parts(self, feeds: Arrays) -> None:
        """An output that is not of one window cannot be put together from parts."""
        windows = windows_of(self._inputs, feeds)
        whole = [spec.name for spec in self._outputs if spec.shape[:1] != (ANY_SIZE,)]
        if windows > self._most_batch and whole:
            raise BadTensorError(
                f"{windows} windows are too many: the engine takes {self._most_batch} in a run, and"
                f" {', '.join(whole)} is of all windows together; raise board.engines.most_batch"
            )

    def _parts(self, feeds: Arrays) -> Iterator[Arrays]:
        batched = {spec.name for spec in self._inputs if spec.shape[:1] == (ANY_SIZE,)}
        windows, most = windows_of(self._inputs, feeds), self._most_batch
        for at in range(0, windows, most):
            yield {n: a[at : at + most] if n in batched else a for n, a in feeds.items()}

    def _run(self, engine: Engine, feeds: Arrays) -> dict[str, NDArray[Any]]:
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        for name, array in arrays.items():
            engine.set_shape(name, array.shape)
            self._memory.upload(self._bound(engine, name, array.nbytes), array, self._stream)
        found = {s.name: np.empty(engine.shape(s.name), _dtype(s)) for s in self._outputs}
        pointers = {n: self._bound(engine, n, array.nbytes) for n, array in found.items()}
        engine.launch(self._stream)
        for name, array in found.items():
            self._memory.download(array, pointers[name], self._stream)
        self._memory.wait(self._stream)
        return found

    def _bound(self, engine: Engine, name: str, size: int) -> int:
        pointer, room = self._buffers.get(name, (0, 0))
        if room < size or not pointer:
            if pointer:
                del self._buffers[name]
                self._memory.free(pointer)
            pointer, room = self._memory.allocate(max(size, 1)), size
            self._buffers[name] = pointer, room
        engine.bind(name, pointer)
        return pointer


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    return np.dtype(dtype_of(spec.datatype))
