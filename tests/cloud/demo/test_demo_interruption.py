"""Ctrl-C once, twice, early, late; and several things of which one fails."""

import asyncio
import os
import signal

import pytest

from aimass_cloud.demo.interruption import SIGNALS, Interruption
from aimass_cloud.demo.together import together
from aimass_shared.errors import ConflictError


def _signal(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


class Work:
    """Works for ever; takes some steps to clean up, in which it may be interrupted again."""

    def __init__(self, again: signal.Signals | None = None) -> None:
        self.began = self.cleaned = False
        self._again = again

    async def __call__(self) -> str:
        self.began = True
        try:
            await asyncio.sleep(300)
        finally:
            if self._again:
                _signal(self._again)
            await asyncio.sleep(0.05)
            self.cleaned = True
        return "done"


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_cancels_and_the_work_cleans_up(number: signal.Signals) -> None:
    work = Work()

    async def main(interruption: Interruption) -> str | None:
        asyncio.get_running_loop().call_later(0.05, _signal, number)
        return await interruption.cancels(work())

    with Interruption() as interruption:
        assert asyncio.run(main(interruption)) is None
    assert interruption.happened
    assert work.cleaned


@pytest.mark.parametrize("again", SIGNALS)
def test_second_signal_does_not_interrupt_the_clean_up(again: signal.Signals) -> None:
    work = Work(again)

    async def main(interruption: Interruption) -> str | None:
        asyncio.get_running_loop().call_later(0.05, _signal, signal.SIGINT)
        return await interruption.cancels(work())

    with Interruption() as interruption:
        assert asyncio.run(main(interruption)) is None
        _signal(again)  # while files are removed
    assert work.cleaned


def test_signal_before_the_work_began_cancels_it() -> None:
    work = Work()
    with Interruption() as interruption:
        _signal(signal.SIGINT)
        assert asyncio.run(interruption.cancels(work())) is None
    assert not work.began


def test_without_a_signal_the_result_and_the_errors_are_the_works_own() -> None:
    async def done() -> str:
        return "done"

    async def fails() -> str:
        raise ConflictError("no")

    async def cancelled() -> str:
        raise asyncio.CancelledError

    with Interruption() as interruption:
        assert asyncio.run(interruption.cancels(done())) == "done"
        with pytest.raises(ConflictError):
            asyncio.run(interruption.cancels(fails()))
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(interruption.cancels(cancelled()))


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


async def test_together_gives_results_in_order() -> None:
    async def after(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    assert await together(after(s) for s in (0.03, 0.0, 0.01)) == [0.03, 0.0, 0.01]
    assert await together([]) == []


async def test_together_ends_and_awaits_the_others_when_one_fails() -> None:
    works = [Work(), Work()]

    async def fails() -> str:
        await asyncio.sleep(0.01)
        raise ConflictError("no")

    with pytest.raises(ConflictError):
        await together([works[0](), fails(), works[1]()])
    assert [work.began for work in works] == [True, True]
    assert [work.cleaned for work in works] == [True, True]


async def test_together_awaits_every_clean_up_when_cancelled() -> None:
    works = [Work(), Work(), Work()]
    task = asyncio.create_task(together([work() for work in works]))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [work.cleaned for work in works] == [True, True, True]
