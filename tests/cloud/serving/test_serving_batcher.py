"""The batcher: what shares a run, who is refused, and that every request gets its own answer."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimass_cloud.serving.batcher import Batcher, BatchLimits, Done
from aimass_cloud.serving.timing import RunTimes
from aimass_shared.errors import (
    BadTensorError,
    DeadlineExceededError,
    ModelError,
    NoActiveModelError,
    OverloadedError,
)
from aimass_shared.inference import Tensor

Until = Callable[..., Awaitable[None]]


class Engine:
    """Adds one to its input, once its gate is open, and remembers what it was asked."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.begun = 0

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.begun += 1
        assert self.gate.wait(10)
        values = np.asarray(inputs["x"], np.float64)
        self.batches.append(len(values))
        self.threads.add(threading.get_ident())
        if (values < 0).any():
            raise RuntimeError("negative")
        return {"y": values + 1}


class Bench:
    """A batcher over an engine, and what it was told of its times."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.executor = executor
        self.engine = Engine()
        self.times = RunTimes()

    def batcher(self, max_batch: int = 8, queue_limit: int = 16) -> Batcher:
        limits = BatchLimits(max_batch, queue_limit)
        return Batcher(self.engine.run, limits, executor=self.executor, times=self.times)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    with ThreadPoolExecutor(1) as executor:
        made = Bench(executor)
        yield made
        made.engine.gate.set()


def _ask(
    batcher: Batcher, value: float, windows: int = 1, deadline_s: float = 10
) -> "asyncio.Task[Done]":
    inputs: dict[str, Tensor] = {"x": np.full((windows, 2), value)}
    return asyncio.create_task(batcher.submit(inputs, windows, deadline_s))


async def _hold(bench: Bench, batcher: Batcher, until: Until) -> "asyncio.Task[Done]":
    """Keep the engine busy with one window until the gate opens."""
    bench.engine.gate.clear()
    task = _ask(batcher, 0)
    await until(lambda: bench.engine.begun == 1)
    return task


async def test_what_waits_shares_a_run_and_each_gets_its_own(bench: Bench, until: Until) -> None:
    batcher = bench.batcher()
    first = await _hold(bench, batcher, until)
    others = [_ask(batcher, value, windows) for value, windows in ((1, 2), (2, 1), (3, 3))]
    await until(lambda: batcher.waiting == 6)
    bench.engine.gate.set()
    done = await asyncio.gather(first, *others)
    assert bench.engine.batches == [1, 6]
    assert [one.outputs["y"].tolist() for one in done] == [
        [[1.0, 1.0]],
        [[2.0, 2.0]] * 2,
        [[3.0, 3.0]],
        [[4.0, 4.0]] * 3,
    ]
    assert [one.batch for one in done] == [1, 6, 6, 6]
    assert all(one.queue_s >= 0 and one.run_s > 0 for one in done)


async def test_an_idle_engine_runs_at_once(bench: Bench) -> None:
    batcher = bench.batcher()
    for value in range(3):
        assert (await _ask(batcher, value)).batch == 1
    assert bench.engine.batches == [1, 1, 1]


async def test_a_run_is_no_larger_than_allowed(bench: Bench, until: Until) -> None:
    batcher = bench.batcher(max_batch=4)
    first = await _hold(bench, batcher, until)
    others = [_ask(batcher, 1, windows) for windows in (3, 1, 1, 6, 2)]
    await until(lambda: batcher.waiting == 13)
    bench.engine.gate.set()
    await asyncio.gather(first, *others)
    assert bench.engine.batches == [1, 4, 1, 6, 2]  # 6 alone: a request is never torn


async def test_windows_of_another_shape_wait_for_a_run_of_their_own(
    bench: Bench, until: Until
) -> None:
    batcher = bench.batcher()
    first = await _hold(bench, batcher, until)
    narrow = _ask(batcher, 1)
    wide = asyncio.create_task(batcher.submit({"x": np.zeros((1, 5))}, 1, 10))
    await until(lambda: batcher.waiting == 2)
    bench.engine.gate.set()
    await asyncio.gather(first, narrow, wide)
    assert bench.engine.batches == [1, 1, 1]
    assert wide.result().outputs["y"].shape == (1, 5)


async def test_a_full_queue_refuses_with_its_numbers(bench: Bench, until: Until) -> None:
    batcher = bench.batcher(queue_limit=4)
    first = await _hold(bench, batcher, until)
    waiting = _ask(batcher, 1, 3)
    await until(lambda: batcher.waiting == 3)
    with pytest.raises(OverloadedError, match="3 windows wait and 2 came, the limit is 4"):
        await _ask(batcher, 1, 2)
    bench.engine.gate.set()
    await asyncio.gather(first, waiting)
    assert (await _ask(batcher, 1, 2)).batch == 2


async def test_a_request_that_no_queue_could_take_is_the_callers_fault(bench: Bench) -> None:
    with pytest.raises(BadTensorError, match="17 windows in one request, the limit is 16"):
        await _ask(bench.batcher(), 1, 17)


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(bench: Bench, until: Until) -> None:
    bench.times.add(1, 5.0)
    batcher = bench.batcher()
    first = await _hold(bench, batcher, until)
    with pytest.raises(OverloadedError, match=r"would take \d+ ms, the deadline is 1000 ms"):
        await _ask(batcher, 1, deadline_s=1)
    bench.engine.gate.set()
    await first


async def test_an_idle_engine_tries_whatever_it_believes(bench: Bench) -> None:
    bench.times.add(1, 100.0)
    assert (await _ask(bench.batcher(), 1, deadline_s=5)).batch == 1


async def test_a_deadline_ends_the_wait_though_the_run_goes_on(bench: Bench, until: Until) -> None:
    batcher = bench.batcher()
    first = await _hold(bench, batcher, until)
    late = _ask(batcher, 1, deadline_s=0.05)
    with pytest.raises(DeadlineExceededError, match="deadline of 50 ms"):
        await late
    bench.engine.gate.set()
    await first
    assert (await _ask(batcher, 2)).batch == 1
    assert bench.engine.batches == [1, 1]  # the late one was never run
    assert batcher.waiting == 0


async def test_a_batch_stays_small_enough_for_the_tightest_deadline(
    bench: Bench, until: Until
) -> None:
    bench.times.add(1, 0.001)
    bench.times.add(8, 60.0)
    batcher = bench.batcher()
    first = await _hold(bench, batcher, until)
    others = [_ask(batcher, 1, 1, deadline_s=55), _ask(batcher, 1, 7, deadline_s=600)]
    await until(lambda: batcher.waiting == 8)
    bench.engine.gate.set()
    await asyncio.gather(first, *others)
    assert bench.engine.batches == [1, 1, 7]


async def test_a_caller_that_gives_up_is_not_run(bench: Bench, until: Until) -> None:
    batcher = bench.batcher()
    first = await _hold(bench, batcher, until)
    gone = _ask(batcher, 1)
    await until(lambda: batcher.waiting == 1)
    gone.cancel()
    bench.engine.gate.set()
    await first
    await batcher.drain()
    assert bench.engine.batches == [1]


async def test_a_failed_run_fails_its_callers_and_no_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    batcher = bench.batcher()
    with pytest.raises(ModelError, match="the model failed on this input: negative"):
        await _ask(batcher, -1)
    assert "a run over 1 windows failed" in caplog.text
    assert (await _ask(batcher, 1)).outputs["y"].tolist() == [[2.0, 2.0]]


async def test_one_bad_input_costs_those_that_shared_its_run_nothing(
    bench: Bench, until: Until
) -> None:
    batcher = bench.batcher()
    first = await _hold(bench, batcher, until)
    others = [_ask(batcher, value) for value in (1, -1, 2)]
    await until(lambda: batcher.waiting == 3)
    bench.engine.gate.set()
    await first
    good, bad, better = await asyncio.gather(*others, return_exceptions=True)
    assert isinstance(good, Done)
    assert isinstance(better, Done)
    assert good.outputs["y"].tolist() == [[2.0, 2.0]]
    assert better.outputs["y"].tolist() == [[3.0, 3.0]]
    assert isinstance(bad, ModelError)
    assert bench.engine.batches == [1, 3, 1, 1, 1]
    assert (await _ask(batcher, 5)).batch == 1


async def test_small_runs_stay_on_the_loop_and_larger_ones_leave_it(bench: Bench) -> None:
    bench.times.add(1, 0.00001)
    await _ask(bench.batcher(), 1)
    assert bench.engine.threads == {threading.get_ident()}
    slow = Bench(bench.executor)
    slow.times.add(1, 0.1)
    await _ask(slow.batcher(), 1)
    assert threading.get_ident() not in slow.engine.threads


async def test_draining_answers_what_waits_and_takes_nothing_more(
    bench: Bench, until: Until
) -> None:
    batcher = bench.batcher()
    first = await _hold(bench, batcher, until)
    second = _ask(batcher, 1)
    await until(lambda: batcher.waiting == 1)
    drained = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0)
    with pytest.raises(NoActiveModelError):
        await _ask(batcher, 1)
    bench.engine.gate.set()
    await drained
    assert (await first).batch == (await second).batch == 1


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=30), inline=st.booleans())
def test_whoever_shares_a_run_gets_what_it_would_get_alone(
    *, sizes: list[int], inline: bool
) -> None:
    async def ask_all() -> None:
        with ThreadPoolExecutor(1) as executor:
            bench = Bench(executor)
            bench.times.add(1, 0.0 if inline else 0.01)
            batcher = bench.batcher(max_batch=7, queue_limit=1000)
            tasks = [_ask(batcher, value, size) for value, size in enumerate(sizes)]
            done = await asyncio.gather(*tasks)
            expected = [np.full((size, 2), value + 1.0) for value, size in enumerate(sizes)]
            assert all(
                np.array_equal(one.outputs["y"], want)
                for one, want in zip(done, expected, strict=True)
            )
            assert sum(bench.engine.batches) == sum(sizes)
            assert max(bench.engine.batches) <= 7

    asyncio.run(ask_all())


def test_run_times_are_smoothed_and_drawn_on() -> None:
    times = RunTimes(weight=0.5)
    assert times.predict(1) is None
    times.add(1, 1.0)
    times.add(8, 8.0)
    assert times.predict(1) == 1.0
    assert times.predict(4) == pytest.approx(4.0)
    assert times.predict(32) == pytest.approx(32.0)
    times.add(8, 16.0)
    assert times.predict(8) == pytest.approx(12.0)
