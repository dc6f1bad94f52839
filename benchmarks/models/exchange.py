"""Daily exchange rates of eight countries by `price-series`, beside persistence.

The last rate, repeated, tends to win.

Cut in time, 72 % to train, 8 % to choose, 20 % to test. There is no bar: the recipe's promise is
that its report says who won, and that its band of 80 % covers about that.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from aimass_cloud import training
from aimass_cloud.recipes.price_series import RECIPE
from benchmarks.models.table import Row

FILE: Final = "exchange_rate.txt.gz"
HORIZONS: Final = (12, 96)


def measure(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    """Errors in training deviations, directions and coverage, mean of the seeds."""
    rows = []
    for horizon in HORIZONS:
        found = [_figures(folder / FILE, horizon, seed) for seed in seeds]
        rows += [
            Row(f"Exchange {horizon}", candidate, name, float(np.mean([one[key] for one in found])))
            for key in found[0]
            for candidate, name in (key,)
        ]
    return rows


def _figures(file: Path, horizon: int, seed: int) -> dict[tuple[str, str], float]:
    options = {"horizon": horizon, "window": 96}
    run = msgspec.structs.replace(RECIPE.run, data=str(file), seed=seed, options=options)
    metrics: Mapping[str, Any] = training.train(RECIPE.name, run).metrics
    trend, band = metrics["trend"], metrics["band"]
    return {
        ("ours", "MSE"): metrics["val_mse"],
        ("ours", "MAE"): metrics["val_mae"],
        ("persistence", "MSE"): metrics["baselines"]["persistence"],
        ("ours", "direction %"): 100 * trend["direction_right"],
        ("always the commoner", "direction %"): 100 * trend["always_the_commoner"],
        ("ours", "covered %, of 80"): 100 * band["covered"],
    }
