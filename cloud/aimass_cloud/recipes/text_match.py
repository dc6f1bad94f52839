"""Recipe "text-match": whether two short texts say the same, and how related they are."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimass_cloud.datasets import pairs
from aimass_cloud.datasets.pairs import PairParts, Pairs
from aimass_cloud.models import word_tables
from aimass_cloud.models.correlation import accuracy, f1, pearson, spearman, unexplained
from aimass_cloud.models.network import Batch, Network, Tensors, tensors
from aimass_cloud.models.overlap import OverlapRidge, jaccard
from aimass_cloud.models.samples import Arrays, Part, Samples
from aimass_cloud.models.texts import TextMatcher, TextsConfig, blank, shares
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_cloud.recipes import work_orders
from aimass_cloud.recipes.run import Optimizer, RunSettings, Schedule, configured
from aimass_cloud.recipes.sampling import Drawn
from aimass_cloud.recipes.task import Source, Task
from aimass_shared.manifest import BYTES, Contract, Role, TensorSpec
from aimass_shared.moments import Moments
from aimass_shared.vocabulary import MAX_LENGTH, fit_words, pack, words

MODEL: Final = "text-match"
SIZES: Final = {
    "tiny": TextsConfig(meaning=32, form=16, hidden=16),
    "base": TextsConfig(),
    "large": TextsConfig(meaning=256, form=128, hidden=256),
    "xl": TextsConfig(meaning=2048, form=1024, hidden=4096),
}
COVERED: Final = 99.5
"""Percent of the training texts that a model takes whole, where no length is given."""
STEP: Final = 8
MOST_CALIBRATED, MOST_TESTED = 1_000, 5_000

HALF = 0.5
CONTRACT: Final = Contract(
    model=MODEL,
    inputs=(TensorSpec("a", BYTES, (-1,)), TensorSpec("b", BYTES, (-1,))),
    outputs=(TensorSpec("match", "FP32", (-1,)), TensorSpec("relatedness", "FP32", (-1,))),
    task="match",
)

Ids = NDArray[np.int64]
Numbers = NDArray[Any]


class TextTask(Task):
    """Pairs of texts with their vocabulary."""

    def __init__(self, parts: PairParts, config: TextsConfig, run: RunSettings) -> None:
        """Fit the vocabulary to the training texts, and the scale to their scores."""
        texts = [*parts.train.a, *parts.train.b]
        length = config.length or _length(texts)
        self._parts, self._seed = parts, run.seed
        self._scale = pairs.scale_of(parts.train.score, run.data)
        self._words = fit_words(texts, most=config.words, length=length, buckets=config.buckets)
        self.config: TextsConfig = msgspec.structs.replace(
            config, rows=self._words.size, length=length
        )
        self.contract = CONTRACT
        self.assets: Mapping[Role, bytes] = {"vocabulary": pack(self._words)}

    def network(self) -> Network:
        """A matcher whose table of words starts from the training texts."""
        config, scale = self.config, self._scale
        start = word_tables.start(
            self._words,
            np.concatenate(self._sides(self._parts.train)),
            meaning=config.meaning,
            form=config.form,
            seed=self._seed,
        )
        start["low"] = np.array([scale.low], np.float32)
        start["span"] = np.array([scale.high - scale.low], np.float32)
        return TextMatcher(config, tensors(start))

    def source(self, *, batch: int, rank: int = 0, world: int = 1) -> Source:
        """Training pairs."""
        return Drawn(self._batch(self._parts.train), self._seed, batch, rank, world)

    def held_back(self) -> Sequence[Batch]:
        """The pairs of the calibration part."""
        return (self._batch(self._parts.calibration),)

    def watch(
        self,
        network: Network,  # noqa: ARG002  its predictions are all it takes
        widths: Sequence[float],
        predict: Callable[[float, Batch], Tensor],
    ) -> float:
        """The mean over widths of what held-back relatedness does not correlate (1 - Pearson)."""
        told = []
        for width in widths:
            given = np.concatenate(
                [shares(predict(width, batch)).numpy() for batch in self.held_back()]
            )
            told.append(1 - pearson(given, self._scale.share(self._parts.calibration.score)))
        return sum(told) / len(told)

    def samples(self) -> Samples:
        """Held-back and test pairs, as numbers of words."""
        calibration = _first(self._parts.calibration, MOST_CALIBRATED)
        test = _first(self._parts.test, MOST_TESTED)
        return Samples(self._part(calibration), self._part(test), self._selftest())

    def baselines(self) -> dict[str, Any]:
        """Figures of shared words, tf-idf and a ridge over measures of overlap."""
        train, test = self._parts.train, _first(self._parts.test, MOST_TESTED)
        known, sides = self._sides(train), self._sides(test)
        ridge = OverlapRidge.fit(known, train.score, self._words.size)
        told = {
            "jaccard": jaccard(sides),
            "tf_idf": ridge.tf_idf.score(sides),
            "ridge": ridge.score(sides),
        }
        return {name: correlations(given, test.score) for name, given in told.items()}

    def _sides(self, part: Pairs) -> tuple[Ids, Ids]:
        return self._words.encode(part.a), self._words.encode(part.b)

    def _matches(self, part: Pairs) -> Numbers:
        return np.asarray(self._scale.share(part.score) >= self.config.match_from)

    def _batch(self, part: Pairs) -> Tensors:
        a, b = (torch.from_numpy(ids) for ids in self._sides(part))
        share = torch.tensor(self._scale.share(part.score), dtype=torch.float32)
        match = torch.tensor(self._matches(part), dtype=torch.float32)
        return {"a": a, "b": b, "share": share, "match": match}

    def _part(self, part: Pairs) -> Part:
        a, b = self._sides(part)
        truth = {"score": part.score.astype(np.float32), "match": self._matches(part)}
        return Part({"a": a, "b": b}, truth)

    def _selftest(self) -> Arrays:
        """A pair, a text with itself, one with words that nobody knows, and no words at all."""
        first = self._parts.calibration.rows(np.zeros(4, np.int64))
        a = [first.a[0], first.a[0], first.a[0], ""]
        b = [first.b[0], first.a[0], _strange(first.b[0]), first.b[0]]
        one, other = self._sides(Pairs(a, b, first.score))
        return {"a": one, "b": other}


class TextMatchRecipe:
    """Matches texts and says how related they are."""

    name = "text-match"
    model = MODEL
    summary = "whether two short texts say the same, and how related they are"
    layout = (
        "a table with the columns a, b (texts) and score (of any range, or 0 and 1),\n"
        "or a folder with such tables named train, validation and test"
    )
    sizes: Mapping[str, msgspec.Struct] = SIZES
    run = RunSettings(
        steps=600,
        batch=64,
        optimizer=Optimizer(rate=4e-3, decay=1e-4),
        schedule=Schedule(warm_up=50),
        clip_norm=1.0,
        average=0.99,
        check=60,
        patience=4,
    )

    def open(self, run: RunSettings, base: Moments | None = None) -> Task:  # noqa: ARG002
        """Read the pairs, or take those of the work orders that ship.

        Raises:
            DataError: the data are not of the layout.
            InvalidSettingError: there is no such size or option.
        """
        config = configured(run, SIZES)
        parts = pairs.read(run.data, seed=config.split) if run.data else work_orders.load()
        return TextTask(parts, config, run)

    def module(self, info: ModelInfo, constants: Arrays) -> Network:
        """The matcher, with its table of words as parameters without memory."""
        config = msgspec.convert(info.config, TextsConfig)
        with torch.device("meta"):
            network = TextMatcher(config, blank(config))
        for name, constant in tensors(constants).items():
            network.register_buffer(name, constant)
        return network

    def settle(self, model: TrainedModel) -> Arrays:  # noqa: ARG002  nothing depends on weights
        """No constants."""
        return {}

    def error(self, outputs: Arrays, truth: Arrays) -> float:
        """Mean squared error of the relatedness, as a share of the variance of the scores."""
        return unexplained(outputs["relatedness"], truth["score"])

    def figures(self, outputs: Arrays, truth: Arrays) -> dict[str, float]:
        """Correlation of the relatedness; how often the match is right."""
        given, wanted = outputs["match"] >= HALF, truth["match"].astype(bool)
        return {
            **correlations(outputs["relatedness"], truth["score"]),
            "unexplained": self.error(outputs, truth),
            "accuracy": accuracy(given, wanted),
            "f1": f1(given, wanted),
        }


RECIPE: Final = TextMatchRecipe()


def correlations(given: Numbers, wanted: Numbers) -> dict[str, float]:
    """Both correlations of some scores with those that people gave."""
    return {"pearson": pearson(given, wanted), "spearman": spearman(given, wanted)}


def _length(texts: Sequence[str]) -> int:
    """Words that nearly all texts have at most, rounded up."""
    counts = [sum(1 for _ in words(text)) for text in texts]
    return min(MAX_LENGTH, max(1, math.ceil(np.percentile(counts, COVERED) / STEP)) * STEP)


def _first(part: Pairs, most: int) -> Pairs:
    """At most so many of the pairs, spread over all."""
    if len(part) <= most:
        return part
    return part.rows(np.linspace(0, len(part) - 1, most).astype(np.int64))


def _strange(text: str) -> str:
    """The text with words that no vocabulary has."""
    return " ".join(f"{word}qx" for word in words(text))
