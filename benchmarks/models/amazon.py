"""Amazon video games, next item: a ranker over the graph of users and items.

The folder holds a table of users and items in the order of time (`Video.txt.gz`). Protocol: the
last item of each user is the test, the one before is held back for every choice, the rest is
trained on; users with fewer than 3 items are not judged. Ranked are all items that are not among
the user's 50 newest, also those that nobody took in the training part. Item-kNN (cosine with
shrinkage, asymmetric norm, faded history) is tuned on the same held-back items.

Beside it, not judged: the figures of the SASRec paper, which rank the right item among 100 drawn
ones. They are easier, and do not order models as the whole list does.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from aimass_cloud.models.neighbours import Floats, Ids
from aimass_cloud.recipes.histories import Asked
from aimass_cloud.recipes.recommend import RECIPE, RecommendTask, scoring
from aimass_cloud.recipes.toplists import CHUNK, TOP, Score
from aimass_cloud.training import train
from benchmarks.models.table import Row, at_least

OURS: Final = "ours"
GAIN: Final = 1.15
"""What the full width must reach, as a share of the best baseline."""
DRAWN: Final = 100
MEASURES: Final = {f"hr_at_{TOP}": f"HR@{TOP}", f"ndcg_at_{TOP}": f"NDCG@{TOP}"}

Figures = Mapping[str, float]


def measure(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[Row]:
    """Figures of the table in a folder, mean of the seeds."""
    found: dict[str, list[Figures]] = defaultdict(list)
    drawn: dict[str, list[Figures]] = defaultdict(list)
    for seed in seeds:
        run = msgspec.structs.replace(RECIPE.run, data=str(folder), seed=seed)
        model = train(RECIPE.name, run)
        task = RECIPE.open(run)
        if not isinstance(task, RecommendTask):
            raise TypeError("another recipe's task")
        for name, figures in model.metrics["baselines"].items():
            found[name].append(figures)
        for width in model.info.widths:
            found[_named(width)].append(task.judged(model, width))
        scores = {**task.rivals(), _named(1.0): scoring(model, 1.0)}
        for name, score in scores.items():
            drawn[name].append(among_drawn(score, task.test, seed=seed))
    return [*_judged(found), *_rows("Amazon video, 100 drawn", drawn)]


def among_drawn(score: Score, asked: Asked, *, seed: int) -> Figures:
    """Figures of the right item among drawn ones that are not in the history."""
    random = np.random.default_rng((seed, DRAWN))
    parts = [
        _ranks(score, asked.history[at : at + CHUNK], asked.item[at : at + CHUNK], random=random)
        for at in range(0, len(asked), CHUNK)
    ]
    ranks = np.concatenate(parts)
    gains = np.where(ranks < TOP, 1 / np.log2(ranks + 2.0), 0.0)
    return dict(zip(MEASURES, (float((ranks < TOP).mean()), float(gains.mean())), strict=True))


def _ranks(score: Score, history: Ids, item: Ids, *, random: np.random.Generator) -> Floats:
    """How many of the drawn items are better than the right one; equal ones count half."""
    scores = score(history)
    weights = random.random(scores.shape, np.float32)
    rows = np.arange(len(scores))[:, None]
    for excluded in (history, item[:, None], np.zeros_like(item[:, None])):
        weights[rows, excluded] = 2.0
    others = scores[rows, np.argpartition(weights, DRAWN, axis=1)[:, :DRAWN]]
    right = scores[rows, item[:, None]]
    return np.asarray((others > right).sum(axis=1) + (others == right).sum(axis=1) / 2)


def _named(width: float) -> str:
    return OURS if width == 1.0 else f"{OURS}, width {width:g}"


def _judged(found: Mapping[str, Sequence[Figures]]) -> Iterator[Row]:
    """All figures; those of the full width against the best baseline."""
    rows = list(_rows("Amazon video", found))
    for row in rows:
        rivals = [one.value for one in rows if one.measure == row.measure and _is_rival(one)]
        yield at_least(row, round(GAIN * max(rivals), 4)) if row.candidate == OURS else row


def _is_rival(row: Row) -> bool:
    return not row.candidate.startswith(OURS)


def _rows(name: str, found: Mapping[str, Sequence[Figures]]) -> Iterator[Row]:
    for candidate, figures in found.items():
        for key, measure in MEASURES.items():
            yield Row(name, candidate, measure, float(np.mean([one[key] for one in figures])))
