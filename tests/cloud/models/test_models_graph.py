"""The graph: learned, given, of what belongs together; dense or listed, live or frozen."""

import numpy as np
import pytest
import torch

from aimass_cloud.models import graph as graphs
from aimass_cloud.models.blocks import Neighbours, heard
from aimass_cloud.models.graph import FrozenGraph, NodeGraph, given, members, relations_in


def test_the_graph_keeps_the_strongest_edges_and_none_to_itself() -> None:
    for edges in NodeGraph(6, embedding=4, neighbours=2).frozen().values():
        assert torch.allclose(edges.sum(dim=1), torch.ones(6))
        assert ((edges > 0).sum(dim=1) == 2).all()
        assert (edges.diagonal() == 0).all()


def test_a_graph_learns() -> None:
    graph = NodeGraph(6, embedding=4, neighbours=3)
    inward, outward = graph()
    assert isinstance(inward, torch.Tensor)
    assert isinstance(outward, torch.Tensor)
    said = (inward[0] * torch.arange(6.0)).sum() + (outward[1] * torch.arange(6.0)).sum()
    torch.autograd.backward(said)
    assert graph.source.grad is not None
    assert graph.source.grad.abs().sum() > 0


@pytest.mark.parametrize("most_dense", [500, 3])
def test_a_frozen_graph_is_the_live_one(monkeypatch: pytest.MonkeyPatch, most_dense: int) -> None:
    monkeypatch.setattr(graphs, "MOST_DENSE", most_dense)
    graph = NodeGraph(6, embedding=4, neighbours=3, fixed=given(np.eye(6, k=1), 6))
    frozen = FrozenGraph(relations_in(graph.frozen()))
    assert frozen.relations == graph.relations
    state = torch.randn(2, 6, 4)
    for live, kept in zip(graph(), frozen(), strict=True):
        assert isinstance(kept, Neighbours) == (most_dense < 6)
        assert torch.allclose(heard(live, state), heard(kept, state), atol=1e-6)


def test_listed_relations_say_what_dense_ones_say(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(0).random((7, 7)) * (np.arange(7) < 4)
    dense = given(weights, 7)
    monkeypatch.setattr(graphs, "MOST_DENSE", 3)
    listed = given(weights, 7)
    state = torch.randn(2, 7, 3)
    for name, edges in dense.items():
        assert torch.allclose(heard(edges, state), heard(listed[name], state), atol=1e-6)


def test_a_given_graph_is_heard_both_ways_and_a_node_does_not_hear_itself() -> None:
    edges = given(np.array([[5.0, 2.0], [0.0, 1.0]]), 3)
    inward, outward = edges["given_inward"], edges["given_outward"]
    assert isinstance(inward, torch.Tensor)
    assert isinstance(outward, torch.Tensor)
    assert inward.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]], "1 hears 0, where its edge is from"
    assert outward.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_members_hear_their_entity_and_an_entity_its_members() -> None:
    edges = members(["a", "", "a"])
    parts, whole = edges["parts"], edges["whole"]
    assert isinstance(parts, torch.Tensor)
    assert isinstance(whole, torch.Tensor)
    assert parts[3].tolist() == [0.5, 0, 0.5, 0]
    assert whole[:, 3].tolist() == [1, 0, 1, 0]
