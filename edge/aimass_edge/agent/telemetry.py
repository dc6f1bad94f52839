"""The path of telemetry: row -> private history -> window -> prediction -> outbox and plant.

One row at a time and in order. A row that cannot be predicted is counted and the next one is taken:
nothing that comes from the plant stops this loop.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from aimass_shared.errors import AimassError
from aimass_shared.manifest import Contract
from aimass_shared.messages import Prediction
from aimass_shared.windows import Row, Window, WindowBuffer

log = logging.getLogger(__name__)

STREAM = "predictions"


class RowSource(Protocol):
    """Where rows come from and predictions go back to: the plant's side."""

    def rows(self) -> AsyncIterator[Row]:
        """Rows in time order, for ever."""
        ...

    async def publish(self, prediction: Prediction, sensors: Sequence[str] = ()) -> None:
        """Publish a prediction to the plant; what the broker does not take is dropped."""
        ...


class RowStore(Protocol):
    """Where rows are kept for federated rounds."""

    async def append(self, rows: Sequence[Row]) -> None:
        """Keep rows."""
        ...

    async def before(self, time_ms: int, count: int) -> list[Row]:
        """The last rows before a time, oldest first."""
        ...

    async def suspect(self, time_ms: int) -> None:
        """Learn nothing from the row of a time."""
        ...


class Predicts(Protocol):
    """Who predicts."""

    @property
    def contract(self) -> Contract | None:
        """The active model's contract; None while there is no model."""
        ...

    async def predict(self, window: Window, sensors: tuple[str, ...]) -> Prediction | None:
        """One window's prediction, or None if too little of it was measured."""
        ...


class Keeps(Protocol):
    """Who keeps predictions until the cloud has them."""

    def put_nowait(self, stream: str, body: bytes) -> int:
        """Keep one row; it is on the disk within the group commit's time."""
        ...


@dataclass(frozen=True)
class Parts:
    """The parts that the telemetry path runs through, in its order."""

    source: RowSource
    history: RowStore
    predictor: Predicts
    outbox: Keeps


class Telemetry:
    """The loop over rows. `on_failure` hears of every window that the model failed on."""

    def __init__(
        self,
        parts: Parts,
        sensors: tuple[str, ...],
        on_failure: Callable[[AimassError], Awaitable[None]],
    ) -> None:
        self._source = parts.source
        self._history = parts.history
        self._predictor = parts.predictor
        self._outbox = parts.outbox
        self._sensors = sensors
        self._on_failure = on_failure
        self._contract: Contract | None = None
        self._names: tuple[str, ...] = ()
        self._windows: WindowBuffer | None = None
        self.rows = 0
        self.unkept_rows = 0
        self.alarms = 0
        self._in_alarm = False

    async def run(self) -> None:
        """Take rows until cancelled."""
        async for row in self._source.rows():
            self.rows += 1
            await self._kept(self._history.append([row]))
            window = await self._complete(row)
            if window is not None:
                await self._predict(window)

    async def _kept(self, keeping: Awaitable[None]) -> None:
        """Wait for the history; a full disk does not stop predictions."""
        try:
            await keeping
        except AimassError as error:
            self.unkept_rows += 1
            log.log(logging.WARNING if self.unkept_rows == 1 else logging.DEBUG, "%s", error)

    async def _complete(self, row: Row) -> Window | None:
        """The window that the row completes under the active model's contract."""
        contract = self._predictor.contract
        if contract is None or not contract.telemetry:
            self._windows = None  # the rows that come meanwhile are in none
            return None
        if self._windows is None or contract is not self._contract:
            self._contract = contract
            self._names = tuple(sensor.name for sensor in contract.sensors)
            self._windows = await self._buffer(contract, row.time_ms)
        return self._windows.add(row)

    async def _buffer(self, contract: Contract, time_ms: int) -> WindowBuffer:
        """A buffer with the rows that were recorded before a time.

        So that an agent that was started again, or got another model, is not blind for as long as
        a window is. Rows that do not lead up to the next one are left out by the buffer.
        """
        windows = WindowBuffer(contract.window, contract.stride, step_ms=contract.step_ms)
        try:
            recorded = await self._history.before(time_ms, contract.window - 1)
        except AimassError as error:
            log.warning("the first window waits for new rows: %s", error)
            recorded = []
        for row in recorded:
            windows.add(row)
        return windows

    async def _predict(self, window: Window) -> None:
        try:
            prediction = await self._predictor.predict(window, self._sensors)
            if prediction is None:
                return
            self._outbox.put_nowait(STREAM, msgspec.json.encode(prediction))
        except AimassError as error:
            await self._on_failure(error)
            return
        if prediction.score > prediction.threshold:
            await self._kept(self._history.suspect(prediction.window_end))
        self._note_alarm(prediction)
        await self._source.publish(prediction, self._names)

    def _note_alarm(self, prediction: Prediction) -> None:
        """Count and log an alarm once, when it begins."""
        if prediction.alarm and not self._in_alarm:
            self.alarms += 1
            log.warning(
                "alarm: score %.2f over %.2f, most responsible %s",
                prediction.score,
                prediction.threshold,
                ", ".join(prediction.top_sensors),
            )
        self._in_alarm = prediction.alarm
