"""A monitor of the site on the device: real rows, a real model file, real kills and restarts."""

import asyncio
import hashlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray
from tests import site_release as plant
from tests.site_release import LOUD, QUIET, SENSORS, WINDOW, Release, Site

from aimass_edge.config import (
    BoardSettings,
    CapacitySettings,
    EdgeSettings,
    HistorySettings,
    MonitorSettings,
)
from aimass_edge.history import History, Segment
from aimass_edge.predict import Calibrations, Predictor, SiteMonitors, SiteStatus
from aimass_edge.predict.site import BEGIN_FILE, FILE, RowHistory
from aimass_edge.predict.site_fit import Fitted, Origin, read
from aimass_shared.errors import InvalidSettingError, StorageFullError
from aimass_shared.fleet import pack

WANTED = 400
NORMAL = QUIET.rows(WANTED + WINDOW, 1)
"""Enough for the windows after the first to bring what is wanted."""
Floats = NDArray[np.float64]
Until = Callable[..., Awaitable[None]]
Live = Callable[..., AbstractAsyncContextManager[plant.Device]]


@pytest.fixture
def live(tmp_path: Path) -> Live:
    """One life of a device; another one on the same folder is a restart."""

    @asynccontextmanager
    async def run(
        release: Release, *, rows: int = WANTED, clock: int = 0, windows: int = 0
    ) -> AsyncIterator[plant.Device]:
        kept = HistorySettings()
        async with History(tmp_path / "h.db", SENSORS, plant.STEP_MS, settings=kept) as history:
            predictor = Predictor(
                BoardSettings(),
                CapacitySettings(),
                calibrations=Calibrations(windows, tmp_path),
                sites=SiteMonitors(rows, tmp_path, history),
            )
            async with predictor:
                await predictor.activate(*release)
                yield plant.Device(predictor, history, clock)

    return run


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return plant.write(tmp_path / "r1")


def _kept(release: Release) -> Fitted | None:
    """The monitor that lies on the disk beside the release."""
    digest = hashlib.sha256((release.directory / "fleet.bin").read_bytes()).hexdigest()
    return read(release.directory.parent / FILE, Origin(digest, WANTED), len(SENSORS))


def _faulty(site: Site, seed: int) -> Floats:
    """A sensor that becomes noisy."""
    rows = site.rows(300, seed)
    rows[:, 1] += np.random.default_rng(seed).normal(0, 3 * site.noise, 300)
    return rows


def _figures(quiet: Floats, faulty: Floats) -> tuple[float, float]:
    """The share of false alarms, and how often a faulty window has the larger score (AUROC)."""
    return float(np.mean(quiet > 1)), float(np.mean(faulty[:, None] > quiet[None]))


@pytest.mark.parametrize("site", [QUIET, LOUD], ids=["quiet", "loud"])
async def test_a_site_that_differs_has_fewer_false_alarms_and_sees_more(
    live: Live, release: Release, site: Site
) -> None:
    normal, bad = site.rows(500, 2), _faulty(site, 3)
    shared = plant.shared_monitor()
    async with live(release) as device:
        await device.see(site.rows(WANTED + WINDOW, 1))
        await device.settled()
        calm, found = [await device.see(rows) for rows in (normal, bad)]
    ours = _figures(plant.scores(calm)[WINDOW:], plant.scores(found)[WINDOW:])
    theirs = _figures(shared.score(normal), shared.score(bad))
    assert ours[0] < 0.02
    assert theirs[0] > ours[0] + 0.02, "it is another operating point, and another noise"
    assert ours[1] > 0.99
    assert theirs[1] < 0.9


async def test_live_predictions_are_the_sites(live: Live, release: Release) -> None:
    shared = plant.shared_monitor()
    rows = QUIET.rows(100, 4)
    rows[30:35, 0] = np.nan
    rows[60:, 2] += 3.0
    async with live(release) as device:
        early = await device.see(NORMAL)
        assert np.allclose(plant.scores(early[:50]), shared.score(NORMAL)[:50], rtol=1e-3)
        await device.settled()
        found = (await device.see(rows))[WINDOW:]
        explained, status = device.predictor.explanation(), device.status
    kept = _kept(release)
    assert kept is not None
    expected = kept.monitor.explained(rows.astype(np.float32))[1:]
    assert np.allclose(plant.scores(found), expected.sum(axis=1), rtol=1e-5)
    assert (found[-1].alarm, found[-1].threshold, found[-1].top_sensors[0]) == (True, 1.0, "heat")
    assert found[-1].forecast == pytest.approx(rows[-1], rel=1e-5)
    assert explained is not None
    assert sum(explained.contributions.values()) == pytest.approx(found[-1].score)
    assert (status.state, status.rows, status.calibration, status.weight) == (
        "active",
        round(0.8 * WANTED) - plant.LAGS,
        round(0.2 * WANTED),
        300.0,
    )
    assert np.allclose(status.limits, kept.monitor.limits.levels, atol=1e-3)


async def test_it_is_kept_for_its_fleet_and_rows_and_no_others(
    live: Live, release: Release, tmp_path: Path
) -> None:
    async with live(release) as device:
        await device.see(NORMAL)
        first = await device.settled()
    before = (tmp_path / FILE).read_bytes()
    for again in (release, plant.write(tmp_path / "r2", "r2")):
        async with live(again, clock=10_000) as device:
            assert device.status == first
            assert (await device.see(QUIET.rows(WINDOW, 5)))[0].score > 0
    assert (tmp_path / FILE).read_bytes() == before
    other = plant.write(tmp_path / "r3", packed=pack(plant.fleet(100.0)))
    for changed, rows in ((other, WANTED), (release, WANTED + 50)):
        async with live(changed, rows=rows, clock=20_000) as device:
            assert device.status.state == "collecting"
    async with live(release) as device:
        assert device.status == first, "back to the release before: nothing else was fitted"


@pytest.mark.parametrize("damage", [b"", b"0", None])
async def test_a_damaged_file_is_fitted_again_from_the_rows_that_are_recorded(
    live: Live, release: Release, tmp_path: Path, damage: bytes | None
) -> None:
    async with live(release) as device:
        await device.see(NORMAL)
        first = await device.settled()
    raw = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(raw[:-1] + b"?" if damage is None else damage)
    async with live(release, clock=len(NORMAL)) as device:
        assert device.status.state == "collecting"
        await device.see(LOUD.rows(WINDOW, 6))
        assert (await device.settled()) == first, "of the first rows, not of the newest"
    assert (tmp_path / FILE).read_bytes() == raw


async def test_a_restart_in_the_middle_loses_no_rows(live: Live, release: Release) -> None:
    async with live(release) as device:
        await device.see(NORMAL[:300])
        assert device.status.state == "collecting"
    async with live(release, clock=300) as device:
        await device.see(NORMAL[300:])
        assert (await device.settled()).rows == round(0.8 * WANTED) - plant.LAGS


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"", "no fleet"),
        (b"AIU1", "are no update"),
        (pack(plant.fleet()).replace(b'"speed"', b'"sleep"'), "other sensors"),
    ],
)
async def test_without_a_fleet_that_fits_the_releases_monitor_stays(
    live: Live, tmp_path: Path, packed: bytes, why: str
) -> None:
    async with live(plant.write(tmp_path / "r1", packed=packed)) as device:
        found = await device.see(NORMAL)
        assert (device.status.state, device.predictor.site_limit()) == ("unavailable", None)
        assert why in device.status.why
    assert np.allclose(plant.scores(found), plant.shared_monitor().score(NORMAL), rtol=1e-3)


async def test_short_windows_have_no_site_monitor(live: Live, release: Release) -> None:
    contract = structs.replace(release.manifest.contract, window=WINDOW - 1)
    short = release._replace(manifest=structs.replace(release.manifest, contract=contract))
    async with live(short) as device:
        assert "a site monitor needs 15" in device.status.why


async def test_noise_in_the_newest_rows_is_not_taken_for_normal(
    live: Live, release: Release, until: Until
) -> None:
    noisy = NORMAL.copy()
    noisy[350:] += np.random.default_rng(1).normal(0, 8, noisy[350:].shape)
    async with live(release) as device:
        await device.see(noisy)
        await until(lambda: device.status.why)
        assert (device.status.state, device.status.seen) == ("collecting", 0)
        assert "normal operation" in device.status.why
        await device.see(QUIET.rows(2 * WANTED, 7))
        assert (await device.settled()).why == ""


async def test_the_sites_monitor_wins_over_calibrated_windows(live: Live, release: Release) -> None:
    async with live(release, windows=100) as device:
        early = await device.see(NORMAL[:200])
        limit = device.predictor.site_limit()
        assert limit is not None
        assert early[-1].threshold == limit.threshold != 1.0
        await device.see(NORMAL[200:])
        await device.settled()
        assert device.predictor.site_limit() is None
        assert (await device.see(QUIET.rows(WINDOW, 8)))[-1].threshold == 1.0


class Gated:
    """A history that never answers, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self._gate = asyncio.Event()
        self.asked = 0
        self._error = error

    async def since(self, sensors: Sequence[str], time_ms: int, count: int) -> list[Segment]:
        self.asked += 1
        if self._error is not None:
            raise self._error
        del sensors, time_ms, count
        await self._gate.wait()
        return []


async def _status(release: Release, history: RowHistory, folder: Path) -> SiteStatus:
    """What a device says whose history is of this kind; it predicts all the same."""
    sites = SiteMonitors(WANTED, folder, history)
    async with Predictor(BoardSettings(), CapacitySettings(), sites=sites) as predictor:
        await predictor.activate(*release)
        device = plant.Device(predictor, None)
        await device.see(NORMAL)
        assert predictor.counts.predicted == WANTED + 1
        assert predictor.counts.failed_windows == 0
        return device.status


async def test_predictions_do_not_wait_for_the_fit(release: Release, tmp_path: Path) -> None:
    history = Gated()
    assert (await _status(release, history, tmp_path)).state == "collecting"
    assert history.asked == 1


@pytest.mark.parametrize(
    ("error", "state", "asked"),
    [(StorageFullError("full"), "collecting", 4), (RuntimeError("odd"), "unavailable", 1)],
)
async def test_a_history_that_fails_stops_no_prediction(
    release: Release, tmp_path: Path, error: Exception, state: str, asked: int
) -> None:
    history = Gated(error)
    status = await _status(release, history, tmp_path)
    assert str(error) in status.why
    assert status.state == state
    assert history.asked in {asked, asked + state.count("collecting")}, "or the last is to come"


async def test_what_cannot_be_kept_holds_until_the_restart(
    release: Release, tmp_path: Path
) -> None:
    async with History(
        tmp_path / "h.db", SENSORS, plant.STEP_MS, settings=HistorySettings()
    ) as history:
        sites = SiteMonitors(WANTED, tmp_path / "gone", history)
        async with Predictor(BoardSettings(), CapacitySettings(), sites=sites) as predictor:
            await predictor.activate(*release)
            device = plant.Device(predictor, history)
            await device.see(NORMAL)
            await device.settled()
            assert "not kept" in device.status.why


async def test_nobody_has_one_without_being_asked(live: Live, release: Release) -> None:
    async with live(release, rows=0) as device:
        await device.see(NORMAL)
        assert device.predictor.site_monitor() is None
    assert not list(release.directory.parent.glob("site_*"))


@pytest.mark.parametrize("rows", [1, 199, 1001])
def test_a_number_of_rows_that_cannot_be_is_refused(rows: int) -> None:
    history = Gated()
    asked = EdgeSettings(
        history=HistorySettings(max_rows=1000), monitor=MonitorSettings(site_rows=rows)
    )
    with pytest.raises(InvalidSettingError, match="from 200 to history"):
        SiteMonitors.asked(asked, history)
    for fine in (0, 200, 1000):
        asked = structs.replace(asked, monitor=MonitorSettings(site_rows=fine))
        assert SiteMonitors.asked(asked, history).rows == fine


def test_killed_at_any_time_it_goes_on_or_holds(release: Release, tmp_path: Path) -> None:
    """Three lives of a process: killed while it collects, killed as soon as it has a monitor."""
    del release  # it is on the disk
    said = [_life(tmp_path, clock, until) for clock, until in ((0, "250"), (250, "active"))]
    assert [line[1] for line in said] == ["collecting", "active"]
    last = _life(tmp_path, 1000, "active")
    assert last[0] == "0", "it holds from the start"
    assert last[2:] == said[1][2:]
    assert (tmp_path / BEGIN_FILE).exists()


def _life(folder: Path, clock: int, until: str) -> list[str]:
    """Run the device in a process and kill it; the line it said then: rows, state, limits."""
    command = [sys.executable, "-m", "tests.site_child", str(folder), str(clock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if until in line.split()[:2]:
                process.send_signal(signal.SIGKILL)
                assert process.wait(20) == -signal.SIGKILL
                return line.split()
    pytest.fail(f"the process ended before it said {until}")
