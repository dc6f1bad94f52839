"""How well a score finds faults: false alarms, detection and delay, for the monitor and for PCA.

Every score gets its threshold in the same way, on the same held-back rows. Rates are over windows,
without an alarm rule; the delay is that of the alarm rule. Point-adjusted scores are not offered:
a random score does well by them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aimass_cloud.models.base import VarBase
from aimass_cloud.models.monitor import ROWS, Monitor, threshold
from aimass_cloud.models.pca import Pca
from aimass_cloud.models.windows import cut
from aimass_cloud.recipes.plant import PlantData

CONSECUTIVE = 3

Floats = NDArray[np.floating]
Score = Callable[[NDArray[np.float32]], Floats]


def monitor_score(base: VarBase, monitor: Monitor, window: int) -> Score:
    """The monitor's score of each window of a run `[T, S]`, `[T - window + 1]`."""

    @torch.no_grad()
    def score(rows: NDArray[np.float32]) -> Floats:
        values = torch.tensor(cut(rows, window))
        mask = torch.ones_like(values)
        scores, _ = monitor(base, base.standardised(values, mask), mask)
        return np.asarray(scores.numpy(), np.float64)

    return score


def pca_score(pca: Pca, window: int, averaged: int = 1) -> Score:
    """PCA's score of the same windows: of the newest row, or averaged as the monitor's is."""

    def score(rows: NDArray[np.float32]) -> Floats:
        each = pca.score(rows)[window - averaged :]
        return np.convolve(each, np.full(averaged, 1 / averaged), mode="valid")

    return score


def measured(score: Score, data: PlantData, window: int) -> dict[str, Any]:
    """Figures of one score: threshold, false alarms on test rows, and each fault."""
    level = threshold(score(data.calibration))
    faults = {
        str(fault): _fault(score(rows) > level, data.fault_start - window + 1)
        for fault, rows in data.faults.items()
    }
    return {
        "threshold": level,
        "false_alarm_rate": float(np.mean(score(data.test) > level)),
        "detection_rate": float(np.mean([fault["detection_rate"] for fault in faults.values()])),
        "faults": faults,
    }


def report(monitor: Score, data: PlantData, window: int) -> dict[str, dict[str, Any]]:
    """Figures of the monitor and of PCA, fitted on the same rows and judged the same way."""
    pca = Pca.fit(data.train)
    scores: Mapping[str, Score] = {
        "monitor": monitor,
        "pca": pca_score(pca, window),
        "pca_averaged": pca_score(pca, window, ROWS),
    }
    return {name: measured(score, data, window) for name, score in scores.items()}


def _fault(over: NDArray[np.bool_], first: int) -> dict[str, float | int | None]:
    """Figures of one fault. `first` is the window that ends with the first faulty row."""
    faulty = over[first:]
    runs = np.convolve(faulty, np.ones(CONSECUTIVE), mode="valid") >= CONSECUTIVE
    alarm = int(np.argmax(runs)) + CONSECUTIVE - 1 if runs.any() else None
    return {"detection_rate": float(faulty.mean()), "delay_samples": alarm}
