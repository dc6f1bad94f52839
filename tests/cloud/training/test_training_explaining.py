"""Explanations find planted causes, add up, and leave the network as it was."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from aimass_cloud.models.network import Tensors, called, tensors
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes import tep
from aimass_cloud.training import RunSettings, train
from aimass_cloud.training.explaining import Explainer, Method, attributed, edge_masks
from aimass_shared.errors import BadTensorError, NotFoundError

SENSORS, WINDOW, NEIGHBOURS = 20, 16, 6
RANDOM = torch.Generator().manual_seed(7)
CAUSES = torch.arange(SENSORS) + 1 + torch.randint(0, SENSORS - 1, (SENSORS,), generator=RANDOM)
CAUSES = CAUSES % SENSORS


def _graph() -> Tensor:
    """Each sensor hears its cause, and a little of five others."""
    graph = torch.zeros(SENSORS, SENSORS)
    for target, cause in enumerate(CAUSES.tolist()):
        others = [other for other in range(SENSORS) if other not in {target, cause}]
        picked = torch.randperm(len(others), generator=RANDOM)[: NEIGHBOURS - 1]
        graph[target, [others[place] for place in picked.tolist()]] = 0.15
        graph[target, cause] = 1.0
    return graph


GRAPH = _graph()
WEIGHT = torch.rand(WINDOW, generator=RANDOM) / WINDOW


def _forecast(values: Tensor, graph: Tensor) -> Tensor:
    """Forecast `[B, S]`: what each sensor hears of the others' windows."""
    state = torch.tanh(torch.einsum("bws,w->bs", values, WEIGHT))
    return state @ graph.T


def _of_sensor(target: int, values: Tensor) -> Tensor:
    return _forecast(values, GRAPH)[:, target]


def _heard(values: Tensor, target: int, edges: Tensors) -> Tensor:
    return _forecast(values, edges["heard"])[:, target]


def _windows() -> Tensor:
    """Every sensor says something: a cause that is silent cannot be found."""
    return torch.randn(1, WINDOW, SENSORS, generator=RANDOM) * 0.5 + 1.0


@pytest.mark.parametrize("method", ["gradient", "integrated"])
def test_a_planted_cause_is_found_for_every_sensor(method: Method) -> None:
    inputs, baselines, found = {"values": _windows()}, {"values": torch.zeros(())}, []
    for target in range(SENSORS):
        number = partial(_of_sensor, target)
        answer = attributed(number, inputs, baselines=baselines, method=method)
        found.append(int(np.abs(answer.by(-1)).argmax()))
        assert answer.milliseconds > 0
    assert np.mean(np.array(found) == CAUSES.numpy()) == 1.0


def test_masks_find_the_planted_edge_of_every_sensor() -> None:
    values, found = _windows(), []
    for target in range(SENSORS):
        answer = edge_masks(partial(_heard, values, target), {"heard": GRAPH})
        masks = answer.values["heard"]
        assert masks.shape == GRAPH.shape
        assert (masks[GRAPH.numpy() == 0] == 0).all(), "an edge that is not there is not needed"
        found.append(masks.argmax() == target * SENSORS + int(CAUSES[target]))
        assert answer.milliseconds > 0
    assert np.mean(found) == 1.0


def test_edges_may_be_those_of_a_few_neighbours() -> None:
    values, weights = _windows(), torch.full((SENSORS, 3), 0.1)
    index = (torch.arange(SENSORS)[:, None] + torch.tensor([1, 2, 3])) % SENSORS
    weights[4, 1] = 1.0

    def answer(edges: Tensors) -> Tensor:
        graph = torch.zeros(SENSORS, SENSORS).scatter(1, index, edges["near.weight"])
        return _forecast(values, graph)[:, 4]

    masks = edge_masks(answer, {"near.weight": weights}).values["near.weight"]
    assert divmod(int(masks.argmax()), 3) == (4, 1)


def test_a_graph_that_says_nothing_has_no_edges_that_are_needed() -> None:
    answer = edge_masks(lambda _edges: torch.ones(3), {"heard": GRAPH})
    assert not answer.values["heard"].any()


def test_integrated_gradients_add_up_and_plain_ones_need_not() -> None:
    def number(rows: Tensor) -> Tensor:
        return (rows.square().sum(dim=(1, 2)) * 3.0).tanh() + rows[:, 0, 0]

    values = torch.randn(1, 4, 3, generator=RANDOM) * 0.3
    inputs, baselines = {"values": values}, {"values": torch.zeros(())}
    integrated = attributed(number, inputs, baselines=baselines, method="integrated")
    assert integrated.values["values"].sum() == pytest.approx(integrated.total, rel=0.02)
    assert integrated.total == pytest.approx(float(number(values)), rel=1e-5)
    plain = attributed(number, inputs, baselines=baselines)
    assert plain.values["values"].sum() != pytest.approx(plain.total, rel=0.02)


def test_what_is_not_explained_stays_as_it_is() -> None:
    inputs = {"values": torch.ones(1, 2, 2), "mask": torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])}
    answer = attributed(
        lambda values, mask: (values * mask).sum(dim=(1, 2)),
        inputs,
        baselines={"values": torch.tensor([0.0, 1.0])},
        method="integrated",
    )
    assert answer.values.keys() == {"values"}
    assert answer.values["values"][0].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert answer.by(-1).tolist() == [2.0, 0.0]


def test_numbers_that_are_not_floats_and_several_samples_are_refused() -> None:
    def number(one: Tensor) -> Tensor:
        return one.sum(dim=1)

    with pytest.raises(BadTensorError, match="occlusion"):
        attributed(number, {"ids": torch.ones(1, 2).long()}, baselines={"ids": torch.zeros(())})
    with pytest.raises(BadTensorError, match="one sample"):
        attributed(number, {"x": torch.ones(2, 2)}, baselines={"x": torch.zeros(())})


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    small = RunSettings(seed=1, steps=30, check=15, options={"hidden": 8, "steps": 1})
    return train("sensor-graph", small)


def _inputs(row: int) -> Mapping[str, np.ndarray]:
    data = tep.load()
    window = data.faults[4][None, row - WINDOW : row]
    return {"values": window, "mask": np.ones_like(window)}


def test_a_fault_of_the_plant_is_traced_to_its_valve(model: TrainedModel) -> None:
    explainer, inputs = Explainer(model), _inputs(tep.FAULT_START + 8)
    plain = explainer.attribution(inputs)
    integrated = explainer.attribution(inputs, method="integrated")
    names = [sensor.name for sensor in model.info.contract.sensors]
    for answer in (plain, integrated):
        assert names[int(answer.by(-1).argmax())] in {"XMV_10", "XMEAS_09", "XMEAS_21"}
        assert answer.values["values"].shape == (1, WINDOW, 52)
    assert integrated.values["values"].sum() == pytest.approx(integrated.total, rel=0.05)


def test_one_number_of_a_forecast_can_be_explained(model: TrainedModel) -> None:
    answer = Explainer(model, 0.5).attribution(_inputs(100), output="forecast", place=(0, 6))
    assert int(np.abs(answer.by(-1)).argmax()) >= 0
    with pytest.raises(NotFoundError, match="no place"):
        Explainer(model).attribution(_inputs(100), output="forecast", place=(9, 6))
    with pytest.raises(NotFoundError, match="forecast, score, contribution"):
        Explainer(model).attribution(_inputs(100), output="fortune")
    with pytest.raises(BadTensorError, match="mask"):
        Explainer(model).attribution({"values": _inputs(100)["values"]})


def test_the_edges_of_a_model_are_those_of_its_graph(model: TrainedModel) -> None:
    # So short a training has learnt nothing of use, and what is settled has closed the graph.
    ones = {name: np.ones_like(model.constants[name]) for name in model.info.per_width}
    constants = {**model.constants, **ones}
    opened = TrainedModel(model.info, model.weights, constants, model.samples, model.assets)
    explainer, inputs = Explainer(opened), _inputs(100)
    before = _output(opened, inputs)
    answer = explainer.edges(inputs, sensor="XMEAS_09", top=5)
    names = [sensor.name for sensor in model.info.contract.sensors]
    assert 0 < len(answer.edges) <= 5
    assert [edge.weight for edge in answer.edges] == sorted(
        (edge.weight for edge in answer.edges), reverse=True
    )
    for edge in answer.edges:
        graph = model.constants[f"graph.{edge.relation}"]
        assert graph[names.index(edge.target), names.index(edge.source)] > 0
    assert torch.equal(_output(opened, inputs), before)
    with pytest.raises(NotFoundError, match="XMEAS_99"):
        explainer.edges(inputs, sensor="XMEAS_99")


def _output(model: TrainedModel, inputs: Mapping[str, np.ndarray]) -> Tensor:
    explainer = Explainer(model)
    arrays: Tensors = tensors(model.at(1.0))
    with torch.no_grad():
        return called(explainer._network, arrays, list(tensors(inputs).values()))[0]
