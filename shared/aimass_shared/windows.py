"""Readings -> rows -> windows -> one output again: the same code in training, serving and devices.

`RowGrid` puts readings of any order onto a grid in time, `WindowBuffer` makes windows of the rows,
`windows_of` cuts a whole recording, `merge_overlaps` joins outputs of overlapping windows. Nothing
here reads a clock, a network or a file, and nothing imputes: a missing value is 0 with mask 0.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadTensorError, InvalidSettingError

Floats = NDArray[np.float32]
D = TypeVar("D", np.float32, np.float64)

NAN = float("nan")
MAX_VALUE = float(np.finfo(np.float32).max)
# A wall clock that jumps (NTP, a board without a battery, a suspended process) is not time that
# the source has spent in silence: one tick counts for at most this much.
MAX_TICK_MS = 10_000
_NEVER = -(1 << 62)


class Row(NamedTuple):
    """All channels at one time: values and mask `[S]` float32, mask 1 = measured, 0 = missing."""

    time_ms: int
    values: Floats
    mask: Floats


class Window(NamedTuple):
    """Consecutive rows: values and mask `[W, S]`, `end_ms` of the last, share of values measured.

    `sequence` counts windows of one buffer from 0.
    """

    sequence: int
    end_ms: int
    values: Floats
    mask: Floats
    coverage: float


class GridOptions(msgspec.Struct, frozen=True):
    """How readings become rows.

    Attributes:
        step_ms: time between two rows.
        lateness_ms: how long a row waits for readings that arrive out of order.
        hold_ms: how long a value holds without a new one (0 = until it is lost).
        future_ms: how far a reading may be ahead of the clock of this machine.
        snap_ms: a reading this close to a row's time counts as taken at it (jitter of a sampler).
        steady: silence means unchanged (report by exception): time alone makes rows, too.
        gap_rows: a longer stretch without any reading is an outage, for which no rows are made.
    """

    step_ms: int
    lateness_ms: int = 0
    hold_ms: int = 0
    future_ms: int = 60_000
    snap_ms: int = 0
    steady: bool = False
    gap_rows: int = 64


class GridCounts(msgspec.Struct):
    """What became of readings. `bad`: no finite number or bad quality; `late`: after their row."""

    readings: int = 0
    bad: int = 0
    late: int = 0
    future: int = 0
    duplicate: int = 0
    gaps: int = 0
    restarts: int = 0
    rows: int = 0


class _Slot:
    """Readings of a row that is not out yet: the newest of each channel."""

    __slots__ = ("exact", "times", "values")

    def __init__(self, size: int) -> None:
        self.times = [_NEVER] * size
        self.values = [NAN] * size
        self.exact = 0


class RowGrid:
    """Rows at a fixed step from readings in any order; the newest reading up to a row's time holds.

    The grid starts at the first reading, so a source that samples every `step_ms` fills each row
    exactly. A row comes out when nothing can change it any more: every channel was read at its
    very time, or a reading arrived that is more than `lateness_ms` newer, or a step and the
    lateness have passed in silence. Time is that of the source, which may replay the past at any
    speed: the newest reading's time plus the wall time since it arrived.
    """

    def __init__(self, size: int, options: GridOptions) -> None:
        if size < 1 or not 0 <= 2 * options.snap_ms < options.step_ms:
            raise InvalidSettingError(
                f"rows need channels and a step (more than twice snap_ms), got {size} channels"
                f" every {options.step_ms} ms, snap_ms {options.snap_ms}"
            )
        self.counts = GridCounts()
        self._size, self._options = size, options
        self._gap_ms = options.gap_rows * options.step_ms + options.lateness_ms
        self._times = [_NEVER] * size
        self._values = [NAN] * size
        self._reset()

    def _reset(self) -> None:
        self._slots: dict[int, _Slot] = {}
        self._latest: int | None = None
        self._next, self._started = 0, False
        self._lost = _NEVER
        self._born: int | None = None
        self._elapsed, self._ticked = 0, 0
        self._behind, self._empty = 0, 0

    def add(self, index: int, time_ms: int, value: float | None, *, now_ms: int) -> None:
        """Take one reading; never raises for what a source can send.

        Args:
            index: number of the channel.
            time_ms: when it was measured, by the source.
            value: None, NaN and what float32 cannot hold make the channel missing from then on.
            now_ms: wall clock at arrival.
        """
        if time_ms > now_ms + self._options.future_ms:
            self.counts.future += 1
            return
        self.counts.readings += 1
        number = _finite(value)
        self.counts.bad += number is None
        if self._latest is None or time_ms > self._latest:
            self._advance(time_ms, now_ms)
        if not self._place(index, time_ms, NAN if number is None else number):
            self._count_late(time_ms)

    def renew(
        self, readings: Sequence[tuple[int, float | None]], time_ms: int, *, now_ms: int
    ) -> None:
        """Take the current values of a source that (re)appears, a Sparkplug birth.

        Their times are those of the last change, so they hold from now on by the source's clock;
        they make no row of their own. `time_ms` starts the grid if no data follows.
        """
        now = self.clock(now_ms)
        for index, value in readings:
            number = NAN if (finite := _finite(value)) is None else finite
            if now is None and finite is not None:
                self._born, self._ticked, self._elapsed = time_ms, now_ms, 0
            if now is None:
                self._times[index], self._values[index] = time_ms, number
            else:
                self._place(index, now, number)

    def lose(self, indices: Sequence[int] | None = None, *, now_ms: int) -> None:
        """Make channels (default: all) missing from now on: their source is gone."""
        chosen = range(self._size) if indices is None else indices
        now = self.clock(now_ms)
        if now is None:
            for index in chosen:
                self._values[index] = NAN
            return
        # Later than the newest reading, which was true when it was taken.
        self._lost = max(now, (self._latest or 0) + 1)
        for index in chosen:
            self._place(index, self._lost, NAN)

    def clock(self, now_ms: int) -> int | None:
        """Time at the source, in its own milliseconds; None before the first reading."""
        self.tick(now_ms)
        return None if self._latest is None else max(self._latest + self._elapsed, self._lost)

    def tick(self, now_ms: int) -> None:
        """Let time pass; call it a few times per step, or a silent source yields no rows."""
        self._elapsed += min(max(now_ms - self._ticked, 0), MAX_TICK_MS)
        self._ticked = now_ms
        silent = self._options.steady and self._elapsed > self._options.step_ms
        if silent and self._latest is None and self._born is not None:
            self._advance(self._born, now_ms)

    def rows(self) -> Iterator[Row]:
        """The rows that are final, in order of time; call it after `add` and `tick`."""
        while self.due():
            if not self._skip_outage():
                yield self._emit()

    def due(self) -> bool:
        """Whether `rows` has one (a cheap test for the path of every message)."""
        if self._latest is None:
            return False
        options, row = self._options, self._next
        wait = options.lateness_ms + options.snap_ms
        if self._latest > row + wait:
            return True
        slot = self._slots.get(row)
        if slot is not None and slot.exact == self._size:
            return True
        if self._latest + self._elapsed < row + wait + options.step_ms:
            return False
        return bool(self._slots) or (options.steady and self._empty < options.gap_rows)

    def _advance(self, time_ms: int, now_ms: int) -> None:
        if self._latest is None:
            self._next = time_ms
            # A birth may be stamped by another clock than the data: what holds is not newer.
            self._times = [min(time, time_ms) for time in self._times]
        self._latest = time_ms
        self._elapsed, self._ticked = 0, now_ms

    def _place(self, index: int, time_ms: int, value: float) -> bool:
        """Put a reading into its row; False if that is out already (then it holds from now on)."""
        step, snap = self._options.step_ms, self._options.snap_ms
        row = self._next - (self._next - time_ms + snap) // step * step
        if row < self._next:
            if self._started:
                if time_ms >= self._times[index]:
                    self._times[index], self._values[index] = time_ms, value
                return False
            self._next = row
        slot = self._slots.get(row)
        if slot is None:
            slot = self._slots[row] = _Slot(self._size)
        seen = slot.times[index]
        if time_ms >= seen:
            self.counts.duplicate += time_ms == seen
            slot.exact += time_ms >= row - snap > seen
            slot.times[index], slot.values[index] = time_ms, value
        self._behind = 0
        return True

    def _count_late(self, time_ms: int) -> None:
        self.counts.late += 1
        if time_ms >= self._next - self._gap_ms:
            return
        # One far-off time stamp must not make the grid deaf to all that follow it.
        self._behind += 1
        if self._behind >= 3 * self._size:
            self.counts.restarts += 1
            self._reset()
            self._forget()

    def _forget(self) -> None:
        self._times = [_NEVER] * self._size
        self._values = [NAN] * self._size

    def _skip_outage(self) -> bool:
        if self._next in self._slots or not self._slots:
            return False
        resumes = min(self._slots)
        if resumes - self._next <= self._gap_ms:
            return False
        self.counts.gaps += 1
        self._next = resumes
        if not self._options.steady:
            self._forget()
        return True

    def _emit(self) -> Row:
        row = self._next
        slot = self._slots.pop(row, None)
        if slot is not None:
            for index, time in enumerate(slot.times):
                if time != _NEVER and time >= self._times[index]:
                    self._times[index], self._values[index] = time, slot.values[index]
        values = np.array(self._values, np.float32)
        known = np.isfinite(values)
        if self._options.hold_ms:
            known &= row - np.array(self._times) <= self._options.hold_ms
        values[~known] = 0.0
        self._next, self._started = row + self._options.step_ms, True
        self._empty = 0 if known.any() else self._empty + 1
        self.counts.rows += 1
        return Row(row, values, known.astype(np.float32))


class WindowBuffer:
    """The last `window` rows as a `Window`, every `stride` rows.

    With `step_ms`, rows that follow a gap in time start a new window: a model must not see two
    rows as neighbours that were not. Time that goes backwards always does.
    """

    def __init__(self, window: int, stride: int = 1, *, step_ms: int = 0) -> None:
        if window < 1 or stride < 1:
            raise InvalidSettingError(f"window {window} and stride {stride} must be at least 1")
        self._window, self._stride, self._step_ms = window, stride, step_ms
        self._rows: list[Row] = []
        self._wait, self._sequence = 0, 0

    def add(self, row: Row) -> Window | None:
        """Take the next row; returns the window that it completes, if it does."""
        if self._rows and not self._follows(row):
            self._rows.clear()
            self._wait = 0
        self._rows.append(row)
        if len(self._rows) > self._window:
            del self._rows[0]
        self._wait -= 1
        if len(self._rows) < self._window or self._wait > 0:
            return None
        self._wait = self._stride
        return self._build()

    def _follows(self, row: Row) -> bool:
        gap = row.time_ms - self._rows[-1].time_ms
        return gap == self._step_ms if self._step_ms else gap > 0

    def _build(self) -> Window:
        mask = np.stack([row.mask for row in self._rows])
        sequence, self._sequence = self._sequence, self._sequence + 1
        return Window(
            sequence=sequence,
            end_ms=self._rows[-1].time_ms,
            values=np.stack([row.values for row in self._rows]),
            mask=mask,
            coverage=float(mask.mean()),
        )


def window_starts(total: int, length: int, stride: int) -> NDArray[np.int64]:
    """First rows of windows that cover all of `total` rows; the last one ends with the last row.

    Raises:
        BadTensorError: there are fewer rows than one window has, or a size is below 1.
    """
    if not 1 <= length <= total or stride < 1:
        raise BadTensorError(f"{total} rows cannot be cut into windows of {length} every {stride}")
    starts = list(range(0, total - length + 1, stride))
    if starts[-1] != total - length:
        starts.append(total - length)
    return np.array(starts, np.int64)


def windows_of(values: NDArray[D], length: int, stride: int = 1) -> NDArray[D]:
    """All whole windows of a recording: `[T, S]` -> `[n, length, S]`, a read-only view.

    Raises:
        BadTensorError: `values` has not two axes, or a size is below 1.
    """
    if values.ndim != 2 or length < 1 or stride < 1:  # noqa: PLR2004 - rows and channels
        raise BadTensorError(
            f"windows need [rows, channels] and sizes of at least 1, got shape {values.shape},"
            f" length {length}, stride {stride}"
        )
    if len(values) < length:
        return np.empty((0, length, values.shape[1]), values.dtype)
    view = np.lib.stride_tricks.sliding_window_view(values, length, axis=0)
    return view[::stride].transpose(0, 2, 1)


def merge_overlaps(outputs: NDArray[D], starts: Sequence[int], total: int) -> NDArray[D]:
    """Join outputs of overlapping windows: `[n, L, C]` at `starts` -> `[total, C]`.

    Rows in several windows get the mean, rows in none NaN.

    Raises:
        BadTensorError: shapes do not fit, or a window reaches outside of `total`.
    """
    if outputs.ndim != 3 or len(outputs) != len(starts):  # noqa: PLR2004 - windows, rows, channels
        raise BadTensorError(f"{len(starts)} starts for outputs of shape {outputs.shape}")
    length = outputs.shape[1]
    total_sum = np.zeros((total, outputs.shape[2]), np.float64)
    count = np.zeros((total, 1), np.float64)
    for start, output in zip(starts, outputs, strict=True):
        if not 0 <= start <= total - length:
            raise BadTensorError(f"a window at {start} of {length} rows leaves {total} rows")
        total_sum[start : start + length] += output
        count[start : start + length] += 1.0
    with np.errstate(invalid="ignore"):
        return (total_sum / count).astype(outputs.dtype)


def _finite(value: float | None) -> float | None:
    return value if value is not None and -MAX_VALUE <= value <= MAX_VALUE else None
