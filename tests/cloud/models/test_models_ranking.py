"""The ranker: widths are leading parts, the future is not seen, what was taken is left out."""

import numpy as np
import pytest
import torch
from torch import Tensor

from aimass_cloud.models.network import called, narrowed, nesting_of, predictor
from aimass_cloud.models.ranking import TOP, ItemGraph, Ranker, RankingConfig

SIZE, LENGTH = 30, 6
CONFIG = RankingConfig(channels=8, length=LENGTH, neighbours=3, recent=2, negatives=5, edges=2)
HISTORY = torch.tensor([[0, 0, 0, 4, 9, 2], [7, 1, 2, 3, 11, 29], [0, 0, 0, 0, 0, 0]])


@pytest.fixture
def ranker() -> Ranker:
    """A network with a graph, which has learned nothing."""
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    graph = ItemGraph(
        torch.randint(SIZE, (2, SIZE, 2), generator=random),
        torch.rand(2, SIZE, 2, generator=random),
        CONFIG.channels,
    )
    constants = {
        "prior.ids": torch.arange(3 * SIZE, dtype=torch.float32).reshape(SIZE, 3) % SIZE,
        "prior.weights": torch.rand(SIZE, 3, generator=random),
        "prior.recency": torch.tensor([0.5, 1.0]),
    }
    constants["prior.weights"][0] = 0.0
    return Ranker(CONFIG, constants, graph).eval()


def _shipped(ranker: Ranker) -> tuple[Ranker, dict[str, Tensor]]:
    frozen = ranker.frozen()
    return Ranker(CONFIG, frozen.constants), frozen.weights


@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_the_frozen_table_says_at_every_width_what_the_graph_says(
    ranker: Ranker, width: float
) -> None:
    bare, weights = _shipped(ranker)
    assert not [name for name in weights if name.startswith("graph.")]
    part = narrowed(weights, nesting_of(bare), width)
    _, best = called(bare, part, [HISTORY])
    learned = predictor(ranker)(width, {"history": HISTORY})
    left_out = torch.cat([HISTORY, torch.zeros(3, 1, dtype=torch.int64)], dim=1)
    wanted = learned.scatter(1, left_out, -1e9).topk(TOP, dim=1).values
    assert torch.allclose(best, wanted, atol=1e-5)


def test_what_was_taken_is_left_out_and_the_order_is_that_of_scores(ranker: Ranker) -> None:
    items, best = ranker(HISTORY)
    assert items.shape == best.shape == (3, TOP)
    for row, history in zip(items.tolist(), HISTORY.tolist(), strict=True):
        assert len(set(row)) == TOP
        assert not set(row) & {0, *history}
    assert (best.diff(dim=1) <= 0).all()


def test_an_empty_history_gets_the_most_popular(ranker: Ranker) -> None:
    with torch.no_grad():
        ranker.bias.copy_(torch.linspace(0, 3, SIZE))
    items, _ = ranker(HISTORY[2:])
    assert items[0].tolist() == list(range(SIZE - 1, SIZE - 1 - TOP, -1))


def test_the_neighbourhood_score_adds_up_weights_by_recency(ranker: Ranker) -> None:
    ids, weights = ranker.prior.ids.long(), ranker.prior.weights
    wanted = torch.zeros(SIZE)
    for item, share in ((9, 0.5), (2, 1.0)):
        for neighbour, weight in zip(ids[item], weights[item], strict=True):
            wanted[neighbour] += share * weight
    assert torch.allclose(ranker.prior(HISTORY[:1])[0, 1:], wanted[1:])


def test_a_prediction_does_not_depend_on_what_comes_after(ranker: Ranker) -> None:
    batch = {
        "sequence": torch.tensor([[0, 5, 6, 7, 8]]),
        "negatives": torch.tensor([1, 2, 3]),
        "log_q": torch.zeros(3),
    }
    other = batch | {"sequence": torch.tensor([[0, 5, 6, 7, 9]])}
    first, second = ranker.predict(batch), ranker.predict(other)
    assert first.shape == (3, 4)
    assert torch.allclose(first[:2], second[:2])
    assert not torch.allclose(first[2, 0], second[2, 0])


def test_a_drawn_negative_that_is_the_right_item_does_not_count(ranker: Ranker) -> None:
    batch = {
        "sequence": torch.tensor([[0, 5, 6]]),
        "negatives": torch.tensor([6, 2]),
        "log_q": torch.zeros(2),
    }
    prediction = ranker.predict(batch)
    assert prediction[0, 1] < -1e8
    loss = ranker.criterion(prediction, batch)
    wanted = -torch.log_softmax(prediction[0, [0, 2]], dim=0)[0]
    assert loss.item() == pytest.approx(wanted.item())


def test_every_weight_learns(ranker: Ranker) -> None:
    ranker.train()
    batch = {
        "sequence": torch.tensor(np.random.default_rng(1).integers(1, SIZE, (4, LENGTH + 1))),
        "negatives": torch.arange(1, 9),
        "log_q": torch.zeros(8),
    }
    torch.autograd.backward(ranker.criterion(ranker.predict(batch), batch))
    still = [name for name, weight in ranker.named_parameters() if weight.grad is None]
    assert still == []
