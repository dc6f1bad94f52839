"""How well the sites' alarms told the fault from normal operation. Pure arithmetic.

Names as in the benchmarks of the field: false alarm rate over windows that hold only normal rows,
detection rate over windows that end in a faulty row, delay in samples from the fault's first row
to the first alarm. No point adjustment.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np


class Seen(NamedTuple):
    """One stored prediction, placed in the replayed run: the row at which its window ends."""

    row: int
    alarm: bool
    top_sensors: Sequence[str]


class Detection(msgspec.Struct):
    """The figures of one fault, over all sites; `delay_samples` is -1 if nobody raised an alarm."""

    fault: int
    false_alarm_rate: float
    detection_rate: float
    delay_samples: int
    top_sensors: list[str]
    windows: int
    baselines: dict[str, dict[str, Any]]


def judge(fault: int, sites: Iterable[Sequence[Seen]], *, onset: int, top: int = 3) -> Detection:
    """Score the alarms of all sites against the known onset of the fault.

    Args:
        fault: number of the fault that was replayed.
        sites: the predictions of each site.
        onset: first faulty row.
        top: how many sensors to name.
    """
    runs = [sorted(run) for run in sites]
    normal = [seen.alarm for run in runs for seen in run if seen.row < onset]
    faulty = [seen.alarm for run in runs for seen in run if seen.row >= onset]
    firsts = [first for run in runs if (first := first_alarm(run, onset)) is not None]
    blamed = Counter(name for seen in firsts for name in seen.top_sensors)
    return Detection(
        fault=fault,
        false_alarm_rate=share(normal),
        detection_rate=share(faulty),
        delay_samples=round(float(np.median([s.row - onset for s in firsts]))) if firsts else -1,
        top_sensors=[name for name, _count in blamed.most_common(top)],
        windows=len(normal) + len(faulty),
        baselines={},
    )


def first_alarm(run: Iterable[Seen], onset: int) -> Seen | None:
    """The first alarm at or after the onset."""
    return next((seen for seen in run if seen.row >= onset and seen.alarm), None)


def share(flags: Sequence[bool]) -> float:
    """Share of true flags; 0 where there are none."""
    return sum(flags) / len(flags) if flags else 0.0
