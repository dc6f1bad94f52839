"""Desired states: the newest wins, trials end in a commit or a way back, nothing ends the loop."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import pytest

from aimass_edge.agent import desired as module
from aimass_edge.update.fs import Fs
from aimass_shared.errors import (
    AimassError,
    BadDigestError,
    BadSignatureError,
    CloudUnavailableError,
    DownloadFailedError,
    ModelError,
    StorageFullError,
)
from aimass_shared.messages import Desired, Reported
from aimass_shared.windows import Window

Until = Callable[..., Awaitable[None]]
Device = Any  # of conftest.py, which pytest loads without a name to import it by
Shelf = Any
Live = Callable[..., AbstractAsyncContextManager[Device]]
SENSORS = ("A", "B", "C")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    monkeypatch.setattr(module, "WATCH_S", 0.02)
    monkeypatch.setattr(module, "BESIDE_RETRY_S", 0.05)


async def predict(device: Device, count: int = 1) -> None:
    """Let telemetry come in, as the telemetry loop does."""
    values = np.ones((4, 3), np.float32)
    for number in range(count):
        window = Window(number, 1000 * number, values, values, 1.0)
        try:
            await device.predictor.predict(window, SENSORS)
        except AimassError as error:
            await device.wishes.failed(error)


async def test_a_release_runs_on_trial_and_is_kept(live: Live, shelf: Shelf, until: Until) -> None:
    shelf.put("r1")
    async with live() as device:
        assert device.runs == ""
        device.want(1, "r1")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        assert device.told == [(1, "applying", ""), (1, "applied", "")]
        assert device.runs == "r1"
        assert device.slots.load().trial
        await predict(device, 2)
        assert device.slots.load().trial, "two of three windows are no proof"
        await predict(device)
        await until(lambda: device.slots.load().trial is None)
        assert device.slots.load().active == device.wishes.installed.digest
    assert device.reports[-1].release.release == "r1"


async def test_the_newest_desired_state_wins(live: Live, shelf: Shelf, until: Until) -> None:
    for name in ("r1", "r2", "r3"):
        shelf.put(name)
    async with live() as device:
        for v, name in ((1, "r1"), (2, "r2"), (3, "r3")):
            device.want(v, name)
        await until(lambda: device.told[-1:] == [(3, "applied", "")])
        assert shelf.asked == ["r3"], "what was overtaken is not fetched"
        device.want(2, "r2")
        device.want(3, "r1")
        await predict(device, 3)
        await until(lambda: device.slots.load().trial is None)
        assert (device.runs, shelf.asked) == ("r3", ["r3"])


async def test_an_older_one_is_ignored_after_a_restart_too(
    live: Live, shelf: Shelf, until: Until
) -> None:
    """A broker that replays an old retained message takes nobody back."""
    shelf.put("r1")
    shelf.put("r2")
    async with live() as device:
        device.want(7, "r2")
        await until(lambda: device.told[-1:] == [(7, "applied", "")])
        await predict(device, 3)
        await until(lambda: device.slots.load().trial is None)
    async with live() as device:
        assert device.runs == "r2", "it runs before anybody was asked"
        assert (device.wishes.reported.v, device.wishes.reported.state) == (7, "applied")
        device.want(6, "r1")
        await anyio.wait_all_tasks_blocked()
        device.want(7, "r2")
        await until(lambda: device.told[-1:] == [(7, "applied", "")])
        assert device.runs == "r2"
    assert shelf.asked == ["r2"]


async def test_a_trial_goes_on_after_a_restart(live: Live, shelf: Shelf, until: Until) -> None:
    """Three restarts within a trial must not condemn a release that works."""
    shelf.put("r1")
    async with live() as device:
        device.want(1, "r1")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
    async with live() as device:
        assert device.runs == "r1"
        device.want(1, "r1")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        await predict(device, 3)
        await until(lambda: device.slots.load().trial is None)
        assert device.slots.load().active == device.wishes.installed.digest


async def test_a_kept_release_that_is_wanted_again_is_not_loaded_again(
    live: Live, shelf: Shelf, until: Until
) -> None:
    """Its alarm counter would begin anew."""
    shelf.put("r1")
    async with live() as device:
        device.want(1, "r1")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        await predict(device, 3)
        await until(lambda: device.slots.load().trial is None)
        session = device.predictor._ladder.all[0].session
        device.want(2, "r1")
        await until(lambda: device.told[-1:] == [(2, "applied", "")])
        assert device.predictor._ladder.all[0].session is session


async def test_a_model_that_fails_on_windows_goes_back(
    live: Live, shelf: Shelf, until: Until
) -> None:
    shelf.put("good")
    shelf.put("bad", "not_finite.onnx")
    async with live() as device:
        device.want(1, "good")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        await predict(device, 3)
        await until(lambda: device.slots.load().trial is None)
        device.want(2, "bad")
        await until(lambda: device.told[-1:] == [(2, "applied", "")])
        await predict(device, 3)
        assert device.told[-1] == (2, "rejected", ModelError.code)
        assert device.reports[-1].release.release == device.runs == "good"
        await predict(device)
        assert device.predictor.counts.predicted == 4
        device.want(3, "bad")
        await until(lambda: device.told[-1:] == [(3, "rejected", "unfit-release")])
    async with live() as device:
        assert device.runs == "good"


async def test_a_bad_first_release_leaves_a_device_without_a_model(
    live: Live, shelf: Shelf, until: Until
) -> None:
    shelf.put("bad", "not_finite.onnx")
    async with live() as device:
        device.want(1, "bad")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        await predict(device, 3)
        assert device.told[-1] == (1, "rejected", ModelError.code)
        assert (device.reports[-1].release, device.runs) == (None, "")
        shelf.put("good")
        device.want(2, "good")
        await until(lambda: device.told[-1:] == [(2, "applied", "")])
        assert device.runs == "good"


async def test_a_failing_window_of_a_kept_release_condemns_nothing(
    live: Live, shelf: Shelf, until: Until
) -> None:
    shelf.put("r1")
    async with live() as device:
        device.want(1, "r1")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        await predict(device, 3)
        await until(lambda: device.slots.load().trial is None)
        for _ in range(5):
            await device.wishes.failed(ModelError("a bad day"))
        assert device.runs == "r1"
        assert device.told[-1] == (1, "applied", "")


async def test_a_release_that_does_not_load_here_leaves_the_old_one(
    live: Live, shelf: Shelf, until: Until
) -> None:
    """Its self-test passes, but it is not what its release promises."""
    shelf.put("good")
    shelf.put("odd", "other_shape.onnx", width=4)
    async with live() as device:
        device.want(1, "good")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        await predict(device, 3)
        await until(lambda: device.slots.load().trial is None)
        device.want(2, "odd")
        await until(lambda: device.told[-1:] == [(2, "rejected", "model-load-failed")])
        assert device.reports[-1].release.release == device.runs == "good"
        assert device.slots.load().trial is None, "or the next start would load it"
    async with live() as device:
        assert device.runs == "good"


async def test_an_installed_release_that_does_not_load_any_more_does_not_end_the_agent(
    live: Live, shelf: Shelf, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade of the runtime. It is not condemned: the next start may load it."""
    shelf.put("r1")
    shelf.put("r2")
    async with live() as device:
        device.want(1, "r1")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        await predict(device, 3)
        await until(lambda: device.slots.load().trial is None)
    with monkeypatch.context() as patch:
        patch.setattr("aimass_edge.predict.active.MODEL_FILE", "gone.onnx")
        patch.setattr("aimass_edge.predict.ladder.MODEL_FILE", "gone.onnx")
        async with live() as device:
            assert device.told == [(1, "rejected", "model-load-failed")]
            assert device.runs == ""
            patch.undo()
            device.want(2, "r2")
            await until(lambda: device.told[-1:] == [(2, "applied", "")])
            assert device.runs == "r2"


@pytest.mark.parametrize("error", [CloudUnavailableError("away"), DownloadFailedError("cut")])
async def test_a_link_that_fails_is_tried_again(
    live: Live, shelf: Shelf, until: Until, error: AimassError
) -> None:
    shelf.put("r1")
    shelf.troubles += [error, error]
    async with live() as device:
        device.want(1, "r1")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
    assert shelf.asked == ["r1"] * 3
    assert "rejected" not in [state for _, state, _ in device.told]


async def test_a_newer_wish_ends_the_tries(live: Live, shelf: Shelf, until: Until) -> None:
    shelf.put("r2")
    shelf.troubles += [CloudUnavailableError("away")]
    async with live() as device:
        device.want(1, "r1")
        await until(lambda: shelf.asked == ["r1"])
        device.want(2, "r2")
        await until(lambda: device.told[-1:] == [(2, "applied", "")])
    assert shelf.asked == ["r1", "r2"]


@pytest.mark.parametrize(
    "error", [BadDigestError("altered"), BadSignatureError("unsigned"), StorageFullError("full")]
)
async def test_what_is_refused_is_reported_with_its_code(
    live: Live, shelf: Shelf, until: Until, error: AimassError
) -> None:
    shelf.put("r1")
    shelf.put("r2")
    async with live() as device:
        device.want(1, "r1")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        shelf.troubles.append(error)
        device.want(2, "r2")
        await until(lambda: device.told[-1:] == [(2, "rejected", error.code)])
        assert device.reports[-1].why == error.detail
        assert device.runs == "r1"
        device.want(3, "r2")
        await until(lambda: device.told[-1:] == [(3, "applied", "")])


async def test_a_full_disk_ends_no_loop(
    live: Live, shelf: Shelf, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put("r1")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with live() as device:
        device.want(1, "r1")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        with monkeypatch.context() as patch:
            patch.setattr(Fs, "write", full)
            patch.setattr(module, "replace_durably", full)
            await predict(device, 3)
            device.want(2, "r1")
            await until(lambda: device.told[-1:] == [(2, "applied", "")])
            assert device.slots.load().trial
        await until(lambda: device.slots.load().trial is None)


async def test_no_release_wanted_changes_nothing(live: Live, shelf: Shelf, until: Until) -> None:
    shelf.put("r1")
    async with live() as device:
        device.want(1, "r1")
        await until(lambda: device.told[-1:] == [(1, "applied", "")])
        device.wishes.want(Desired(v=2, ts=1))
        await until(lambda: device.told[-1:] == [(2, "applied", "")])
        assert device.runs == "r1"


@pytest.mark.parametrize("damage", [b"", b"{", b'{"v": "seven"}', b"\xff" * 100])
async def test_a_damaged_note_is_a_device_that_hears_again(
    live: Live, tmp_path: Path, damage: bytes
) -> None:
    folder = tmp_path / "device"
    folder.mkdir()
    (folder / "reported.json").write_bytes(damage)
    async with live() as device:
        assert device.wishes.reported == Reported(v=0, ts=0, state="idle")


async def test_what_is_written_down_is_what_was_reported(
    live: Live, shelf: Shelf, until: Until, tmp_path: Path
) -> None:
    shelf.put("r1")
    async with live() as device:
        device.want(4, "r1")
        await until(lambda: device.told[-1:] == [(4, "applied", "")])
    raw = await asyncio.to_thread((tmp_path / "device" / "reported.json").read_bytes)
    assert msgspec.json.decode(raw, type=Reported) == device.reports[-1]
