"""Recipe "recommend": the items that a user takes next, over a graph of users and items."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from aimass_cloud.datasets import interactions
from aimass_cloud.datasets.interactions import Interactions, read_interactions, synthetic
from aimass_cloud.models.neighbours import Pairs, averaging, count_pairs, nearest
from aimass_cloud.models.network import Batch, Network, Predicting, tensors
from aimass_cloud.models.ranking import OUT, TOP, ItemGraph, Ranker, RankingConfig
from aimass_cloud.models.samples import Arrays, Part, Samples
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_cloud.recipes import toplists
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.recipes.histories import Asked, Epochs, Ids, split
from aimass_cloud.recipes.run import Optimizer, RunSettings, Schedule, configured
from aimass_cloud.recipes.task import Source, Task
from aimass_shared.errors import DataError
from aimass_shared.manifest import Contract, TensorSpec
from aimass_shared.moments import Moments
from aimass_shared.vocabulary import Vocabulary, pack

SIZES: Final = {
    "tiny": RankingConfig(channels=32),
    "base": RankingConfig(),
    "large": RankingConfig(channels=256, negatives=4096),
    "xl": RankingConfig(channels=4608, negatives=8192),
}
RUN: Final = RunSettings(
    steps=1500,
    batch=128,
    optimizer=Optimizer(rate=1e-2, decay=0.0),
    schedule=Schedule(warm_up=100),
    check=100,
    patience=6,
)
SYNTHETIC_SEED: Final = 7
WATCHED, KEPT = 2000, 1000
"""Users whose held-back item is looked at in training, and users that travel with a model."""
ALL_NEIGHBOURS: Final = 300
SHARED: Final = 2
"""Users that a relation of the graph needs: with one, it tells a step the answer of that step."""
BLENDS: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
DEPTH: Final = 100
ROWS: Final = 256


class RecommendTask(Task):
    """Histories with their neighbourhoods counted, before the network is trained."""

    per_width = ("blend",)

    def __init__(self, data: Interactions, config: RankingConfig, *, seed: int) -> None:
        """Split the histories and choose the neighbourhoods on held-back items."""
        if len(data.items) <= TOP:
            raise DataError(f"{len(data.items)} different items; more than {TOP} are needed")
        self.assets = {"vocabulary": pack(Vocabulary("items", data.items, config.length))}
        self.config: RankingConfig = config
        self._data, self._seed = data, seed
        self._split = split(data, config.length)
        self._frequency = self._split.frequency(data.size)
        self._watched = self._split.held_back.some(WATCHED, seed)
        self._prior = toplists.tuned(
            self._split.train,
            data.size,
            self._watched,
            grid=toplists.OURS,
            most=config.neighbours,
        )
        self.contract = Contract(
            model=RECIPE.model,
            task="rank",
            inputs=(TensorSpec("history", "BYTES", (-1,)),),
            outputs=(
                TensorSpec("items", "BYTES", (-1, TOP)),
                TensorSpec("scores", "FP32", (-1, TOP)),
            ),
        )

    def network(self) -> Network:
        """A ranker that starts at popularity, over the graph of the training histories."""
        affinity, neighbours, _ = self._prior
        steps = np.arange(self.config.recent - 1, -1, -1)
        constants = {
            "prior.ids": neighbours.ids.astype(np.float32),
            "prior.weights": neighbours.weights,
            "prior.recency": (affinity.recency**steps).astype(np.float32),
        }
        network = Ranker(self.config, tensors(constants), self._graph())
        start = torch.tensor(np.log1p(self._frequency), dtype=torch.float32)
        with torch.no_grad():
            network.bias.copy_(start)
        return network

    def source(self, *, batch: int, rank: int = 0, world: int = 1) -> Source:
        """Training histories with drawn negatives."""
        epochs = Epochs(
            self._split.train, self._frequency, length=self.config.length, seed=self._seed
        )
        return epochs.drawing(batch=batch, negatives=self.config.negatives, rank=rank, world=world)

    def held_back(self) -> Sequence[Batch]:
        """Histories and the item after them, of some users."""
        return tuple(_batches(self._watched))

    def watch(
        self,
        network: Network,  # noqa: ARG002  the measure needs no criterion
        widths: Sequence[float],
        predict: Callable[[float, Batch], Tensor],
    ) -> float:
        """What NDCG at 10 over all items lacks to 1, with equal shares; mean of the widths."""
        found = [
            _ndcg(predict(width, batch), batch) for width in widths for batch in self.held_back()
        ]
        return 1.0 - float(torch.cat(found).mean())

    def samples(self) -> Samples:
        """Some users of both parts; the self-test has the longest history and one of nothing."""
        held_back, test = (
            part.some(KEPT, self._seed) for part in (self._split.held_back, self._split.test)
        )
        order = np.argsort((test.history > 0).sum(axis=1), kind="stable")
        picked = test.history[order[[0, len(order) // 2, -1]]]
        selftest = np.concatenate([picked, np.zeros_like(picked[:1])])
        return Samples(_part(held_back), _part(test), {"history": selftest})

    def baselines(self) -> dict[str, Any]:
        """Popularity, and item-kNN tuned on held-back items, for the test items of all users."""
        test = self._split.test
        return {
            name: toplists.figures(toplists.top(score, test.history), test.item)
            for name, score in self.rivals().items()
        }

    def rivals(self) -> dict[str, toplists.Score]:
        """How the baselines score items."""
        train, size = self._split.train, self._data.size
        grid = toplists.ITEM_KNN
        knn = toplists.tuned(train, size, self._watched, grid=grid, most=ALL_NEIGHBOURS)
        return {
            "popularity": toplists.popularity(self._frequency),
            "item_knn": toplists.neighbourhood(knn.neighbours, knn.affinity.recency),
        }

    def report(self, model: TrainedModel) -> dict[str, Any]:
        """Figures for the test items of all users, at full width."""
        return {
            "all_users": self.judged(model, model.info.widths[0]),
            "users": len(self.test),
            "items": len(self._data.items),
            "interactions": self._data.rows,
            "blend": model.constants["blend"].tolist(),
            "neighbourhoods": self._prior.affinity._asdict(),
        }

    @property
    def test(self) -> Asked:
        """The test items of all users."""
        return self._split.test

    def judged(self, model: TrainedModel, width: float) -> dict[str, float]:
        """Figures of a width for the test items of all users."""
        test = _part(self.test)
        return RECIPE.figures(outputs_of(RECIPE, model, test, width=width), test.truth)

    def _graph(self) -> ItemGraph | None:
        """Relations "next", "previous" and "together", counted from the training histories."""
        if not self.config.edges:
            return None
        after = count_pairs(self._split.train, self._data.size, fade=self._prior.affinity.fade)
        kinds = (after, after.reversed, after.both_ways(1.0))
        relations = [self._edges(pairs.of_users(SHARED)) for pairs in kinds]
        ids, weights = (torch.stack(parts) for parts in zip(*relations, strict=True))
        return ItemGraph(ids, weights, self.config.channels)

    def _edges(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        affinity = self._prior.affinity
        found = averaging(
            nearest(pairs, self.config.edges, shrink=affinity.shrink, power=affinity.power)
        )
        return torch.from_numpy(found.ids), torch.from_numpy(found.weights)


class RecommendRecipe:
    """Ranks the items that a user takes next."""

    name = "recommend"
    model = "next-item"
    summary = "rank the items that a user takes next, over a graph of users and items"
    layout = f"a table (CSV, TSV, TXT, Parquet) or a folder of them: {interactions.LAYOUT}"
    sizes: Mapping[str, msgspec.Struct] = SIZES
    run = RUN

    def open(self, run: RunSettings, base: Moments | None = None) -> Task:  # noqa: ARG002
        """Read the interactions; without an address they are of a synthetic shop.

        Raises:
            DataError: the data are not of the layout, or there are too few users or items.
            InvalidSettingError: there is no such size or option.
        """
        config = configured(run, SIZES)
        data = read_interactions(run.data) if run.data else synthetic(SYNTHETIC_SEED)
        return RecommendTask(data, config, seed=run.seed)

    def module(self, info: ModelInfo, constants: Arrays) -> Network:
        """The ranker with the graph in its item table."""
        buffers = tensors(constants)
        with torch.device("meta"):
            return Ranker(msgspec.convert(info.config, RankingConfig), buffers)

    def settle(self, model: TrainedModel) -> Arrays:
        """The share of the neighbourhoods in each width's score, chosen on held-back items."""
        part = model.samples.calibration
        asked = Asked(part.inputs["history"], part.truth["item"])
        shares = [_blend(model, width, asked) for width in model.info.widths]
        return {"blend": np.array(shares, np.float32)}

    def error(self, outputs: Arrays, truth: Arrays) -> float:
        """What NDCG at 10 lacks to 1."""
        return 1.0 - self.figures(outputs, truth)[f"ndcg_at_{TOP}"]

    def figures(self, outputs: Arrays, truth: Arrays) -> dict[str, float]:
        """Hit rate and NDCG at 10, over all items that are not in the history."""
        return toplists.figures(outputs["items"], truth["item"])


RECIPE: Final = RecommendRecipe()


def _part(asked: Asked) -> Part:
    return Part({"history": asked.history}, {"item": asked.item})


def _batches(asked: Asked) -> Iterator[Batch]:
    for at in range(0, len(asked), ROWS):
        yield {
            "history": torch.from_numpy(asked.history[at : at + ROWS]),
            "item": torch.from_numpy(asked.item[at : at + ROWS]),
        }


def _ndcg(scores: Tensor, batch: Batch, depth: int = TOP) -> Tensor:
    """NDCG of each history: `1 / log2(1 + rank)` up to a rank, else 0."""
    history, item = batch["history"], batch["item"]
    wanted = scores.gather(1, item[:, None])
    left_out = torch.cat([history, torch.zeros_like(history[:, :1])], dim=1)
    better = (scores.scatter(1, left_out, OUT) > wanted).sum(dim=1)
    return torch.where(better < depth, 1 / torch.log2(better + 2.0), 0.0)


def scoring(model: TrainedModel, width: float, **other: float) -> toplists.Score:
    """How a model scores all items at a width, with other constants where they are given."""
    network = Predicting(RECIPE.module(model.info, model.constants)).eval()
    arrays = tensors(model.at(width)) | {name: torch.tensor(value) for name, value in other.items()}
    named = {f"network.{name}": array for name, array in arrays.items()}

    @torch.no_grad()
    def score(history: Ids) -> toplists.Floats:
        batch = {"history": torch.from_numpy(history)}
        found: Tensor = functional_call(network, named, (batch,))
        return found.numpy()

    return score


def _blend(model: TrainedModel, width: float, asked: Asked) -> float:
    """The share of the neighbourhoods with the best NDCG; the smallest of equal ones.

    To rank 100, because that of ten says too little of some hundred users.
    """
    without, with_one = (scoring(model, width, blend=share) for share in (0.0, 1.0))
    found: list[list[Tensor]] = [[] for _ in BLENDS]
    for batch in _batches(asked):
        history = batch["history"].numpy()
        own, both = (torch.from_numpy(score(history)) for score in (without, with_one))
        for blend, parts in zip(BLENDS, found, strict=True):
            parts.append(_ndcg(own + blend * (both - own), batch, DEPTH))
    return BLENDS[int(np.argmax([float(torch.cat(parts).mean()) for parts in found]))]
