"""The graph of a plant: relations that are learned, given, or follow from what belongs together.

Learned: two embeddings a node, so that edges have a direction; cosine similarity, the nearest few,
softmax (Deng and Hooi, GDN, AAAI 2021; Wu et al., MTGNN, KDD 2020). They may start from data: from
the correlation of what a linear forecast misses with what other sensors did just before. Given: a
plant or road graph, both ways. Once frozen a relation is a dense matrix, which at plant size is
faster than any scatter and needs no plugin in any runtime; with many nodes it is the neighbours of
each. Needs torch.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from aimass_cloud.models.blocks import Edges, Neighbours

SHARPNESS = 8.0
MOST_DENSE: Final = 500
"""Nodes up to which relations ship as dense matrices."""
MOST_GIVEN: Final = 32
"""Neighbours that a node keeps of a given graph where that is not dense."""
PARTS, WHOLE = "parts", "whole"
GROUPS: Final[Mapping[str, tuple[str, str]]] = {
    "learned": ("inward", "outward"),
    "given": ("given_inward", "given_outward"),
    "members": (PARTS, WHOLE),
}
RELATIONS: Final = tuple(name for group in GROUPS.values() for name in group)
"""All relations there may be, in the order of a network's messages."""
PREFIX: Final = "graph."

Weights = NDArray[np.floating]


class NodeGraph(nn.Module):
    """Embeddings of nodes and the edges between them, and the relations that are fixed."""

    def __init__(
        self,
        nodes: int,
        *,
        embedding: int = 8,
        neighbours: int = 8,
        learned: bool = True,
        fixed: Mapping[str, Edges] | None = None,
    ) -> None:
        """Start from random embeddings; each node keeps its `neighbours` strongest edges."""
        super().__init__()
        self.learned, self.nodes = learned, nodes
        if learned:
            self.source = nn.Parameter(torch.randn(nodes, embedding))
            self.target = nn.Parameter(torch.randn(nodes, embedding))
        self.neighbours = max(1, min(neighbours, nodes - 1))
        self.fixed = FrozenGraph(fixed or {})

    @property
    def relations(self) -> tuple[str, ...]:
        """Names of the relations."""
        return (*(GROUPS["learned"] if self.learned else ()), *self.fixed.relations)

    def forward(self) -> list[Edges]:
        """Edges of each relation; of the learned ones the weights into a node add up to 1."""
        fixed: list[Edges] = self.fixed()
        if not self.learned:
            return fixed
        similarity = normalize(self.target, dim=1) @ normalize(self.source, dim=1).T
        return [self._edges(similarity), self._edges(similarity.T), *fixed]

    def _edges(self, similarity: Tensor) -> Edges:
        own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
        logits = (SHARPNESS * similarity).masked_fill(own, -torch.inf)
        nearest = logits.topk(self.neighbours, dim=1)
        weights = nearest.values.softmax(dim=1)
        if self.nodes > MOST_DENSE:
            return Neighbours(nearest.indices, weights)
        return torch.zeros_like(similarity).scatter(1, nearest.indices, weights)

    @torch.no_grad()
    def start(self, related: Weights) -> None:
        """Start the embeddings from how related nodes are `[N, N]`, row = who hears."""
        left, size, right = np.linalg.svd(np.asarray(related, np.float64))
        rank = min(self.source.shape[1], self.nodes)
        root = np.sqrt(size[:rank])
        sides = (self.target, left[:, :rank] * root), (self.source, right[:rank].T * root)
        for part, start in sides:
            part.zero_()
            part[:, :rank] = torch.tensor(start, dtype=part.dtype)
            # As long as random ones on average, so that learning moves them as fast.
            part.mul_(part.shape[1] ** 0.5 / part.norm(dim=1).mean().clamp(min=1e-6))

    @torch.no_grad()
    def frozen(self) -> dict[str, Tensor]:
        """All relations as constants of a model, `graph.NAME` (see `models.relations`)."""
        found: dict[str, Tensor] = {}
        for name, edges in zip(self.relations, self(), strict=True):
            if isinstance(edges, Neighbours):
                found[f"{PREFIX}{name}.index"] = edges.index.to(torch.float32)
                found[f"{PREFIX}{name}.weight"] = edges.weight
            else:
                found[PREFIX + name] = edges
        return {name: array.clone() for name, array in found.items()}


class FrozenGraph(nn.Module):
    """Relations as constants."""

    def __init__(self, relations: Mapping[str, Edges]) -> None:
        """Take relations by name; `relations_in` finds them in the constants of a model."""
        super().__init__()
        self.relations = tuple(name for name in RELATIONS if name in relations)
        for name in self.relations:
            edges = relations[name]
            if isinstance(edges, Neighbours):
                self.add_module(name, _Listed(edges))
            else:
                self.register_buffer(name, edges)

    def forward(self) -> list[Edges]:
        """Edges of each relation, in the order of `RELATIONS`."""
        found = [getattr(self, name) for name in self.relations]
        return [each() if isinstance(each, _Listed) else each for each in found]


class _Listed(nn.Module):
    """Neighbours as constants."""

    index: Tensor
    weight: Tensor

    def __init__(self, edges: Neighbours) -> None:
        super().__init__()
        self.register_buffer("index", edges.index)
        self.register_buffer("weight", edges.weight)

    def forward(self) -> Neighbours:
        return Neighbours(self.index, self.weight)


def relations_in(constants: Mapping[str, Tensor]) -> dict[str, Edges]:
    """The relations that the constants of a model hold."""
    found: dict[str, Edges] = {}
    for name in RELATIONS:
        start = PREFIX + name
        if start in constants:
            found[name] = constants[start]
        elif f"{start}.index" in constants:
            found[name] = Neighbours(constants[f"{start}.index"], constants[f"{start}.weight"])
    return found


def given(weights: Weights, nodes: int) -> dict[str, Edges]:
    """A given graph `[S, S]`, row to column, as relations over `nodes`, of which the rest has none.

    Edges of a node to itself are left out; what a node hears adds up to 1.
    """
    whole = np.zeros((nodes, nodes), np.float32)
    size = len(weights)
    whole[:size, :size] = np.maximum(np.nan_to_num(weights), 0.0)
    np.fill_diagonal(whole, 0.0)
    edges = (_shares(whole.T, MOST_GIVEN), _shares(whole, MOST_GIVEN))
    return dict(zip(GROUPS["given"], edges, strict=True))


def members(entities: Sequence[str]) -> dict[str, Edges]:
    """Which sensors belong to which entity, both ways; one name for each sensor, "" for none."""
    names = list(dict.fromkeys(name for name in entities if name))
    nodes = len(entities) + len(names)
    whole = np.zeros((nodes, nodes), np.float32)
    for sensor, name in enumerate(entities):
        if name:
            whole[len(entities) + names.index(name), sensor] = 1.0
    edges = (_shares(whole, nodes), _shares(whole.T, nodes))
    return dict(zip(GROUPS["members"], edges, strict=True))


def _shares(weights: Weights, most: int) -> Edges:
    """Weights whose rows add up to 1, or 0 where there is no edge; `most` in each row if listed."""
    if len(weights) > MOST_DENSE:
        kept = max(1, min(most, int(np.count_nonzero(weights, axis=1).max())))
        least = -np.partition(-weights, kept - 1, axis=1)[:, kept - 1 : kept]
        weights = np.where(weights >= least, weights, 0.0)
    totals = weights.sum(axis=1, keepdims=True)
    shares = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
    dense = torch.tensor(shares, dtype=torch.float32)
    if len(weights) <= MOST_DENSE:
        return dense
    nearest = dense.topk(kept, dim=1)
    return Neighbours(nearest.indices.to(torch.float32), nearest.values)


def group_of(relation: str) -> str:
    """The group of a relation, whose relations are heard or silent together."""
    return next(name for name, relations in GROUPS.items() if relation in relations)
