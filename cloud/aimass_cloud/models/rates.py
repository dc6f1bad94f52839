"""Measures of fault detection in the field's names, over rows that are labelled one by one.

FAR, MAR, AUROC, AUPRC, F1, ADD and CDR (as in FDDBenchmark and the SKAB leaderboard). Nothing here
adjusts alarms to whole faulty stretches ("point adjustment"): by that a random score gets an F1 of
.6 to .99. Numpy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

CONSECUTIVE = 3
HALF = 0.5

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Run:
    """One stretch of scored rows in time order.

    Attributes:
        faulty: `[T]`, whether a row is. score: `[T]`, in units of the run's own limit.
    """

    faulty: Flags
    score: Floats

    @property
    def over(self) -> Flags:
        """Rows over the limit."""
        return np.asarray(self.score > 1, np.bool_)


class Rates(msgspec.Struct, frozen=True):
    """How well a score finds faults. A figure is None where there is nothing to take it from.

    Attributes:
        far: false alarm rate, share of normal rows over the limit.
        mar: missed alarm rate, share of faulty rows that are not.
        f1: of the rows over the limit. auroc, auprc: of the score, whatever the limit.
        add: average detection delay, in rows from the first faulty one to the alarm, over the
            faulty stretches with an alarm. cdr: share of faulty stretches that have one.
    """

    far: float | None
    mar: float | None
    f1: float | None
    auroc: float | None
    auprc: float | None
    add: float | None
    cdr: float | None


def rates(runs: Sequence[Run], consecutive: int = CONSECUTIVE) -> Rates:
    """All measures over all rows of all runs.

    Args:
        runs: at least one.
        consecutive: rows over the limit in a row that raise the alarm which `add` waits for.
    """
    faulty = np.concatenate([run.faulty for run in runs])
    over = np.concatenate([run.over for run in runs])
    score = np.concatenate([run.score for run in runs])
    found = [delay for run in runs for delay in delays(run, consecutive)]
    detected = [delay for delay in found if delay is not None]
    return Rates(
        far=_share(over[~faulty]),
        mar=_share(~over[faulty]),
        f1=_f1(faulty, over),
        auroc=auroc(faulty, score),
        auprc=auprc(faulty, score),
        add=float(np.mean(detected)) if detected else None,
        cdr=len(detected) / len(found) if found else None,
    )


def references(runs: Sequence[Run], seed: int = 0) -> Mapping[str, Rates]:
    """What needs no data: a random score, over its limit half of the time, and always an alarm.

    A detector that is not better than both is none.
    """
    random = np.random.default_rng(seed)
    guesses = [Run(run.faulty, random.random(len(run.faulty)) + HALF) for run in runs]
    always = [Run(run.faulty, np.full(len(run.faulty), 2.0)) for run in runs]
    return {"random": rates(guesses), "always alarm": rates(always)}


def auroc(faulty: Flags, score: Floats) -> float | None:
    """Area under the ROC curve: how often a faulty row is scored over a normal one; ties half."""
    positive = int(faulty.sum())
    negative = len(faulty) - positive
    if not (positive and negative):
        return None
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = (last - (counts - 1) / 2)[place]
    return float((rank[faulty].sum() - positive * (positive + 1) / 2) / (positive * negative))


def auprc(faulty: Flags, score: Floats) -> float | None:
    """Area under the precision-recall curve, as the average precision; ties are one step."""
    if not faulty.any():
        return None
    values, place = np.unique(-score, return_inverse=True)
    hits = np.cumsum(np.bincount(place, weights=faulty, minlength=len(values)))
    alarms = np.cumsum(np.bincount(place, minlength=len(values)))
    gained = np.diff(hits, prepend=0.0)
    return float((gained * hits / alarms).sum() / hits[-1])


def delays(run: Run, consecutive: int = CONSECUTIVE) -> list[int | None]:
    """Rows from the start of each faulty stretch to the alarm in it, None where there is none.

    An alarm that was up before the fault has not found it: the rows over the limit are counted from
    the first faulty one.
    """
    edges = np.flatnonzero(np.diff(run.faulty.astype(int), prepend=0, append=0))
    stretches = zip(edges[::2], edges[1::2], strict=True)
    return [_delay(run.over[first:end], consecutive) for first, end in stretches]


def _delay(over: Flags, consecutive: int) -> int | None:
    if len(over) < consecutive:
        return None
    raised = np.convolve(over, np.ones(consecutive), mode="valid") >= consecutive
    return int(np.argmax(raised)) + consecutive - 1 if raised.any() else None


def _f1(faulty: Flags, over: Flags) -> float | None:
    hits, wrong = int((faulty & over).sum()), int((faulty ^ over).sum())
    return 2 * hits / (2 * hits + wrong) if hits + wrong else None


def _share(flags: Flags) -> float | None:
    return float(flags.mean()) if len(flags) else None
