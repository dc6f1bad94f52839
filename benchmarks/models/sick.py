"""SICK 2014, or any pairs with scores: relatedness by `text-match`, beside measures of overlap."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from aimass_cloud import training
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.text_match import RECIPE
from benchmarks.models.table import Row, at_least

BAR: Final = 0.80
BASELINES: Final = {"jaccard": "Jaccard", "tf_idf": "tf-idf cosine", "ridge": "ridge on overlap"}
FIGURES: Final = {"pearson": "Pearson", "spearman": "Spearman", "accuracy": "accuracy", "f1": "F1"}


def measure(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    """Figures of every width, and of the baselines, on the test part."""
    models = [_trained(folder, seed) for seed in seeds]
    widths = [f"{width:.2f}" for width in models[0].info.widths]
    rows = [
        _judged(row, full=width == widths[0])
        for width in widths
        for row in _rows(f"ours, width {width}", [one.metrics["by_width"][width] for one in models])
    ]
    for name, candidate in BASELINES.items():
        rows += _rows(candidate, [one.metrics["baselines"][name] for one in models])
    return rows


def _trained(folder: Path, seed: int) -> TrainedModel:
    run = msgspec.structs.replace(RECIPE.run, data=str(folder), seed=seed)
    return training.train(RECIPE.name, run)


def _rows(candidate: str, figures: Sequence[Mapping[str, float]]) -> list[Row]:
    """Means over the seeds."""
    return [
        Row("SICK", candidate, label, float(np.mean([each[name] for each in figures])))
        for name, label in FIGURES.items()
        if name in figures[0]
    ]


def _judged(row: Row, *, full: bool) -> Row:
    return at_least(row, BAR) if full and row.measure == "Pearson" else row
