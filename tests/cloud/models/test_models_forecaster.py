"""The forecaster and its graph: bounded, blind to what is missing, and the same once frozen."""

import pytest
import torch
from torch import Tensor

from aimass_cloud.models.contract import contract_for
from aimass_cloud.models.forecaster import CLIP, Forecaster, ForecasterConfig
from aimass_cloud.models.graph import SensorGraph
from aimass_cloud.models.network import Tensors
from aimass_cloud.models.sensors import FrozenGraph, SensorNetwork
from aimass_shared.errors import TrainingFailedError
from aimass_shared.manifest import Sensor

KINDS = ("continuous", "continuous", "sampled", "actuator", "actuator")
SENSORS = tuple(Sensor(f"s{number}", "%", kind) for number, kind in enumerate(KINDS))
CONFIG = ForecasterConfig(hidden=8, neighbours=2)


def _model() -> SensorNetwork:
    """As drawn before training: a base that forecasts the mean, and an open gate."""
    contract = contract_for("m", SENSORS, step_ms=1000, window=16, horizon=3)
    torch.manual_seed(4)
    constants: Tensors = {
        "base.mean": torch.zeros(5),
        "base.scale": torch.ones(5),
        "base.intercept": torch.zeros(5),
        "base.coefficients": torch.zeros(10, 5),
        "monitor.intercept": torch.zeros(5),
        "monitor.coefficients": torch.zeros(15, 5),
        "monitor.whitening": torch.eye(5),
        "monitor.limits": torch.ones(3),
        **SensorGraph(5, CONFIG.embedding, CONFIG.neighbours).frozen(),
    }
    return SensorNetwork(CONFIG, contract, constants, FrozenGraph(constants)).eval()


@torch.no_grad()
def _outputs(model: SensorNetwork, values: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = model(values, mask)
    return outputs


def test_the_graph_keeps_the_strongest_edges_and_none_to_itself() -> None:
    graph = SensorGraph(6, 4, 2)
    for edges in graph.frozen().values():
        assert torch.allclose(edges.sum(dim=1), torch.ones(6))
        assert ((edges > 0).sum(dim=1) == 2).all()
        assert (edges.diagonal() == 0).all()


def test_a_graph_learns() -> None:
    graph = SensorGraph(6, 4, 3)
    inward, outward = graph()
    (inward[0] * torch.arange(6.0)).sum().add((outward[1] * torch.arange(6.0)).sum()).backward()
    assert graph.source.grad is not None
    assert graph.source.grad.abs().sum() > 0


def test_a_frozen_graph_is_the_live_one() -> None:
    graph = SensorGraph(6, 4, 3)
    frozen = graph.frozen()
    inward, outward = graph()
    assert torch.equal(frozen["graph.inward"], inward)
    assert torch.equal(frozen["graph.outward"], outward)
    assert not frozen["graph.inward"].requires_grad


def test_a_new_forecaster_only_holds_a_little() -> None:
    model = _model()
    values = torch.randn(4, 16, 5)
    forecast, _, _ = _outputs(model, values, torch.ones_like(values))
    share = torch.sigmoid(torch.tensor(-1.0))
    assert torch.allclose(forecast, share * values[:, -1:].expand_as(forecast), atol=1e-6)


def test_the_correction_stays_within_one_deviation_however_wild_the_inputs() -> None:
    torch.manual_seed(1)
    forecaster = Forecaster(CONFIG, SENSORS, window=16, horizon=3).eval()
    with torch.no_grad():
        for parameter in forecaster.parameters():
            parameter.copy_(torch.randn_like(parameter) * 5)
        window = torch.randn(3, 16, 5) * 1e4
        base = window[:, -1:].expand(3, 3, 5)
        edges = (torch.eye(5), torch.eye(5))
        added = forecaster(window, torch.ones_like(window), base, edges)
    assert added.abs().max() <= 1.0


def test_inputs_beyond_the_clip_change_nothing_but_the_hold() -> None:
    forecaster = Forecaster(CONFIG, SENSORS, window=16, horizon=3).eval()
    window = torch.zeros(1, 16, 5)
    window[0, 3, 1] = CLIP
    further = window.clone()
    further[0, 3, 1] = 100 * CLIP
    mask, base, edges = torch.ones_like(window), torch.zeros(1, 3, 5), (torch.eye(5), torch.eye(5))
    with torch.no_grad():
        assert torch.equal(
            forecaster(window, mask, base, edges), forecaster(further, mask, base, edges)
        )


@pytest.mark.parametrize("junk", [0.0, 1e30, float("nan"), float("inf")])
def test_what_stands_in_for_a_missing_value_does_not_matter(junk: float) -> None:
    model = _model()
    values, mask = torch.randn(2, 16, 5), torch.ones(2, 16, 5)
    mask[0, 3, 1] = mask[1, -1, 2] = 0.0
    for output, expected in zip(
        _outputs(model, values.masked_fill(mask == 0, junk), mask),
        _outputs(model, values, mask),
        strict=True,
    ):
        assert torch.equal(output, expected)


def test_a_missing_target_does_not_count_in_the_loss() -> None:
    model = _model()
    values, mask = torch.randn(2, 19, 5), torch.ones(2, 19, 5)
    mask[0, 17, 1] = 0.0
    wild = values.masked_fill(mask == 0, 1e6)
    first, second = (model.local_loss(rows, mask, torch.ones(2)) for rows in (values, wild))
    assert first == second


def test_padding_does_not_count_in_the_loss() -> None:
    model = _model()
    values, mask = torch.randn(2, 19, 5), torch.ones(2, 19, 5)
    padded = model.local_loss(values, mask, torch.tensor([1.0, 0.0]))
    alone = model.local_loss(values[:1], mask[:1], torch.ones(1))
    assert padded.item() == pytest.approx(alone.item())


def test_sensors_of_one_kind_must_be_beside_each_other() -> None:
    mixed = (SENSORS[0], SENSORS[2], SENSORS[1])
    with pytest.raises(TrainingFailedError, match="beside each other"):
        Forecaster(CONFIG, mixed, window=16, horizon=3)
