"""A subset of CIFAR-10 (1,000 training and 300 test pictures a class, as small JPEG files).

No bar; beside the baselines stands a network of the narrowest width's size that was trained alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aimass_cloud.recipes.image import RECIPE, SIZES
from benchmarks.models.neu import baseline_rows, cpu_seconds, mean, metrics
from benchmarks.models.table import Row

SET: Final = "CIFAR-10 subset"
NARROW: Final = 0.25
STEPS: Final = 4000


def measure(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    """Accuracy of every width, of a small network trained alone, and of baselines."""
    found = [metrics(folder, seed, steps=STEPS) for seed in seeds]
    small = [round(channels * NARROW) for channels in SIZES[RECIPE.run.size].stages]
    alone = [
        metrics(folder, seed, steps=STEPS, widths=(1.0,), options={"stages": small})
        for seed in seeds
    ]
    return [
        *(
            Row(SET, f"ours, width {width}", "accuracy %", mean(found, width, "accuracy"))
            for width in found[0]["all_test"]
        ),
        Row(
            SET, f"width {NARROW:.2f} trained alone", "accuracy %", mean(alone, "1.00", "accuracy")
        ),
        *baseline_rows(SET, found[0]),
        Row(SET, "ours, all widths", "CPU s", cpu_seconds(found)),
    ]
