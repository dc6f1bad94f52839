"""NEU steel surface defects at 64 by 64: six classes, one nested training for all widths.

Everything is chosen on the training and held-back pictures of one split; the test pictures are the
same for all seeds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from aimass_cloud import recipes
from aimass_cloud.training import train
from benchmarks.models.table import Row, at_least, at_most

SET: Final = "NEU 64x64"
FULL_BAR, GAP_BAR = 98.0, 1.5


def measure(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    """Accuracy of every width, the gap of the narrowest, and baselines."""
    found = [metrics(folder, seed) for seed in seeds]
    accuracy = {width: mean(found, width, "accuracy") for width in found[0]["all_test"]}
    full, *_, narrow = accuracy
    ours = [Row(SET, f"ours, width {width}", "accuracy %", at) for width, at in accuracy.items()]
    return [
        at_least(ours[0], FULL_BAR),
        *ours[1:],
        at_most(
            Row(SET, f"ours, {full} - {narrow}", "points", accuracy[full] - accuracy[narrow]),
            GAP_BAR,
        ),
        Row(SET, f"ours, width {full}", "log loss", mean(found, full, "log_loss") / 100),
        *baseline_rows(SET, found[0]),
        Row(SET, "ours, all widths", "CPU s", cpu_seconds(found)),
    ]


def metrics(folder: Path, seed: int, **changes: Any) -> dict[str, Any]:  # noqa: ANN401  of settings
    """Metrics of one training of the recipe on the set in a folder."""
    (data,) = sorted(folder.glob("*.npz"))
    run = msgspec.structs.replace(recipes.find("image").run, data=str(data), seed=seed, **changes)
    return train("image", run).metrics


def mean(found: Sequence[dict[str, Any]], width: str, name: str) -> float:
    """The mean of a figure over the seeds, times 100."""
    return 100 * float(np.mean([one["all_test"][width][name] for one in found]))


def cpu_seconds(found: Sequence[dict[str, Any]]) -> float:
    """The mean CPU time of a training."""
    return float(np.mean([one["training"]["cpu_seconds"] for one in found]))


def baseline_rows(name: str, found: dict[str, Any]) -> list[Row]:
    """Accuracy of the baselines, which are the same for every seed."""
    return [
        Row(name, candidate, "accuracy %", 100 * figures["accuracy"])
        for candidate, figures in found["baselines"].items()
    ]
