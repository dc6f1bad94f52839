"""How well the sites' predictions told the fault from normal operation. Pure arithmetic.

Rates are over windows whose score is over the threshold, without an alarm rule and without point
adjustment: false alarms over windows that end in a normal row, detection over windows that end in a
faulty one. The delay is that of the alarm: samples from the fault's first row to it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np


class Seen(NamedTuple):
    """One stored prediction, placed in the replayed run: the row at which its window ends."""

    row: int
    over: bool
    alarm: bool = False
    top_sensors: Sequence[str] = ()


class Rates(msgspec.Struct, frozen=True):
    """Shares of normal and of faulty windows over the threshold."""

    false_alarm_rate: float
    detection_rate: float


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one fault over all sites.

    Attributes:
        delay_samples: median over the sites that raised an alarm; -1 if none did.
        top_sensors: named most often by the sites' first alarms.
        windows: how many predictions were judged.
        baselines: rates of other detectors on the very same rows.
    """

    fault: int
    false_alarm_rate: float
    detection_rate: float
    delay_samples: int
    top_sensors: list[str]
    windows: int
    baselines: dict[str, Rates]


def judge(
    fault: int,
    sites: Iterable[Sequence[Seen]],
    *,
    onset: int,
    baselines: dict[str, Rates],
    top: int = 3,
) -> Detection:
    """Score the predictions of all sites against the known onset of the fault.

    Args:
        fault: number of the fault that was replayed.
        sites: the predictions of each site.
        onset: first faulty row.
        baselines: rates of other detectors, to stand beside.
        top: how many sensors to name.
    """
    runs = [sorted(run, key=lambda seen: seen.row) for run in sites]
    found = rates([seen for run in runs for seen in run], onset)
    firsts = [first for run in runs if (first := first_alarm(run, onset)) is not None]
    blamed = Counter(name for seen in firsts for name in seen.top_sensors)
    return Detection(
        fault=fault,
        false_alarm_rate=found.false_alarm_rate,
        detection_rate=found.detection_rate,
        delay_samples=round(float(np.median([s.row - onset for s in firsts]))) if firsts else -1,
        top_sensors=[name for name, _count in blamed.most_common(top)],
        windows=sum(map(len, runs)),
        baselines=baselines,
    )


def rates(seen: Sequence[Seen], onset: int) -> Rates:
    """Shares over the threshold before and from the onset on."""
    return Rates(
        false_alarm_rate=share([one.over for one in seen if one.row < onset]),
        detection_rate=share([one.over for one in seen if one.row >= onset]),
    )


def first_alarm(run: Sequence[Seen], onset: int) -> Seen | None:
    """The first alarm that begins at or after the onset; one that was up before is a false one."""
    before = [None, *run][: len(run)]
    return next(
        (
            seen
            for seen, last in zip(run, before, strict=True)
            if seen.row >= onset and seen.alarm and not (last and last.alarm)
        ),
        None,
    )


def share(flags: Sequence[bool]) -> float:
    """Share of true flags; 0 where there are none."""
    return sum(flags) / len(flags) if flags else 0.0
