"""The graph of a model: read from its constants, written for people and programs."""

import io
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from msgspec import json, structs
from PIL import Image

from aimass_cloud.models.contract import contract_for
from aimass_cloud.models.relations import (
    Edge,
    Graph,
    as_graphml,
    as_json,
    as_png,
    change,
    graph_of,
)
from aimass_cloud.models.samples import Part, Samples
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_shared.errors import NotFoundError
from aimass_shared.manifest import Sensor

SENSORS = tuple(
    Sensor(name, "kPa", kind, f"{name} label", entity="pump-1")
    for name, kind in (("a", "continuous"), ("b", "actuator"), ("c", "continuous"))
)
CONTRACT = contract_for("m", SENSORS, step_ms=1000, window=4, horizon=2)
NOTHING = Part({"values": np.zeros(1)}, {})
INWARD = np.array([[0, 0.7, 0.3], [1, 0, 0], [0, 0, 0]], np.float32)


def _model(**constants: np.ndarray) -> TrainedModel:
    info = ModelInfo("m-1", "sensor-graph", "", 0, {}, CONTRACT, {}, 1)
    return TrainedModel(info, {}, constants, Samples(NOTHING, NOTHING, {}))


MODEL = _model(**{"graph.inward": INWARD, "base.mean": np.zeros(3, np.float32)})


def test_edges_go_from_who_is_heard_to_who_hears_strongest_first() -> None:
    graph = graph_of(MODEL)
    assert [node.name for node in graph.nodes] == ["a", "b", "c"]
    assert graph.edges == (
        Edge("a", "b", "inward", 1.0),
        Edge("b", "a", "inward", 0.7),
        Edge("c", "a", "inward", 0.3),
    )


def test_neighbours_in_a_list_are_the_same_graph() -> None:
    sparse = _model(
        **{
            "graph.inward.index": np.array([[1, 2], [0, 1], [0, 1]]),
            "graph.inward.weight": np.array([[0.7, 0.3], [1, 0], [0, 0]], np.float32),
        }
    )
    assert graph_of(sparse).edges == graph_of(MODEL).edges


def test_machines_are_nodes_behind_the_sensors() -> None:
    wider = np.zeros((4, 4), np.float32)
    wider[3, 0] = 1.0
    model = _model(**{"graph.member": wider})
    info = structs.replace(model.info, config={"entities": ["pump-1"]})
    assert graph_of(replace(model, info=info)).edges == (Edge("a", "pump-1", "member", 1.0),)


def test_json_and_graphml_come_back() -> None:
    graph = graph_of(MODEL)
    assert json.decode(as_json(graph), type=Graph) == graph
    read = nx.read_graphml(io.BytesIO(as_graphml(graph)), force_multigraph=True)
    assert dict(read.nodes["b"]) == {
        "kind": "actuator",
        "unit": "kPa",
        "label": "b label",
        "entity": "pump-1",
    }
    found = {(source, target, data["weight"]) for source, target, data in read.edges(data=True)}
    assert found == {(edge.source, edge.target, edge.weight) for edge in graph.edges}


def test_the_picture_is_one() -> None:
    picture = Image.open(io.BytesIO(as_png(graph_of(MODEL))))
    assert picture.format == "PNG"
    assert min(picture.size) > 500
    assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_a_model_without_a_graph_says_so() -> None:
    with pytest.raises(NotFoundError, match="has no graph"):
        graph_of(_model(**{"base.mean": np.zeros(3)}))


def test_a_change_counts_kept_edges_and_moved_weight() -> None:
    after = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], np.float32)
    found = change({"graph.inward": INWARD}, {"graph.inward": after})
    assert found is not None
    assert found.edges == 2
    assert found.kept == pytest.approx(2 / 3)
    assert found.moved == pytest.approx(0.2)
    assert change({}, {"base.mean": np.zeros(3)}) is None
