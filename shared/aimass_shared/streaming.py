"""What a model that is answered row by row keeps between two windows, written into its files.

Windows that overlap have all rows but the newest in common. What a graph works out of each row by
itself is kept in rings: `step` makes the newest entry of each from the newest rows, `rest` makes
the outputs from whole rings. Both are plain ONNX files, with this in the metadata of the second.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import MalformedMessageError
from aimass_shared.manifest import Role

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Run = Callable[[Arrays], Arrays]

METADATA = "aimass.stream"
OTHERS = 4
"""Windows that followed no other which are remembered: requests may come between those of a row."""
STEP_FILE, REST_FILE = "stream_step.onnx", "stream_rest.onnx"
FILES: Mapping[Role, str] = {"stream-step": STEP_FILE, "stream-rest": REST_FILE}


class Ring(msgspec.Struct, frozen=True):
    """A value of which the newest entries along an axis are kept.

    Attributes:
        name: of an output of `step`, where the axis is one row's, and of an input of `rest`.
        shape: of the input. axis: along which rows follow each other, the newest last.
        each: entries of the axis that one row makes.
    """

    name: str
    shape: tuple[int, ...]
    axis: int
    each: int = 1

    @property
    def rows(self) -> int:
        """How many rows it is of."""
        return self.shape[self.axis] // self.each


class StreamForm(msgspec.Struct, frozen=True):
    """How a window is answered from the window before.

    Attributes:
        window: rows of a window. rows: newest ones that a step takes.
        rings: what is kept.
        took_ms, whole_ms: a window row by row, and whole, where the files were made.
    """

    window: int
    rows: int
    rings: tuple[Ring, ...]
    took_ms: float = 0.0
    whole_ms: float = 0.0


def read(text: str) -> StreamForm:
    """A form from the metadata of a file.

    Raises:
        MalformedMessageError: it is none, or its sizes do not fit together.
    """
    try:
        form = msgspec.json.decode(text, type=StreamForm)
    except msgspec.DecodeError as error:
        raise MalformedMessageError(f"metadata {METADATA} do not decode: {error}") from error
    has_rows = form.window > 1 and 1 <= form.rows <= form.window
    fits = form.rings and has_rows and all(map(_fits, form.rings))
    if not fits or any(ring.rows > form.window for ring in form.rings):
        raise MalformedMessageError(f"metadata {METADATA} have sizes that do not fit together")
    return form


def _fits(ring: Ring) -> bool:
    is_there = 0 <= ring.axis < len(ring.shape) and min(ring.shape) >= 1 <= ring.each
    return is_there and ring.shape[ring.axis] % ring.each == 0


class Part(NamedTuple):
    """A part of a model: the names of its inputs, and what runs it."""

    inputs: Sequence[str]
    run: Run


class Streamer:
    """Answers windows that follow each other by one row; says nothing of others.

    Whether a window follows is seen from its numbers, missing ones and their mask among them: a row
    that came late, a gap or another caller's window never meets a ring of other rows.
    """

    def __init__(self, form: StreamForm, windows: Sequence[str], *, step: Part, rest: Part) -> None:
        """Prepare empty rings.

        Args:
            form: of the files.
            windows: names of the inputs that are windows `[1, window, ...]`.
            step: the first part.
            rest: the second.
        """
        self._form, self._windows = form, tuple(windows)
        self._step, self._rest = step.run, rest.run
        self._newest = tuple(name for name in step.inputs if name in windows)
        self._needs = tuple(name for name in rest.inputs if name in windows)
        self._rings = {ring.name: _Ring(ring) for ring in form.rings}
        self._streamed: Arrays | None = None
        self._others: deque[Arrays] = deque(maxlen=OTHERS)

    def answer(self, feeds: Arrays) -> dict[str, Array] | None:
        """Outputs for a window that follows an earlier one; None for the first of a run of them."""
        if not all(self._is_one(feeds[name]) for name in self._windows):
            return None
        if self._streamed is not None and self._follows(self._streamed, feeds):
            self._push(feeds, 0)
        elif any(self._follows(before, feeds) for before in self._others):
            # It may be the first of many: all of its rows are there, so all entries can be made.
            self._others.clear()
            for back in reversed(range(self._form.window)):
                self._push(feeds, back)
        else:
            self._others.append(self._copied(feeds))
            return None
        self._streamed = self._copied(feeds)
        whole = {name: feeds[name] for name in self._needs}
        return dict(self._rest({**whole, **{k: ring.whole for k, ring in self._rings.items()}}))

    def forget(self) -> None:
        """Start anew, after a part has failed."""
        self._streamed = None
        self._others.clear()

    def _is_one(self, array: Array) -> bool:
        return array.shape[:2] == (1, self._form.window)

    def _copied(self, feeds: Arrays) -> Arrays:
        return {name: feeds[name].copy() for name in self._windows}

    def _follows(self, before: Arrays, feeds: Arrays) -> bool:
        """Whether a window is the one before, moved by a row. Zeros of either sign differ."""
        return any(feeds[name].any() for name in self._windows) and all(
            before[name][:, 1:].tobytes() == feeds[name][:, :-1].tobytes() for name in self._windows
        )

    def _push(self, feeds: Arrays, back: int) -> None:
        """Make the entries of the rows that end so many before the newest."""
        last = self._form.window - back
        # The oldest positions of a long ring lack rows that only shorter ones take: any rows do.
        places = np.maximum(np.arange(last - self._form.rows, last), 0)
        newest = self._step({name: feeds[name][:, places] for name in self._newest})
        for name, ring in self._rings.items():
            ring.push(newest[name])


class _Ring:
    """The newest entries of a value, always in one piece: each is written twice."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._twice: Array | None = None
        self._count = 0

    def push(self, entry: Array) -> None:
        if self._twice is None:
            shape = list(self._ring.shape)
            shape[self._ring.axis] *= 2
            self._twice = np.zeros(shape, entry.dtype)
        at = self._count % self._ring.rows
        for place in (at, at + self._ring.rows):
            self._twice[self._part(place, 1)] = entry
        self._count += 1

    @property
    def whole(self) -> Array:
        """All entries, the newest last."""
        if self._twice is None:
            raise NotImplementedError
        rows = self._ring.rows
        return np.ascontiguousarray(self._twice[self._part(self._count % rows, rows)])

    def _part(self, start: int, rows: int) -> tuple[slice, ...]:
        each = self._ring.each
        return (*(slice(None),) * self._ring.axis, slice(start * each, (start + rows) * each))
