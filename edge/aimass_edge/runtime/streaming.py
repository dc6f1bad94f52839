"""A session that reuses what it worked out of rows that two windows have in common.

A slice may bring its model in two parts for that (`aimass_shared.streaming`). Which window follows
which is seen from their numbers; any other one is run whole. The parts must give the same bits as
the whole model on this device, and be faster here, or they are left alone.
"""

import logging
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_edge.config import BoardSettings
from aimass_edge.runtime.onnx import OnnxSession
from aimass_edge.runtime.session import Arrays, Session
from aimass_shared.errors import AimassError, ModelLoadFailedError
from aimass_shared.manifest import TensorSpec
from aimass_shared.streaming import METADATA, REST_FILE, STEP_FILE, Part, Streamer, read

TRIED_WINDOWS, MISSING = 12, 0.05

log = logging.getLogger(__name__)


class StreamCounts(msgspec.Struct):
    """Runs from the window before, and whole ones."""

    streamed: int = 0
    whole: int = 0


class StreamingSession:
    """A session with the tensors of the whole model; windows that follow each other cost less."""

    def __init__(self, whole: Session, step: OnnxSession, rest: OnnxSession) -> None:
        """Take the whole model and its parts.

        Raises:
            MalformedMessageError: the second part does not say how they are used.
            ModelLoadFailedError: the parts are not those of a model that takes windows.
        """
        self._whole, self._parts = whole, (step, rest)
        form = read(rest.metadata.get(METADATA, ""))
        windows = [spec.name for spec in whole.inputs]
        first, second = (
            Part([spec.name for spec in part.inputs], part.run) for part in self._parts
        )
        rings = {ring.name for ring in form.rings}
        if not set(first.inputs) <= set(windows) >= set(second.inputs) - rings:
            raise ModelLoadFailedError(f"{REST_FILE} and {STEP_FILE} are not of the same model")
        self._window = form.window
        self._streamer = Streamer(form, windows, step=first, rest=second)
        self._lock = threading.Lock()
        self.counts = StreamCounts()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` needs."""
        return self._whole.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` gives back."""
        return self._whole.outputs

    @property
    def provider(self) -> str:
        """What executes the model."""
        return self._whole.provider

    @property
    def waits(self) -> bool:
        """As the whole model."""
        return self._whole.waits

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run once, from the window before if this one follows it; see `Session.run`."""
        found = self._streamed(feeds)
        if found is None:
            self.counts.whole += 1
            return self._whole.run(feeds)
        self.counts.streamed += 1
        return found

    def _streamed(self, feeds: Arrays) -> dict[str, NDArray[Any]] | None:
        if any(spec.name not in feeds for spec in self.inputs):
            return None  # the whole model says what is missing
        if not self._lock.acquire(blocking=False):
            return None  # another thread's window is no reason to wait
        try:
            return self._streamer.answer(feeds)
        except AimassError:
            self._streamer.forget()
            return None
        finally:
            self._lock.release()

    def gain(self) -> float:
        """How many times faster a window is than whole; 0 if any bit of an answer differs."""
        rows = self._rows()
        took, whole = float("inf"), float("inf")
        for at in range(TRIED_WINDOWS):
            feeds = {name: array[:, at : at + self._window].copy() for name, array in rows.items()}
            started = time.perf_counter()
            found = self._streamed(feeds)
            middle = time.perf_counter()
            expected = self._whole.run(feeds)
            if found is None:
                continue
            took = min(took, middle - started)
            whole = min(whole, time.perf_counter() - middle)
            if any(found[name].tobytes() != array.tobytes() for name, array in expected.items()):
                return 0.0
        self._streamer.forget()
        return whole / took if took < float("inf") else 0.0

    def _rows(self) -> dict[str, NDArray[np.float32]]:
        """Rows to try it with: normal numbers, where some values are missing in all inputs."""
        random = np.random.default_rng(0)
        shape = (1, self._window + TRIED_WINDOWS, *self.inputs[0].shape[2:])
        known = (random.random(shape) >= MISSING).astype(np.float32)
        normal = random.normal(size=shape).astype(np.float32) * known
        # A mask is what comes after the values, where a model takes one.
        arrays = (normal, *(known for _ in self.inputs[1:]))
        return {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}

    def close(self) -> None:
        """Free the model and its parts."""
        for session in (self._whole, *self._parts):
            session.close()


def with_stream(whole: Session, path: Path, board: BoardSettings) -> Session:
    """The session of a model that lies beside its parts, if they are there and of use here."""
    files = [path.with_name(name) for name in (STEP_FILE, REST_FILE)]
    if not all(file.is_file() for file in files):
        return whole
    try:
        step, rest = (OnnxSession(file, board) for file in files)
        session = StreamingSession(whole, step, rest)
        gain = session.gain()
    except AimassError as error:
        log.warning("windows of %s are run whole: %s", path.name, error.detail)
        return whole
    if gain > 1:
        log.info("windows that follow each other take %.1f times less", gain)
        return session
    log.warning("windows of %s are run whole: streaming is %.1f times as fast", path.name, gain)
    step.close()
    rest.close()
    return whole
