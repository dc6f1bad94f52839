"""The forecaster and its networks: bounded, blind to what is missing, gated, nested in a band."""

from typing import Any

import pytest
import torch
from torch import Tensor

from aimass_cloud.models.contract import contract_for
from aimass_cloud.models.forecaster import Forecaster, ForecasterConfig, Seen
from aimass_cloud.models.graph import FrozenGraph, NodeGraph, members, relations_in
from aimass_cloud.models.network import Tensors
from aimass_cloud.models.sensors import SensorNetwork
from aimass_shared.manifest import Sensor

KINDS = ("continuous", "sampled", "continuous", "actuator", "actuator")
SENSORS = tuple(Sensor(f"s{number}", "%", kind) for number, kind in enumerate(KINDS))
CONFIG = ForecasterConfig(hidden=8, neighbours=2, recent=16)
LEARNED = ("inward", "outward")
MONITOR: Tensors = {
    "monitor.intercept": torch.zeros(5),
    "monitor.coefficients": torch.zeros(15, 5),
    "monitor.whitening": torch.eye(5),
    "monitor.limits": torch.ones(3),
}
UNITS: Tensors = {"base.mean": torch.zeros(5), "base.scale": torch.ones(5)}
VAR: Tensors = {"base.intercept": torch.zeros(5), "base.coefficients": torch.zeros(10, 5)}


def _model(**options: Any) -> SensorNetwork:  # noqa: ANN401  of the configuration
    """As drawn before training: a base that forecasts the mean, and an open gate."""
    config = ForecasterConfig(hidden=8, neighbours=2, recent=16, **options)
    contract = contract_for(
        "m", SENSORS, step_ms=1000, window=16, horizon=3, quantiles=config.quantiles
    )
    torch.manual_seed(4)
    constants = {**UNITS, **VAR, **MONITOR, **NodeGraph(5, neighbours=2).frozen()}
    graph = FrozenGraph(relations_in(constants))
    return SensorNetwork(config, contract, constants, graph=graph).eval()


@torch.no_grad()
def _outputs(model: SensorNetwork, values: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = model(values, mask)
    return outputs


def _forecaster(config: ForecasterConfig = CONFIG, *, wild: float = 0.0) -> Forecaster:
    torch.manual_seed(1)
    forecaster = Forecaster(config, SENSORS, horizon=3, relations=LEARNED).eval()
    with torch.no_grad():
        for parameter in forecaster.parameters():
            if wild:
                parameter.copy_(torch.randn_like(parameter) * wild)
    return forecaster


@torch.no_grad()
def _added(forecaster: Forecaster, window: Tensor, linear: Tensor) -> Tensor:
    seen = Seen(window, torch.ones_like(window), window[:, -1:], linear)
    added: Tensor = forecaster(seen, [torch.eye(5), torch.eye(5)], torch.ones(2))
    return added


def test_a_new_forecaster_only_holds_a_little() -> None:
    model = _model()
    values = torch.randn(4, 16, 5)
    forecast, _, _ = _outputs(model, values, torch.ones_like(values))
    share = torch.sigmoid(torch.tensor(-1.0))
    assert torch.allclose(forecast, share * values[:, -1:].expand_as(forecast), atol=1e-6)


@pytest.mark.parametrize("decoder", ["direct", "loop"])
@pytest.mark.parametrize("bound", [1.0, 2.5])
def test_the_correction_stays_within_its_bound_however_wild_the_inputs(
    decoder: str, bound: float
) -> None:
    config = ForecasterConfig(hidden=8, recent=16, bound=bound, decoder=decoder)  # type: ignore[arg-type]
    window = torch.randn(3, 16, 5) * 1e4
    added = _added(_forecaster(config, wild=5.0), window, window[:, -1:].expand(3, 3, 5))
    assert added.shape == (3, 3, 5)
    assert bound / 2 < added.abs().max() <= bound


def test_inputs_beyond_the_clip_change_nothing_but_the_hold() -> None:
    forecaster = _forecaster()
    window = torch.zeros(1, 16, 5)
    window[0, 3, 1] = CONFIG.clip
    further = window.clone()
    further[0, 3, 1] = 100 * CONFIG.clip
    linear = torch.zeros(1, 3, 5)
    assert torch.equal(_added(forecaster, window, linear), _added(forecaster, further, linear))


def test_relative_inputs_do_not_see_a_shift_within_the_clip_of_the_level_alone() -> None:
    config = ForecasterConfig(hidden=8, recent=16, relative=True, hold=False, clip=100.0)
    forecaster = _forecaster(config, wild=0.3)
    with torch.no_grad():
        for matrix in forecaster.encoder.maps:
            matrix[16] = 0.0  # the level itself
    window, linear = torch.randn(2, 16, 5), torch.zeros(2, 3, 5)
    assert torch.allclose(
        _added(forecaster, window, linear), _added(forecaster, window + 7, linear), atol=1e-5
    )


@pytest.mark.parametrize("junk", [0.0, 1e30, float("nan"), float("inf")])
def test_what_stands_in_for_a_missing_value_does_not_matter(junk: float) -> None:
    model = _model(quantiles=True)
    values, mask = torch.randn(2, 16, 5), torch.ones(2, 16, 5)
    mask[0, 3, 1] = mask[1, -1, 2] = 0.0
    for output, expected in zip(
        _outputs(model, values.masked_fill(mask == 0, junk), mask),
        _outputs(model, values, mask),
        strict=True,
    ):
        assert torch.equal(output, expected)


def test_a_missing_target_does_not_count_in_either_loss() -> None:
    model = _model()
    values, mask = torch.randn(2, 19, 5), torch.ones(2, 19, 5)
    mask[0, 17, 1] = 0.0
    wild = values.masked_fill(mask == 0, 1e6)
    first, second = (model.local_loss(rows, mask, torch.ones(2)) for rows in (values, wild))
    assert first == second
    prediction = torch.zeros(2, 3, 5)
    one, other = (
        model.criterion(prediction, {"target": rows[:, 16:], "weight": mask[:, 16:]})
        for rows in (values, wild)
    )
    assert one == other


def test_padding_does_not_count_in_the_loss() -> None:
    model = _model()
    values, mask = torch.randn(2, 19, 5), torch.ones(2, 19, 5)
    padded = model.local_loss(values, mask, torch.tensor([1.0, 0.0]))
    alone = model.local_loss(values[:1], mask[:1], torch.ones(1))
    assert padded.item() == pytest.approx(alone.item())


def test_the_order_of_sensors_and_their_kinds_does_not_matter() -> None:
    """Sensors of one kind need not be beside each other."""
    order = [3, 0, 4, 1, 2]
    forecaster = _forecaster(wild=0.5)
    torch.manual_seed(1)
    moved = Forecaster(CONFIG, [SENSORS[at] for at in order], horizon=3, relations=LEARNED).eval()
    weights = forecaster.state_dict()
    for name in ("encoder.identity", "head.correction_bias", "head.hold_bias", "head.hold_changes"):
        weights[name] = weights[name][order]
    kinds = list(dict.fromkeys(KINDS))
    for place, kind in enumerate(dict.fromkeys(KINDS[at] for at in order)):
        name = f"encoder.maps.{kinds.index(kind)}"
        weights[f"encoder.maps.{place}"] = forecaster.state_dict()[name]
    moved.load_state_dict(weights)
    window, linear = torch.randn(2, 16, 5), torch.randn(2, 3, 5)
    added = _added(moved, window[..., order], linear[..., order])
    assert torch.allclose(added, _added(forecaster, window, linear)[..., order], atol=1e-5)


def test_a_silent_relation_is_not_heard_and_a_loud_one_is() -> None:
    model = _model()
    with torch.no_grad():
        model.forecaster.head.correction.copy_(torch.randn(8, 3))
    values = torch.randn(2, 16, 5)
    other = values.clone()
    other[:, :, 1:] += 1.0
    ones = torch.ones_like(values)
    model.loudness.zero_()
    alone, same = (_outputs(model, rows, ones)[0] for rows in (values, other))
    assert torch.equal(alone[..., 0], same[..., 0])
    model.loudness.fill_(1.0)
    first, second = (_outputs(model, rows, ones)[0] for rows in (values, other))
    assert not torch.equal(first[..., 0], second[..., 0])


def test_entities_say_what_their_sensors_say_together() -> None:
    sensors = ("pump", "pump", "", "valve", "valve")
    config = ForecasterConfig(hidden=8, recent=16, entities=("pump", "valve"))
    fixed = members(sensors)
    forecaster = Forecaster(config, SENSORS, horizon=3, relations=tuple(fixed)).eval()
    with torch.no_grad():
        forecaster.head.correction.copy_(torch.randn(8, 3))
        window = torch.randn(2, 16, 5)
        other = window.clone()
        other[..., 1] += 1.0
        first, second = (
            forecaster(
                Seen(rows, torch.ones_like(rows), rows[:, -1:], torch.zeros(2, 3, 5)),
                list(fixed.values()),
                torch.ones(2),
            )
            for rows in (window, other)
        )
    assert not torch.equal(first[..., 0], second[..., 0]), "the other sensor of the pump"
    assert torch.equal(first[..., 2:], second[..., 2:]), "sensors of other machines"


def test_a_band_lies_around_the_forecast_and_its_loss_leaves_the_forecast_alone() -> None:
    model = _model(quantiles=True)
    values = torch.randn(4, 16, 5)
    forecast, _, _, lower, upper = _outputs(model, values, torch.ones_like(values))
    assert (lower < forecast).all()
    assert (forecast < upper).all()
    prediction = torch.randn(4, 3, 3, 5, requires_grad=True)
    batch = {"target": torch.randn(4, 3, 5), "weight": torch.ones(4, 3, 5)}
    torch.autograd.backward(model.criterion(prediction, batch))
    assert prediction.grad is not None
    expected = 2 * (prediction[:, 0] - batch["target"]) / 60
    assert torch.allclose(prediction.grad[:, 0], expected)
    assert prediction.grad[:, 1:].abs().sum() > 0
