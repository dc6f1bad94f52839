"""Contenders in turns, and what their costs are to each other; nothing here knows what they do.

All figures are costs (time or memory for one unit of work), so a ratio below 1 means that ours is
the cheaper one. Rounds are interleaved and ratios are taken within a round, so that whatever else
the machine does meets both.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

Sample = Mapping[str, float]
"""What one turn cost, by measure, such as `{"CPU us a row": 12.5}`."""
Turn = Callable[[], Sample]

MICRO = 1e6
MILLI = 1e3


class Scale(msgspec.Struct, frozen=True):
    """How much to measure: rounds, seconds of one turn, and whether small sizes will do."""

    rounds: int
    seconds: float
    quick: bool


FULL = Scale(rounds=7, seconds=0.5, quick=False)
QUICK = Scale(rounds=3, seconds=0.1, quick=True)


class Case(NamedTuple):
    """Contenders for the same work; those named in `ours` are compared with all others."""

    name: str
    contenders: Mapping[str, Turn]
    ours: tuple[str, ...] = ("aimass",)


class Series(msgspec.Struct, frozen=True):
    """Costs of one contender, one value a round."""

    case: str
    measure: str
    who: str
    ours: bool
    values: tuple[float, ...]
    min: float
    median: float
    max: float


class Ratio(msgspec.Struct, frozen=True):
    """Cost of ours divided by that of the other; `median` of the ratios within each round."""

    case: str
    measure: str
    ours: str
    other: str
    min: float
    median: float
    max: float


class Result(msgspec.Struct, frozen=True):
    """All of one benchmark."""

    name: str
    about: str
    seconds: float
    series: tuple[Series, ...]
    ratios: tuple[Ratio, ...]
    notes: tuple[str, ...]


class Figures:
    """Collects the cases of one benchmark while it runs."""

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.ratios: list[Ratio] = []
        self.notes: list[str] = []

    def measure(self, case: Case, rounds: int) -> None:
        """Let the contenders of a case take turns, every second round in the opposite order."""
        samples: dict[str, list[Sample]] = {who: [] for who in case.contenders}
        for number in range(rounds):
            order = list(case.contenders)
            for who in order if number % 2 == 0 else reversed(order):
                samples[who].append(case.contenders[who]())
        self._take(case, samples)

    def _take(self, case: Case, samples: Mapping[str, Sequence[Sample]]) -> None:
        measures = dict.fromkeys(name for turns in samples.values() for name in turns[0])
        for measure in measures:
            table = {
                who: tuple(sample[measure] for sample in turns)
                for who, turns in samples.items()
                if measure in turns[0]
            }
            self._add(case, measure, table)

    def _add(self, case: Case, measure: str, table: Mapping[str, tuple[float, ...]]) -> None:
        for who, values in table.items():
            spread = _spread(values)
            self.series.append(Series(case.name, measure, who, who in case.ours, values, *spread))
        for ours in (who for who in table if who in case.ours):
            for other in (who for who in table if who not in case.ours):
                shares = [a / b for a, b in zip(table[ours], table[other], strict=True)]
                self.ratios.append(Ratio(case.name, measure, ours, other, *_spread(shares)))


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def repeated(work: Callable[[], object], *, units: int, seconds: float, measure: str) -> Turn:
    """A turn of `work` again and again for about `seconds`: CPU microseconds of a unit.

    CPU time of the thread, not wall time: work that never waits costs that, and others on the same
    machine do not change it as much.

    Args:
        work: does `units` units of work in the calling thread.
        units: of one call.
        seconds: of one turn.
        measure: what the figure is called.
    """
    work()
    began = time.thread_time()
    work()
    times = max(1, round(seconds / max(time.thread_time() - began, 1e-6)))

    def turn() -> Sample:
        start = time.thread_time()
        for _ in range(times):
            work()
        return {measure: (time.thread_time() - start) / (times * units) * MICRO}

    return turn
