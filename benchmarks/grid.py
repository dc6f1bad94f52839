"""A unified namespace's tags to rows (RowGrid), against a plain dict of values per row.

52 tags of one value each make a row. The dict is what a script would do: it neither waits for late
values nor knows missing ones. The whole way from a message is measured, too.
"""

from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from aimass_edge.bus import Inbound
from aimass_edge.config import SourceSettings
from aimass_edge.ingest.json_rows import UnsTags
from aimass_edge.ingest.source import grid_options
from aimass_shared.windows import Floats, RowGrid
from benchmarks.harness.measure import Case, Figures, Scale, repeated

SENSORS = tuple(f"tag-{number:02}" for number in range(52))
STEP_MS = 1000
START_MS = 1_800_000_000_000
ROWS = 20
MEASURE = "CPU us a row"
SETTINGS = SourceSettings(
    kind="uns", topic="umh/v1/acme/site/line/_raw/{sensor}", sensors=SENSORS, step_ms=STEP_MS
)


class Plain:
    """Values by name and time; a row is done when it has all of them."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, float]] = {}

    def add(self, name: str, time_ms: int, value: float) -> Floats | None:
        row = self._rows.setdefault(time_ms, {})
        row[name] = value
        if len(row) < len(SENSORS):
            return None
        del self._rows[time_ms]
        return np.array([row[sensor] for sensor in SENSORS], np.float32)


def run(scale: Scale) -> Figures:
    """Rows from readings, then rows from messages."""
    figures = Figures()
    for name, ours, plain in (
        ("readings to rows", readings_to_grid(), readings_to_dicts()),
        ("messages to rows", messages_to_grid(), messages_to_dicts()),
    ):
        contenders = {
            who: repeated(work, units=ROWS, seconds=scale.seconds, measure=MEASURE)
            for who, work in (("aimass", ours), ("dict per row", plain))
        }
        figures.measure(Case(name, contenders), scale.rounds)
    figures.notes.append(f"a row is {len(SENSORS)} readings, one message each")
    return figures


def times() -> Iterator[int]:
    """Times of rows, for ever."""
    time_ms = START_MS
    while True:
        yield time_ms
        time_ms += STEP_MS


def readings_to_grid() -> Callable[[], object]:
    """As the ingest does after each message: add, then ask whether a row is due."""
    grid, clock = RowGrid(len(SENSORS), grid_options(SETTINGS)), times()

    def work() -> None:
        for _ in range(ROWS):
            time_ms = next(clock)
            for index in range(len(SENSORS)):
                grid.add(index, time_ms, 1.5, now_ms=time_ms)
                if grid.due():
                    _drain(grid)

    return work


def readings_to_dicts() -> Callable[[], object]:
    plain, clock = Plain(), times()

    def work() -> None:
        for _ in range(ROWS):
            time_ms = next(clock)
            for name in SENSORS:
                plain.add(name, time_ms, 1.5)

    return work


def _drain(grid: RowGrid) -> None:
    for _ in grid.rows():
        pass


def message(sensor: str, time_ms: int) -> Inbound:
    payload = b'{"timestamp_ms": %d, "value": 1.5}' % time_ms
    return Inbound(SETTINGS.topic.replace("{sensor}", sensor), payload, retain=False)


def messages_to_grid() -> Callable[[], object]:
    grid, clock = RowGrid(len(SENSORS), grid_options(SETTINGS)), times()
    source = UnsTags(SETTINGS, grid)

    def work() -> None:
        for _ in range(ROWS):
            time_ms = next(clock)
            for sensor in SENSORS:
                source.take(message(sensor, time_ms), time_ms)
                if grid.due():
                    _drain(grid)

    return work


def messages_to_dicts() -> Callable[[], object]:
    plain, clock = Plain(), times()

    def work() -> None:
        for _ in range(ROWS):
            time_ms = next(clock)
            for sensor in SENSORS:
                one = message(sensor, time_ms)
                document = msgspec.json.decode(one.payload)
                name = one.topic.rsplit("/", 1)[1]
                plain.add(name, document["timestamp_ms"], document["value"])

    return work
