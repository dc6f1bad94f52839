"""The learned sensor graph: which sensors tell about which, found while training, then frozen.

Two embeddings a sensor, so that edges have a direction; cosine similarity, the nearest few, softmax
(Deng and Hooi, GDN, AAAI 2021; Wu et al., MTGNN, KDD 2020). Once frozen it is two dense matrices:
at plant size that is faster than any scatter and needs no plugin in any runtime. Needs torch.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

SHARPNESS = 8.0


class SensorGraph(nn.Module):
    """Embeddings of sensors and the edges between them."""

    def __init__(self, sensors: int, embedding: int, neighbours: int) -> None:
        """Start from random embeddings; each sensor keeps its `neighbours` strongest edges."""
        super().__init__()
        self.source = nn.Parameter(torch.randn(sensors, embedding))
        self.target = nn.Parameter(torch.randn(sensors, embedding))
        self.neighbours = min(neighbours, sensors - 1)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Weights `[S, S]` of the edges into each sensor and out of it; each row adds up to 1."""
        similarity = normalize(self.target, dim=1) @ normalize(self.source, dim=1).T
        return self._edges(similarity), self._edges(similarity.T)

    def _edges(self, similarity: Tensor) -> Tensor:
        own = torch.eye(len(similarity), dtype=torch.bool)
        logits = (SHARPNESS * similarity).masked_fill(own, -torch.inf)
        nearest = logits.topk(self.neighbours, dim=1)
        edges = torch.zeros_like(similarity)
        return edges.scatter(1, nearest.indices, nearest.values.softmax(dim=1))

    @torch.no_grad()
    def frozen(self) -> dict[str, Tensor]:
        """The graph as constants of a model, `graph.inward` and `graph.outward`."""
        inward, outward = self()
        return {"graph.inward": inward, "graph.outward": outward}
