"""Next-item ranking over a graph of users and items, nested in width.

Items are nodes that hear what goes before them, after them and with them (relations counted from
histories); a user is a node that attends to the items it took, by what they are and how long ago.
As it ships the item graph is worked into the item table, so that users who were never seen are
ranked from their history alone. To the network's score is added the logarithm of a closed-form
neighbourhood score; what was taken is left out, and the best ten leave the graph. Needs torch.

Attention over histories: Kang and McAuley, SASRec (ICDM 2018); propagation without mixing of
channels: He et al., LightGCN (SIGIR 2020); sampled softmax: Jean et al. (ACL 2015).
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding, embedding_bag, kl_div, linear, log_softmax

from aimass_cloud.models.blocks import drawn
from aimass_cloud.models.network import Batch, Frozen, Network

TOP = 10
FLOOR = 1e-3
"""Neighbourhood score of an item that nothing leads to."""
OUT = -1e9
ITEM_SCALE, GAIN_START, FADE_START = 0.1, 0.1, 0.3

Count = Annotated[int, msgspec.Meta(ge=1)]


class RankingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the ranker.

    Attributes:
        channels: of an item at full width, a multiple of 4.
        length: items of a history that are looked at, the newest ones.
        edges: items that an item hears along each relation; 0 = the graph is left out.
        neighbours: of an item in the closed-form score; it looks at the `recent` newest items.
        negatives: items that the right one is compared with in a training step.
        dropout: share of channels of a history that a training step leaves out.
    """

    channels: Count = 96
    length: Count = 50
    edges: Annotated[int, msgspec.Meta(ge=0)] = 8
    neighbours: Count = 64
    recent: Count = 8
    negatives: Count = 1024
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.5


class ItemGraph(nn.Module):
    """Relations between items, each with a gain of its own for each channel.

    Channels are not mixed, so the leading channels of the result are the result of the leading
    channels: one table serves all widths.
    """

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"gains": (1,)}
    ids: Tensor
    weights: Tensor

    def __init__(self, ids: Tensor, weights: Tensor, channels: int) -> None:
        """Take the neighbours of each item along each relation, `[R, N, edges]`."""
        super().__init__()
        self.register_buffer("ids", ids)
        self.register_buffer("weights", weights)
        self.gains = nn.Parameter(torch.full((len(ids), channels), GAIN_START))

    def forward(self, items: Tensor, rows: Tensor) -> Tensor:
        """States `[rows, channels]` of some items, with what they hear of their neighbours."""
        state = items[rows]
        for gain, ids, weights in zip(self.gains, self.ids, self.weights, strict=True):
            heard = embedding_bag(ids[rows], items, per_sample_weights=weights[rows], mode="sum")
            state = state + gain * heard
        return state


class HistoryAttention(nn.Module):
    """A user's state: attention over the items taken so far, newest last, and a hidden layer."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "query": (0, 1),
        "key": (0, 1),
        "value": (0, 1),
        "heard": (0, 1),
        "last": (0, 1),
    }

    def __init__(self, channels: int, length: int) -> None:
        """Start at full width, with recent items counting more."""
        super().__init__()
        self.channels = channels
        self.age = nn.Parameter(-FADE_START * torch.arange(length, dtype=torch.float32))
        square = (channels, channels)
        self.query, self.key, self.value = (drawn(*square, fan_in=channels) for _ in range(3))
        self.heard, self.last = (drawn(*square, fan_in=4 * channels) for _ in range(2))

    def forward(self, items: Tensor, taken: Tensor, newest: int) -> Tensor:
        """States `[B, newest, channels]` after each of the newest items.

        Args:
            items: `[B, L, channels]`, newest last.
            taken: `[B, L]`, false where there is padding.
            newest: how many of the last places are asked for.
        """
        length, share = items.shape[1], self.channels / self.query.shape[0]
        scale = math.sqrt(share)
        asked = items[:, length - newest :]
        place = torch.arange(length, device=items.device)
        age = place[length - newest :, None] - place
        open_ = (age >= 0) & taken[:, None]
        match = (asked @ (self.query * scale)) @ (items @ (self.key * scale)).transpose(1, 2)
        match = match / math.sqrt(self.query.shape[1]) + self.age[age.clamp(min=0)]
        share_of = torch.softmax(torch.where(open_, match, OUT), dim=-1)
        state = share_of @ (items + items @ (self.value * scale))
        hidden = torch.relu(state) @ self.heard + torch.relu(asked) @ self.last
        return state + hidden * scale


class Neighbourhood(nn.Module):
    """The closed-form score of all items: weights of the neighbours of recent items, added up."""

    ids: Tensor
    weights: Tensor
    recency: Tensor

    def __init__(self, constants: Mapping[str, Tensor]) -> None:
        """Take `prior.ids`, `.weights` `[N, K]` and `.recency` `[P]`, newest last."""
        super().__init__()
        for name in ("ids", "weights", "recency"):
            self.register_buffer(name, constants[f"prior.{name}"])

    def forward(self, history: Tensor) -> Tensor:
        """Scores `[B, N]` of histories `[B, L]`."""
        total = self.weights.new_zeros(history.shape[0], self.ids.shape[0])
        # One scatter for each place: no item comes twice in it, and TensorRT takes no reduction.
        for back in range(1, len(self.recency) + 1):
            item = history[:, -back]
            ids = embedding(item, self.ids).long()
            more = embedding(item, self.weights) * self.recency[-back]
            total = total.scatter(1, ids, total.gather(1, ids) + more)
        return total


class Ranker(Network):
    """Histories in, the best items that are not in them out."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"table": (1,)}
    KEPT_FLOAT: ClassVar[tuple[str, ...]] = ("prior.",)
    blend: Tensor

    def __init__(
        self,
        config: RankingConfig,
        constants: Mapping[str, Tensor],
        graph: ItemGraph | None = None,
    ) -> None:
        """Take the neighbourhoods, and the item graph while the network is trained.

        Args:
            config: sizes.
            constants: those of `Neighbourhood`, and `blend`, its share in the score (1 if absent).
            graph: None once the item table holds what it says.
        """
        super().__init__()
        self.config = config
        self.prior = Neighbourhood(constants)
        size = len(self.prior.ids)
        self.table = nn.Parameter(ITEM_SCALE * torch.randn(size, config.channels))
        self.bias = nn.Parameter(torch.zeros(size))
        self.encoder = HistoryAttention(config.channels, config.length)
        self.graph = graph
        self.register_buffer("blend", constants.get("blend", torch.ones((), device="cpu")))

    def forward(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """Items `[B, 10]` and their scores for histories `[B, L]`, newest last, 0 = padding."""
        left_out = torch.cat([history, torch.zeros_like(history[:, :1])], dim=1)
        score = self.score(history)
        taken = torch.zeros_like(score).scatter(1, left_out, 1.0)
        best, items = torch.topk(torch.where(taken > 0, OUT, score), TOP, dim=1)
        return items, best

    def score(self, history: Tensor) -> Tensor:
        """Scores `[B, N]` of all items: the network's, and the neighbourhoods' share."""
        table = self._all_items()
        state = self._states(embedding(history, table), history > 0, 1)[:, 0]
        own = linear(state, table, self.bias)
        return own + self.blend * torch.log(self.prior(history) + FLOOR)

    def predict(self, batch: Batch) -> Tensor:
        """What a batch is judged by.

        With `sequence` `[B, L + 1]`: the network's logits of each next item and of the drawn
        `negatives`, `[places, 1 + negatives]`, corrected for how often each is drawn (`log_q`).
        With `history`: the scores of all items.
        """
        if "history" in batch:
            return self.score(batch["history"])
        sequence, negatives = batch["sequence"], batch["negatives"]
        history, following = sequence[:, :-1], sequence[:, 1:]
        known = (history > 0) & (following > 0)
        target = following[known]
        rows, place = torch.unique(
            torch.cat([history.reshape(-1), target, negatives]), return_inverse=True
        )
        table = self._rows(rows)
        taken, right, wrong = place.split([history.numel(), len(target), len(negatives)])
        inputs = dropout(table[taken.view_as(history)], self.config.dropout, self.training)
        state = self._states(inputs, history > 0, history.shape[1])[known]
        positive = (state * table[right]).sum(dim=1) + self.bias[target]
        drawn_ = linear(state, table[wrong], self.bias[negatives] - batch["log_q"])
        drawn_ = drawn_.masked_fill(negatives == target[:, None], OUT)
        return torch.cat([positive[:, None], drawn_], dim=1)

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002  the first
        """Sampled softmax: the first logit of a place is the right one's."""
        return -log_softmax(prediction, dim=1)[:, 0].mean()

    def imitation(self, prediction: Tensor, teacher: Tensor) -> Tensor:
        """Kullback-Leibler divergence from the full width's shares."""
        shares = log_softmax(prediction, dim=1), log_softmax(teacher, dim=1)
        return kl_div(*shares, reduction="batchmean", log_target=True)

    def frozen(self) -> Frozen:
        """The graph is worked into the item table and stays behind."""
        weights, constants = super().frozen()
        if self.graph is not None:
            weights["table"] = self._all_items().detach().clone()
        parts = (weights, constants)
        return Frozen(*({n: t for n, t in p.items() if not n.startswith("graph.")} for p in parts))

    def _all_items(self) -> Tensor:
        """States of all items."""
        rows = torch.arange(len(self.table), device=self.table.device)
        return self.table if self.graph is None else self._rows(rows)

    def _rows(self, rows: Tensor) -> Tensor:
        """States of some items."""
        return self.table[rows] if self.graph is None else self.graph(self.table, rows)

    def _states(self, inputs: Tensor, taken: Tensor, newest: int) -> Tensor:
        """Users' states, scaled so that sums over fewer channels are as large."""
        state: Tensor = self.encoder(inputs * taken[..., None], taken, newest)
        return state * math.sqrt(self.config.channels / self.table.shape[1])
