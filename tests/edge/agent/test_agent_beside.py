"""Narrower slices beside the active one: after its trial, over restarts, and never at its cost."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pytest

from aimass_edge.agent import desired as module
from aimass_shared.windows import Window

Until = Callable[..., Awaitable[None]]
Device = Any  # of conftest.py, which pytest loads without a name to import it by
Shelf = Any
Live = Callable[..., AbstractAsyncContextManager[Device]]
WIDE, NARROW = "w1.00-fp32", "w0.25-fp32"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    monkeypatch.setattr(module, "WATCH_S", 0.02)
    monkeypatch.setattr(module, "BESIDE_RETRY_S", 0.05)


async def settle(device: Device, until: Until, release: str = "r1", v: int = 1) -> None:
    """Have a release run, and prove itself on telemetry."""
    device.want(v, release)
    await until(lambda: device.told[-1:] == [(v, "applied", "")])
    values = np.ones((4, 3), np.float32)
    for number in range(3):
        window = Window(number, 1000 * number, values, values, 1.0)
        await device.predictor.predict(window, ("A", "B", "C"))
    await until(lambda: device.slots.load().trial is None)


def beside(device: Device) -> tuple[str, ...]:
    names: tuple[str, ...] = device.predictor.status().narrower
    return names


async def test_a_release_that_has_proved_itself_gets_its_narrower_slice(
    live: Live, shelf: Shelf, until: Until
) -> None:
    shelf.put("r1", narrower="monitor_b.onnx")
    async with live() as device:
        device.want(1, "r1")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        assert shelf.fetched == [WIDE], "nothing more while it is on trial"
        await settle(device, until)
        await until(lambda: beside(device) == (NARROW,))
    async with live() as device:
        await until(lambda: beside(device) == (NARROW,))
    assert shelf.fetched == [WIDE, NARROW], "a restart fetches nothing"
    shelf.put("r2")
    async with live() as device:
        await settle(device, until, "r2", 2)
        assert beside(device) == ()
        await until(lambda: not device.slots.load().beside)
        store = device.slots.root / "store"
        # The narrower slice of the last release goes, once the state does not name it any more.
        await until(lambda: {path.name for path in store.iterdir()} == device.slots.load().keeps())


async def test_a_narrower_slice_that_fails_its_self_test_is_left_out_for_good(
    live: Live, shelf: Shelf, until: Until
) -> None:
    shelf.put("r1", narrower="other_shape.onnx")
    async with live() as device:
        await settle(device, until)
        await until(lambda: len(device.slots.load().bad) == 1)
        assert (device.runs, beside(device)) == ("r1", ())
    async with live() as device:
        await until(lambda: device.runs == "r1")
    assert shelf.fetched == [WIDE, NARROW]
    assert device.slots.load().active, "the active one is not touched"


async def test_what_is_not_fetched_is_tried_again_and_stops_nothing(
    live: Live, shelf: Shelf, until: Until
) -> None:
    shelf.put("r1", narrower="monitor_b.onnx")
    shelf.refuses = NARROW
    async with live() as device:
        await settle(device, until)
        await until(lambda: shelf.fetched.count(NARROW) >= 2)
        assert (device.runs, beside(device)) == ("r1", ())
        shelf.refuses = ""
        await until(lambda: beside(device) == (NARROW,))
