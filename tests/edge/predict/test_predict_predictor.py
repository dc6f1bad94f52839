"""The predictor with real sessions: windows, requests, swaps, bursts, and its end."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from msgspec import structs

from aimass_edge.capacity import Estimate
from aimass_edge.config import BoardSettings, CapacitySettings, Policy
from aimass_edge.predict import Calibrations, Counts, Predictor
from aimass_shared.errors import (
    AimassError,
    BadTensorError,
    CloudUnavailableError,
    DeadlineExceededError,
    ModelError,
    ModelLoadFailedError,
    NoActiveModelError,
    NotFoundError,
    OverloadedError,
)
from aimass_shared.inference import InferRequest, InferResponse, WantedOutput
from aimass_shared.manifest import Normal
from aimass_shared.windows import Window

Make = Callable[..., Any]
Until = Callable[..., Awaitable[None]]
BOARD = BoardSettings(name="test-board")
CAPACITY = CapacitySettings(default_deadline_ms=30_000, queue_limit=64, safety=1.5)
SENSORS = ("A", "B", "C")


def balanced(counts: Counts) -> bool:
    """Nothing is lost: each window and request ended in exactly one way."""
    requests = counts.answered + counts.handed_off + counts.refused + counts.late
    windows = counts.predicted + counts.uncovered + counts.failed_windows
    return (
        counts.requests == requests + counts.invalid + counts.failed and counts.windows == windows
    )


class Burst:
    """Requests at once; what became of each, and how long it took."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.answers: list[InferResponse] = []
        self.errors: list[AimassError] = []
        self.longest_s = 0.0

    async def ask(self, request: InferRequest) -> None:
        start = time.monotonic()
        try:
            self.answers.append(await self._predictor.infer(request))
        except AimassError as error:
            self.errors.append(error)
        self.longest_s = max(self.longest_s, time.monotonic() - start)

    async def run(self, requests: list[InferRequest]) -> None:
        async with anyio.create_task_group() as tasks:
            for request in requests:
                tasks.start_soon(self.ask, request)


async def test_a_window_becomes_a_prediction(make_release: Make, make_window: Make) -> None:
    release = make_release("r1")
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*release)
        window: Window = make_window([1.0, 2.0, 3.0], sequence=7)
        result = await predictor.predict(window, SENSORS)
        assert result is not None
        assert (result.model, result.release, result.slice) == ("tiny", "r1", "w1.00-fp32")
        assert (result.score, result.threshold, result.alarm) == (14.0, 10.0, False)
        assert result.top_sensors == ("C", "B")
        assert result.contributions == (9.0, 4.0)
        assert result.forecast == (1.0, 2.0, 3.0)
        assert (result.sequence, result.window_end) == (7, window.end_ms)
        assert (result.coverage, result.place) == (1.0, "local")
        assert result.service_ms > 0
        stats = predictor.stats()
        assert (stats.predictions, stats.alarms) == (1, 0)
        assert stats.p99_ms >= stats.p50_ms > 0
        assert stats.rss_mib > 1


async def test_the_alarm_rises_after_windows_in_a_row(
    make_release: Make, make_window: Make
) -> None:
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*make_release())
        alarms = []
        for sequence in range(4):
            result = await predictor.predict(
                make_window([3.0, 3.0, 3.0], sequence=sequence), SENSORS
            )
            assert result is not None
            alarms.append(result.alarm)
        assert alarms == [False, False, True, True]
        assert predictor.stats().alarms == 2


async def test_the_newest_window_is_explained_by_every_sensors_part(
    make_release: Make, make_window: Make
) -> None:
    async with Predictor(BOARD, CAPACITY) as predictor:
        assert (predictor.explanation(), predictor.drift()) == (None, {})
        await predictor.activate(*make_release())
        assert predictor.explanation() is None
        await predictor.predict(make_window([1.0, 2.0, 3.0]), SENSORS)
        found = predictor.explanation()
        assert found is not None
        assert found.contributions == {"A": 1.0, "B": 4.0, "C": 9.0}
        assert (found.score, found.threshold) == (14.0, 10.0)
        assert predictor.drift() == {}, "this contract has no reference"


async def test_drift_is_told_of_every_sensor_and_the_worst_go_into_the_heartbeat(
    make_release: Make, make_window: Make
) -> None:
    release = make_release()
    normal = Normal((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    contract = structs.replace(release.manifest.contract, normal=normal)
    manifest = structs.replace(release.manifest, contract=contract)
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(manifest, release.entry, release.directory)
        for sequence in range(40):
            await predictor.predict(make_window([0.0, 0.0, 9.0], sequence=sequence), SENSORS)
        assert predictor.drift().keys() == {"A", "B", "C"}
        assert predictor.stats().drift == {"C": predictor.drift()["C"].inputs}


async def test_a_site_calibrates_its_own_limit_where_it_is_asked_to(
    make_release: Make, make_window: Make, tmp_path: Path
) -> None:
    release, kept = make_release(), Calibrations(30, tmp_path)
    async with Predictor(BOARD, CAPACITY, calibrations=kept) as predictor:
        await predictor.activate(*release)
        results = [
            await predictor.predict(make_window([3.0, 3.0, 3.0 + number % 3]), SENSORS)
            for number in range(33)
        ]
        assert all(result is not None for result in results)
        limits = [result.threshold for result in results if result is not None]
        assert limits[:30] == [10.0] * 30
        found = predictor.site_limit()
        assert found is not None
        assert limits[30:] == [found.threshold] * 3
        assert found.threshold > 43.0, "this site is normal at 27 to 43"
        last = results[-1]
        assert last is not None
        assert not last.alarm
    async with Predictor(BOARD, CAPACITY, calibrations=kept) as predictor:
        await predictor.activate(*release)
        again = await predictor.predict(make_window([3.0, 3.0, 3.0]), SENSORS)
        assert again is not None
        assert again.threshold == found.threshold


async def test_too_few_values_make_no_prediction(make_release: Make, make_window: Make) -> None:
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*make_release())
        assert await predictor.predict(make_window([1.0]), ("A",)) is None
        assert await predictor.predict(make_window([1.0, 2.0]), ("A", "B")) is not None
        assert (predictor.counts.uncovered, predictor.counts.predicted) == (1, 1)
        assert balanced(predictor.counts)


async def test_without_a_model_it_says_so(make_window: Make, make_request: Make) -> None:
    async with Predictor(BOARD, CAPACITY) as predictor:
        assert not predictor.ready()
        assert predictor.models() == []
        with pytest.raises(NoActiveModelError):
            await predictor.predict(make_window([1.0, 2.0, 3.0]), SENSORS)
        with pytest.raises(NoActiveModelError):
            await predictor.infer(make_request())
        assert not predictor.status().ready
        assert balanced(predictor.counts)


async def test_wrong_windows_and_models_are_errors_and_counted(
    make_release: Make, make_window: Make
) -> None:
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*make_release("bad", "not_finite.onnx"))
        with pytest.raises(ModelError, match="score"):
            await predictor.predict(make_window([1.0, 2.0, 3.0]), SENSORS)
        with pytest.raises(BadTensorError, match="takes 4"):
            await predictor.predict(make_window([1.0, 2.0, 3.0], rows=5), SENSORS)
        assert predictor.counts.failed_windows == 2
        assert balanced(predictor.counts)


@pytest.mark.parametrize("batch", [1, 5])
async def test_a_request_is_answered_here(
    make_release: Make, make_request: Make, batch: int
) -> None:
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*make_release("r1"))
        answer = await predictor.infer(make_request(2.0, batch=batch, id="seven"))
        np.testing.assert_array_equal(answer.outputs["score"], [12.0] * batch)
        assert (answer.model, answer.version, answer.id) == ("tiny", "r1", "seven")
        assert answer.parameters["place"] == "local"
        assert float(answer.parameters["service_ms"]) > 0
        metadata = predictor.metadata("tiny", "")
        assert (metadata.versions, [spec.name for spec in metadata.inputs]) == (
            ("r1",),
            ["values", "mask"],
        )


async def test_wrong_requests_are_refused_before_they_cost_anything(
    make_release: Make, make_request: Make
) -> None:
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*make_release("r1"))
        wrong: list[tuple[dict[str, object], type[AimassError]]] = [
            ({"model": "other"}, NotFoundError),
            ({"version": "r0"}, NotFoundError),
            ({"inputs": {}}, BadTensorError),
            ({"outputs": (WantedOutput("nothing"),)}, BadTensorError),
        ]
        for change, kind in wrong:
            with pytest.raises(kind):
                await predictor.infer(make_request(**change))
        with pytest.raises(NotFoundError):
            predictor.metadata("tiny", "r0")
        assert predictor.counts.invalid == len(wrong)
        assert balanced(predictor.counts)
        assert await predictor.infer(make_request(version="r1"))


@pytest.mark.parametrize(
    ("file", "told"), [("other_shape.onnx", "promises"), ("text.onnx", "not numeric")]
)
async def test_a_model_that_does_not_match_leaves_the_old_one(
    make_release: Make, make_request: Make, file: str, told: str
) -> None:
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*make_release("good"))
        with pytest.raises(ModelLoadFailedError, match=told):
            await predictor.activate(*make_release("bad", file))
        assert (await predictor.infer(make_request())).version == "good"


async def test_a_damaged_file_leaves_the_old_one(make_release: Make, make_request: Make) -> None:
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*make_release("good"))
        bad = make_release("bad")
        (bad.directory / "model.onnx").write_bytes(b"\x08\x08")
        with pytest.raises(ModelLoadFailedError):
            await predictor.activate(*bad)
        assert (await predictor.infer(make_request())).version == "good"


async def test_the_old_slice_answers_until_the_new_one_is_ready_and_closes_after_its_last_run(
    make_release: Make, make_request: Make, make_pace: Make, until: Until
) -> None:
    pace = make_pace()
    first, second = make_release("r1"), make_release("r2", "monitor_b.onnx")
    async with Predictor(BOARD, CAPACITY, opener=pace) as predictor:
        await predictor.activate(*first)
        burst = Burst(predictor)
        async with anyio.create_task_group() as tasks:
            pace.gate.clear()
            tasks.start_soon(burst.ask, make_request())
            await until(lambda: predictor.counts.requests == 1)
            tasks.start_soon(predictor.activate, *second)
            await anyio.sleep(0.05)
            assert predictor.status().release == "r1", "the new one is still held in its trial"
            pace.gate.set()
        assert predictor.status().release == "r2"
        assert [(a.version, a.outputs["score"][0]) for a in burst.answers] == [("r1", 3.0)]
        assert pace.closed == [first.directory / "model.onnx"]
        answer = await predictor.infer(make_request())
        assert (answer.version, answer.outputs["score"][0]) == ("r2", 6.0)
    assert pace.closed == [r.directory / "model.onnx" for r in (first, second)]


async def test_swaps_under_load_lose_nothing(make_release: Make, make_request: Make) -> None:
    releases = [make_release("r1"), make_release("r2", "monitor_b.onnx")]
    score = {"r1": 3.0, "r2": 6.0}
    async with Predictor(BOARD, CAPACITY) as predictor:
        await predictor.activate(*releases[0])
        burst = Burst(predictor)
        async with anyio.create_task_group() as tasks:
            for round_number in range(6):
                tasks.start_soon(burst.run, [make_request() for _ in range(8)])
                await predictor.activate(*releases[(round_number + 1) % 2])
        assert burst.errors == []
        assert len(burst.answers) == 48
        for answer in burst.answers:
            assert answer.outputs["score"][0] == score[answer.version]


async def test_a_burst_is_answered_or_refused_never_late(
    make_release: Make, make_request: Make, make_pace: Make
) -> None:
    """40 runs of 100 ms do not fit into 2 s; those that cannot are told at once."""
    async with Predictor(BOARD, CAPACITY, opener=make_pace(0.1)) as predictor:
        await predictor.activate(*make_release())
        burst = Burst(predictor)
        await burst.run([make_request(deadline_ms=2000) for _ in range(40)])
        assert len(burst.answers) + len(burst.errors) == 40
        assert 1 <= len(burst.answers) <= 13
        assert all(isinstance(error, OverloadedError) for error in burst.errors)
        assert "would-be-late" in burst.errors[0].detail
        assert "deadline is 2000 ms" in burst.errors[0].detail
        assert predictor.stats().late == 0
        assert balanced(predictor.counts)
        assert predictor.status().queued == 0


async def test_a_full_queue_refuses_whatever_the_deadline(
    make_release: Make, make_request: Make, make_pace: Make
) -> None:
    settings = CapacitySettings(default_deadline_ms=30_000, queue_limit=3)
    async with Predictor(BOARD, settings, opener=make_pace(0.02)) as predictor:
        await predictor.activate(*make_release())
        burst = Burst(predictor)
        await burst.run([make_request() for _ in range(20)])
        assert len(burst.answers) == 3
        assert {error.detail.split(":")[0] for error in burst.errors} == {"queue-full"}
        assert balanced(predictor.counts)


async def test_a_run_that_takes_too_long_is_answered_at_the_deadline(
    make_release: Make, make_request: Make, make_pace: Make, until: Until
) -> None:
    pace = make_pace()
    async with Predictor(BOARD, CAPACITY, opener=pace) as predictor:
        await predictor.activate(*make_release())
        pace.gate.clear()
        with pytest.raises(DeadlineExceededError):
            await predictor.infer(make_request(deadline_ms=200))
        assert predictor.stats().late == 1
        pace.gate.set()
        await until(lambda: predictor.status().queued == 0)
        assert await predictor.infer(make_request())
        assert balanced(predictor.counts)


async def test_a_request_whose_caller_left_does_not_run(
    make_release: Make, make_request: Make, make_pace: Make, until: Until
) -> None:
    pace = make_pace()
    async with Predictor(BOARD, CAPACITY, opener=pace) as predictor:
        await predictor.activate(*make_release())
        burst = Burst(predictor)
        async with anyio.create_task_group() as tasks:
            pace.gate.clear()
            tasks.start_soon(burst.ask, make_request())
            await until(lambda: predictor.counts.requests == 1)
            with anyio.move_on_after(0.05):
                await predictor.infer(make_request())
            assert predictor.status().queued == 0
            pace.gate.set()
        assert len(burst.answers) == 1
        assert balanced(predictor.counts)


async def test_a_burst_of_requests_does_not_hold_up_telemetry(
    make_release: Make, make_request: Make, make_window: Make, make_pace: Make, until: Until
) -> None:
    async with Predictor(BOARD, CAPACITY, opener=make_pace(0.02)) as predictor:
        await predictor.activate(*make_release())
        burst = Burst(predictor)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(burst.run, [make_request() for _ in range(30)])
            await until(lambda: predictor.counts.requests == 30)
            before = len(burst.answers)
            assert await predictor.predict(make_window([1.0, 2.0, 3.0]), SENSORS)
            assert len(burst.answers) - before <= 2
        assert len(burst.answers) == 30


async def test_a_flood_of_telemetry_does_not_hold_up_requests(
    make_release: Make, make_request: Make, make_window: Make, make_pace: Make, until: Until
) -> None:
    async with Predictor(BOARD, CAPACITY, opener=make_pace(0.02)) as predictor:
        await predictor.activate(*make_release())
        async with anyio.create_task_group() as tasks:
            for sequence in range(30):
                window = make_window([1.0, 2.0, 3.0], sequence=sequence)
                tasks.start_soon(predictor.predict, window, SENSORS)
            await until(lambda: predictor.counts.windows == 30)
            before = predictor.counts.predicted
            await predictor.infer(make_request())
            assert predictor.counts.predicted - before <= 7
        assert predictor.counts.predicted == 30


async def test_the_end_answers_all_that_wait(
    make_release: Make, make_request: Make, make_window: Make, make_pace: Make, until: Until
) -> None:
    pace = make_pace()
    errors: list[AimassError] = []

    async def predict(window: Window) -> None:
        try:
            await predictor.predict(window, SENSORS)
        except AimassError as error:
            errors.append(error)

    predictor = Predictor(BOARD, CAPACITY, opener=pace)
    burst = Burst(predictor)
    async with anyio.create_task_group() as tasks, predictor:
        await predictor.activate(*make_release())
        pace.gate.clear()
        tasks.start_soon(burst.run, [make_request() for _ in range(5)])
        tasks.start_soon(predict, make_window([1.0, 2.0, 3.0]))
        await until(lambda: predictor.counts.requests + predictor.counts.windows == 6)
        pace.gate.set()
    assert len(burst.answers) + len(burst.errors) + len(errors) + predictor.counts.predicted == 6
    assert {type(error) for error in burst.errors + errors} <= {NoActiveModelError}
    assert len(pace.closed) == 1
    assert balanced(predictor.counts)


class Script:
    """A way to the cloud whose every step the test decides."""

    min_budget_ms, reserve_ms, cascade_share = 20.0, 10.0, 0.2
    policy: Policy = "local-first"

    def __init__(self, *, round_trip_ms: float = 20.0) -> None:
        self._round_trip = Estimate(round_trip_ms)
        self.budgets: list[float] = []
        self.go_on = anyio.Event()

    def ready(self) -> bool:
        return True

    def policy_of(self, model: str) -> Policy:
        assert model == "tiny"
        return self.policy

    def round_trip_ms(self) -> float:
        return self._round_trip.ms(0.0)

    async def infer(self, request: InferRequest, budget_ms: float) -> InferResponse:
        assert request.model == "tiny"
        self.budgets.append(budget_ms)
        await self.go_on.wait()
        raise CloudUnavailableError("the script says no")


async def test_what_the_cloud_fails_to_do_is_done_here_if_there_is_time(
    make_release: Make, make_request: Make, make_pace: Make, until: Until
) -> None:
    pace, cloud = make_pace(), Script()
    settings = CapacitySettings(queue_limit=1, safety=1.5)
    async with Predictor(BOARD, settings, cloud=cloud, opener=pace) as predictor:
        await predictor.activate(*make_release())
        burst = Burst(predictor)
        async with anyio.create_task_group() as tasks:
            pace.gate.clear()
            tasks.start_soon(burst.ask, make_request(deadline_ms=30_000))
            await until(lambda: predictor.status().queued == 0 and predictor.counts.requests == 1)
            tasks.start_soon(burst.ask, make_request(deadline_ms=30_000))
            await until(lambda: predictor.status().queued == 1)
            tasks.start_soon(burst.ask, make_request(deadline_ms=30_000))
            await until(lambda: len(cloud.budgets) == 1)
            pace.gate.set()
            await until(lambda: predictor.counts.answered == 2)
            cloud.go_on.set()
        assert [answer.parameters["place"] for answer in burst.answers] == ["local"] * 3
        assert cloud.budgets[0] < 30_000
        counts = predictor.counts
        assert (counts.hand_offs_failed, counts.answered, counts.handed_off) == (1, 3, 0)
        assert balanced(counts)


async def test_what_neither_can_do_is_told_as_the_clouds_failure(
    make_release: Make, make_request: Make, make_pace: Make
) -> None:
    cloud = Script()
    cloud.go_on.set()
    settings = CapacitySettings(queue_limit=0)
    async with Predictor(BOARD, settings, cloud=cloud, opener=make_pace()) as predictor:
        await predictor.activate(*make_release())
        with pytest.raises(CloudUnavailableError, match="script"):
            await predictor.infer(make_request(deadline_ms=5000))
        assert predictor.stats().refused == 1
        assert balanced(predictor.counts)


@pytest.mark.parametrize(
    "change", [{"parameters": {"may_hand_off": False}}, {"version": "r1"}, {"deadline_ms": 10}]
)
async def test_some_requests_never_leave_the_device(
    make_release: Make, make_request: Make, change: dict[str, object]
) -> None:
    cloud = Script()
    async with Predictor(BOARD, CapacitySettings(queue_limit=0), cloud=cloud) as predictor:
        await predictor.activate(*make_release("r1"))
        with pytest.raises(OverloadedError):
            await predictor.infer(make_request(**{"deadline_ms": 5000, **change}))
        assert cloud.budgets == []


async def test_a_cloud_that_is_slower_than_the_deadline_is_not_asked(
    make_release: Make, make_request: Make
) -> None:
    cloud = Script(round_trip_ms=800.0)
    async with Predictor(BOARD, CapacitySettings(queue_limit=0), cloud=cloud) as predictor:
        await predictor.activate(*make_release())
        with pytest.raises(OverloadedError, match="cloud-too-slow"):
            await predictor.infer(make_request(deadline_ms=500))
        assert cloud.budgets == []
