"""How well a score finds the faults of a plant: the monitor beside its baselines.

Every score gets its limit on the same held-back rows. Rates are over windows, without an alarm
rule; delays are those of the alarm rule. Nothing is point-adjusted: a random score does well by it.
For many sites with labelled rows see `aimass_cloud.recipes.site_detection`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from aimass_cloud.models.base import Base
from aimass_cloud.models.contract import THRESHOLD
from aimass_cloud.models.monitor import Monitor, threshold
from aimass_cloud.models.pca import Pca
from aimass_cloud.models.rates import Rates, Run, delays, rates, references
from aimass_cloud.models.windows import cut
from aimass_cloud.recipes.plant import PlantData

AVERAGED = 6

Floats = NDArray[np.floating]
Score = Callable[[NDArray[np.float32]], Floats]


def monitor_score(base: Base, monitor: Monitor, window: int) -> Score:
    """The monitor's score of each window of a run `[T, S]`, `[T - window + 1]`."""

    @torch.no_grad()
    def score(rows: NDArray[np.float32]) -> Floats:
        values = torch.tensor(cut(rows, window))
        mask = torch.ones_like(values)
        scores, _ = monitor(base.standardised(values, mask), mask)
        return np.asarray(scores.numpy(), np.float64)

    return score


def pca_score(pca: Pca, window: int, averaged: int = 1) -> Score:
    """PCA's score of the same windows: of the newest row, or averaged over the newest."""

    def score(rows: NDArray[np.float32]) -> Floats:
        each = pca.score(rows)[window - averaged :]
        return np.convolve(each, np.full(averaged, 1 / averaged), mode="valid")

    return score


def report(monitor: Score, data: PlantData, window: int) -> dict[str, dict[str, Any]]:
    """Figures of the monitor and its baselines, fitted on the same rows and judged the same way.

    Random scores and a constant alarm are among them: see `aimass_cloud.models.rates.references`.
    """
    pca = Pca.fit(data.train)
    plain, averaged = pca_score(pca, window), pca_score(pca, window, AVERAGED)
    found = {
        "monitor": measured(monitor, data, window, level=THRESHOLD),
        "pca": measured(plain, data, window, level=threshold(plain(data.calibration))),
        "pca_averaged": measured(
            averaged, data, window, level=threshold(averaged(data.calibration), AVERAGED)
        ),
    }
    normal, faults = _runs(monitor, data, window, level=THRESHOLD)
    same = references([normal, *faults.values()])
    return found | {name.replace(" ", "_"): _builtins(one) for name, one in same.items()}


def measured(score: Score, data: PlantData, window: int, *, level: float) -> dict[str, Any]:
    """Figures of one score with its limit: over all test rows, and of each fault.

    Returns:
        `threshold`; `far`, `mar`, `f1`, `auroc`, `auprc`, `add` and `cdr` (see `Rates`), over the
        normal test rows and the faulty rows of all runs; and `faults`: `detection_rate` and
        `delay_samples` of each.
    """
    normal, faults = _runs(score, data, window, level=level)
    each = {
        str(fault): {"detection_rate": float(run.over.mean()), "delay_samples": delays(run)[0]}
        for fault, run in faults.items()
    }
    return {"threshold": level, **_builtins(rates([normal, *faults.values()])), "faults": each}


def _runs(
    score: Score, data: PlantData, window: int, *, level: float
) -> tuple[Run, Mapping[int, Run]]:
    """Normal test rows, and of each faulty run the windows that end with a faulty row."""
    first = data.fault_start - window + 1
    faults = {
        fault: _run(score(rows)[first:], level, faulty=True) for fault, rows in data.faults.items()
    }
    return _run(score(data.test), level, faulty=False), faults


def _run(scores: Floats, level: float, *, faulty: bool) -> Run:
    return Run(np.full(len(scores), faulty), np.asarray(scores / level, np.float64))


def _builtins(found: Rates) -> dict[str, Any]:
    return dict(msgspec.structs.asdict(found))
