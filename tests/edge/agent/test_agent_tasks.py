"""Releases that take requests only: how they prove themselves, fail, come and go."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from tests.tiny_models import BRITTLE, CLASSIFIER, MATCHER, RANKER, Tiny, assert_same

from aimass_edge.agent import desired as module
from aimass_edge.agent.agent import active_slice
from aimass_edge.agent.telemetry import Parts, Telemetry
from aimass_edge.config import HistorySettings, OutboxSettings
from aimass_edge.history import History
from aimass_edge.outbox import Outbox
from aimass_shared.errors import ModelError
from aimass_shared.inference import InferRequest
from aimass_shared.windows import Row

Until = Callable[..., Awaitable[None]]
Device = Any  # of conftest.py, which pytest loads without a name to import it by
Shelf = Any
Live = Callable[..., AbstractAsyncContextManager[Device]]
SENSORS = ("A", "B", "C")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_S", 0.02)


async def applied(device: Device, v: int, release: str, until: Until) -> None:
    device.want(v, release)
    await until(lambda: device.told[-1:] == [(v, "applied", "")])


async def ask(device: Device, tiny: Tiny) -> None:
    request = InferRequest(model=tiny.contract.model, inputs=tiny.asked, deadline_ms=20_000)
    assert_same((await device.predictor.infer(request)).outputs, tiny.answer)


@pytest.mark.parametrize("tiny", [CLASSIFIER, MATCHER, RANKER], ids=["surface", "pairs", "next"])
async def test_answers_are_the_proof_of_a_release(
    live: Live, shelf: Shelf, until: Until, tiny: Tiny
) -> None:
    shelf.put_tiny("r1", tiny)
    async with live() as device:
        await applied(device, 1, "r1", until)
        assert (device.runs, device.reports[-1].release.release) == ("r1", "r1")
        for _ in range(2):
            await ask(device, tiny)
        assert device.slots.load().trial, "two of three answers are no proof"
        await ask(device, tiny)
        await until(lambda: device.slots.load().trial is None)
    async with live() as device:
        assert device.runs == "r1"
        await ask(device, tiny)


async def test_a_release_that_nobody_asks_is_kept_after_a_while(
    live: Live, shelf: Shelf, until: Until
) -> None:
    shelf.put_tiny("r1", RANKER)
    async with live(trial_s=0.1) as device:
        await applied(device, 1, "r1", until)
        await until(lambda: device.slots.load().trial is None)
        assert device.slots.load().active == device.wishes.installed.digest


async def test_one_that_is_fed_from_telemetry_is_not(
    live: Live, shelf: Shelf, until: Until
) -> None:
    shelf.put("r1")
    async with live(trial_s=0.0) as device:
        await applied(device, 1, "r1", until)
        await anyio.sleep(0.1)
        assert device.slots.load().trial


async def test_a_release_that_fails_on_requests_goes_back(
    live: Live, shelf: Shelf, until: Until
) -> None:
    shelf.put_tiny("good", CLASSIFIER)
    shelf.put_tiny("bad", BRITTLE)
    async with live() as device:
        await applied(device, 1, "good", until)
        for _ in range(3):
            await ask(device, CLASSIFIER)
        await until(lambda: device.slots.load().trial is None)
        await applied(device, 2, "bad", until)
        await ask(device, BRITTLE)
        two = InferRequest(model="surface", inputs=CLASSIFIER.asked, deadline_ms=20_000)
        for _ in range(3):
            with pytest.raises(ModelError):
                await device.predictor.infer(two)
        await until(lambda: device.told[-1:] == [(2, "rejected", "model")])
        assert "failed on 3 requests" in device.reports[-1].why
        assert device.reports[-1].release.release == device.runs == "good"
        await ask(device, CLASSIFIER)
        device.want(3, "bad")
        await until(lambda: device.told[-1:] == [(3, "rejected", "unfit-release")])


async def test_a_device_changes_between_models_that_are_fed_and_that_are_asked(
    live: Live, shelf: Shelf, until: Until, tmp_path: Path
) -> None:
    """Rows are kept meanwhile; windows are cut for the one that takes them, from all rows."""
    shelf.put("fed")
    shelf.put_tiny("asked", RANKER)
    history = History(tmp_path / "h.db", SENSORS, 1000, settings=HistorySettings())
    outbox = Outbox(tmp_path / "o.db", OutboxSettings(commit_ms=1))
    async with history, outbox, live() as device:
        plant = Plant()
        parts = Parts(source=plant, history=history, predictor=device.predictor, outbox=outbox)
        telemetry = Telemetry(parts, SENSORS, device.wishes.failed)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(telemetry.run)
            await applied(device, 1, "fed", until)
            plant.say(range(5))
            await until(lambda: device.predictor.counts.predicted == 2)
            await applied(device, 2, "asked", until)
            plant.say(range(5, 8))
            await until(lambda: telemetry.rows == 8)
            await ask(device, RANKER)
            assert device.predictor.counts.windows == 2
            await applied(device, 3, "fed", until)
            plant.say([8])
            await until(lambda: device.predictor.counts.predicted == 3)
            assert device.predictor.counts.failed_windows == 0
            tasks.cancel_scope.cancel()
        assert history.count() == 9


async def test_a_slice_without_a_gradient_step_is_trained_by_nobody(
    live: Live, shelf: Shelf, until: Until
) -> None:
    shelf.put_tiny("r1", RANKER)
    async with live() as device:
        assert active_slice(None) is None
        await applied(device, 1, "r1", until)
        active = active_slice(device.wishes.installed)
        assert active is not None
        assert (active.train, active.contract.telemetry) == (None, False)


class Plant:
    """A source of rows that are all alike, one a second."""

    def __init__(self) -> None:
        self._rows: asyncio.Queue[Row] = asyncio.Queue()

    def say(self, numbers: Iterable[int]) -> None:
        ones = np.ones(3, np.float32)
        for number in numbers:
            self._rows.put_nowait(Row(number * 1000, ones, ones))

    async def rows(self) -> AsyncIterator[Row]:
        while True:
            yield await self._rows.get()

    async def publish(self, *_: object) -> None:
        pass
