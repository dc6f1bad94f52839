"""The telemetry loop: rows in order, each kept, every whole window predicted once, nothing lost."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aimass_edge.agent.telemetry import Parts, Telemetry
from aimass_edge.config import (
    BoardSettings,
    CapacitySettings,
    HistorySettings,
    OutboxSettings,
)
from aimass_edge.history import History
from aimass_edge.outbox import Outbox
from aimass_edge.predict import Predictor
from aimass_shared.errors import AimassError, ModelError
from aimass_shared.manifest import Contract
from aimass_shared.messages import Prediction
from aimass_shared.windows import Row

Until = Callable[..., Awaitable[None]]
Shelf = Any  # of conftest.py
SENSORS = ("A", "B", "C")
STEP = 1000
MODEL = "monitor.onnx"


def row(number: int, value: float = 1.0, *, measured: float = 1.0) -> Row:
    values = np.full(3, value, np.float32) * measured
    return Row(number * STEP, values, np.full(3, measured, np.float32))


class Plant:
    """A source that hands out what it was given, and remembers what it was told."""

    def __init__(self) -> None:
        self._rows: asyncio.Queue[Row] = asyncio.Queue()
        self.heard: list[tuple[Prediction, tuple[str, ...]]] = []

    def say(self, rows: Iterable[Row]) -> None:
        for one in rows:
            self._rows.put_nowait(one)

    async def rows(self) -> AsyncIterator[Row]:
        while True:
            yield await self._rows.get()

    async def publish(self, prediction: Prediction, sensors: Sequence[str] = ()) -> None:
        self.heard.append((prediction, tuple(sensors)))

    @property
    def ends(self) -> list[int]:
        """Last rows of the windows that were predicted."""
        return [prediction.window_end // STEP for prediction, _ in self.heard]


@dataclass
class Life:
    """One run of the loop over real parts."""

    plant: Plant
    telemetry: Telemetry
    predictor: Predictor
    history: History
    outbox: Outbox
    failures: list[AimassError] = field(default_factory=list)


Live = Callable[..., AbstractAsyncContextManager[Life]]


@pytest.fixture
def live(tmp_path: Path, shelf: Shelf) -> Live:
    """A run with a model of the shelf, or none."""

    @asynccontextmanager
    async def run(model: str = "") -> AsyncIterator[Life]:
        history = History(tmp_path / "h.db", SENSORS, STEP, settings=HistorySettings())
        outbox = Outbox(tmp_path / "o.db", OutboxSettings(commit_ms=1))
        async with history, outbox, Predictor(BoardSettings(), CapacitySettings()) as predictor:
            if model:
                await activate(predictor, shelf, model)
            plant = Plant()
            failures: list[AimassError] = []

            async def failed(error: AimassError) -> None:
                failures.append(error)

            parts = Parts(source=plant, history=history, predictor=predictor, outbox=outbox)
            telemetry = Telemetry(parts, SENSORS, failed)
            task = asyncio.create_task(telemetry.run())
            try:
                yield Life(plant, telemetry, predictor, history, outbox, failures)
            finally:
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled(), task.exception()

    return run


async def activate(predictor: Predictor, shelf: Shelf, model: str) -> None:
    if model not in shelf.releases:
        shelf.put(model, model)
    bundle, entry = shelf.releases[model]
    _, manifest, _ = bundle.read()
    await predictor.activate(manifest, entry, shelf.folder / model)


def outbox_rows(folder: Path) -> list[Prediction]:
    with sqlite3.connect(folder / "o.db") as db:
        bodies = db.execute("select body from outbox order by id").fetchall()
    return [msgspec.json.decode(body, type=Prediction) for (body,) in bodies]


async def test_rows_are_kept_before_there_is_a_model(live: Live, until: Until) -> None:
    async with live() as life:
        life.plant.say(map(row, range(6)))
        await until(lambda: life.telemetry.rows == 6)
        await until(lambda: life.history.count() == 6)
        assert (life.plant.heard, life.outbox.pending()) == ([], 0)


async def test_each_whole_window_is_predicted_once_in_order_and_kept_for_the_cloud(
    live: Live, until: Until, tmp_path: Path
) -> None:
    async with live(MODEL) as life:
        life.plant.say(row(number, number) for number in range(10))
        await until(lambda: len(life.plant.heard) == 7)
        assert life.plant.ends == [3, 4, 5, 6, 7, 8, 9]
        predictions = [prediction for prediction, _ in life.plant.heard]
        assert life.plant.heard[0][1] == SENSORS
    assert outbox_rows(tmp_path) == predictions
    assert predictions[0].score == pytest.approx(3 * (0 + 1 + 4 + 9) / 4)
    assert predictions[-1].forecast == (9.0, 9.0, 9.0)


async def test_a_gap_begins_a_new_window(live: Live, until: Until) -> None:
    async with live(MODEL) as life:
        life.plant.say(map(row, (0, 1, 2, 3, 7, 8, 9, 10)))
        await until(lambda: life.telemetry.rows == 8)
        await until(lambda: life.plant.ends == [3, 10])


async def test_an_agent_that_was_started_again_is_not_blind_for_a_window(
    live: Live, until: Until
) -> None:
    """The rows that it recorded lead up to the next one; after an outage they do not."""
    async with live(MODEL) as life:
        life.plant.say(map(row, range(6)))
        await until(lambda: life.plant.ends == [3, 4, 5])
    async with live(MODEL) as life:
        life.plant.say(map(row, (6, 7)))
        await until(lambda: life.plant.ends == [6, 7])
        assert life.plant.heard[0][0].score == pytest.approx(3.0)
    async with live(MODEL) as life:
        life.plant.say(map(row, (9, 10, 11, 12)))
        await until(lambda: life.plant.ends == [12])


async def test_another_model_begins_with_the_rows_that_are_there(
    live: Live, shelf: Shelf, until: Until
) -> None:
    async with live(MODEL) as life:
        life.plant.say(map(row, range(5)))
        await until(lambda: life.plant.ends == [3, 4])
        await activate(life.predictor, shelf, "monitor_b.onnx")
        life.plant.say([row(5)])
        await until(lambda: life.plant.ends == [3, 4, 5])
        assert life.plant.heard[-1][0].release == "monitor_b.onnx"
        assert life.plant.heard[-1][0].score == pytest.approx(6.0)


async def test_too_little_measured_is_no_prediction(
    live: Live, until: Until, contract: Contract
) -> None:
    assert contract.min_coverage > 0.25
    async with live(MODEL) as life:
        life.plant.say([*(row(number, measured=0.0) for number in range(3)), row(3)])
        await until(lambda: life.predictor.counts.uncovered == 1)
        assert (life.plant.heard, life.failures) == ([], [])


async def test_a_model_that_fails_is_told_and_the_next_window_is_taken(
    live: Live, shelf: Shelf, until: Until
) -> None:
    async with live("not_finite.onnx") as life:
        life.plant.say(map(row, range(6)))
        await until(lambda: len(life.failures) == 3)
        assert {type(error) for error in life.failures} == {ModelError}
        assert (life.plant.heard, life.outbox.pending()) == ([], 0)
        await activate(life.predictor, shelf, MODEL)
        life.plant.say([row(6)])
        await until(lambda: life.plant.ends == [6])


async def test_an_alarm_is_counted_once_when_it_begins(live: Live, until: Until) -> None:
    levels = [1.0] * 4 + [5.0] * 9 + [1.0] * 9 + [5.0] * 9
    async with live(MODEL) as life:
        life.plant.say(row(number, level) for number, level in enumerate(levels))
        await until(lambda: len(life.plant.heard) == len(levels) - 3)
        alarms = [prediction.alarm for prediction, _ in life.plant.heard]
        begins = sum(now and not before for before, now in pairwise([False, *alarms]))
        assert begins == life.telemetry.alarms == 2
        assert sum(alarms) > 2


async def test_nothing_is_learnt_from_rows_that_the_model_finds_abnormal(
    live: Live, until: Until
) -> None:
    levels = [1.0] * 6 + [5.0] * 4 + [1.0] * 8
    async with live(MODEL) as life:
        life.plant.say(row(number, level) for number, level in enumerate(levels))
        await until(lambda: len(life.plant.heard) == len(levels) - 3)
        over = [one.window_end for one, _ in life.plant.heard if one.score > one.threshold]
        segments = await life.history.segments(SENSORS)
        usable = sum(len(values) for values, _ in segments)
        assert over
        assert usable == len(levels) - len(over)
        assert life.history.count() == len(levels)


async def test_a_history_that_cannot_be_written_stops_no_prediction(
    live: Live, until: Until, tmp_path: Path
) -> None:
    async with live(MODEL) as life:
        with sqlite3.connect(tmp_path / "h.db") as other:
            other.execute("drop table rows")
        life.plant.say(map(row, range(5)))
        await until(lambda: life.plant.ends == [3, 4])
        assert life.telemetry.unkept_rows == 5
