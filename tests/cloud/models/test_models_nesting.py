"""Nested widths: what a width keeps, and that a slice computes what its prefix in place does."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from aimass_cloud.models.forecaster import Forecaster, ForecasterConfig, Seen
from aimass_cloud.models.nesting import Nesting
from aimass_cloud.models.network import narrowed, nesting_of
from aimass_shared.errors import NotFoundError
from aimass_shared.manifest import Sensor

HIDDEN, WINDOW, HORIZON = 8, 6, 2
KINDS = ("continuous", "continuous", "sampled", "actuator")
SENSORS = tuple(Sensor(f"s{number}", "%", kind) for number, kind in enumerate(KINDS))


def _forecaster() -> Forecaster:
    torch.manual_seed(3)
    config = ForecasterConfig(hidden=HIDDEN, recent=WINDOW, quantiles=True, decoder="loop")
    relations = ("inward", "outward")
    forecaster = Forecaster(config, SENSORS, horizon=HORIZON, relations=relations).eval()
    with torch.no_grad():
        for parameter in forecaster.parameters():
            parameter.copy_(torch.randn_like(parameter) / 3)
    return forecaster


def _inputs() -> tuple[Seen, tuple[Tensor, Tensor], Tensor]:
    window = torch.randn(5, WINDOW, len(SENSORS))
    edges = (torch.rand(4, 4).softmax(1), torch.rand(4, 4).softmax(1))
    linear = torch.randn(5, HORIZON, len(SENSORS))
    seen = Seen(window, torch.ones_like(window), window[:, -1:], linear)
    return seen, edges, torch.ones(2)


def test_a_width_keeps_the_leading_share_of_elastic_axes_only() -> None:
    nested = Nesting({"gates": (1, 2), "bias": ()})
    assert nested.leading("gates", (3, 8, 8), 0.25) == (slice(0, 3), slice(0, 2), slice(0, 2))
    assert nested.leading("bias", (5,), 0.25) == (slice(0, 5),)
    assert nested.leading("gates", (3, 8, 8), 1.0) == (slice(0, 3), slice(0, 8), slice(0, 8))


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(NotFoundError, match="no parameter 'gate'; there are: gates"):
        Nesting({"gates": (1,)}).leading("gate", (3, 8), 0.5)


def test_slices_are_copies() -> None:
    full = {"gates": np.arange(6.0).reshape(2, 3)}
    part = Nesting({"gates": (0,)}).sliced(full, 0.5)["gates"]
    part[:] = 0
    assert full["gates"].max() == 5.0


def test_every_parameter_over_hidden_channels_is_elastic() -> None:
    """A forgotten axis would leave a slice with the size of the whole."""
    forecaster = _forecaster()
    weights = dict(forecaster.named_parameters())
    for name, part in narrowed(weights, nesting_of(forecaster), 0.5).items():
        halved = sum(size == HIDDEN for size in weights[name].shape)
        assert part.numel() * 2**halved == weights[name].numel(), name


@pytest.mark.parametrize("width", [0.5, 0.25])
def test_a_slice_computes_what_the_full_network_computes_without_the_other_channels(
    width: float,
) -> None:
    forecaster, inputs = _forecaster(), _inputs()
    weights = dict(forecaster.named_parameters())
    nested = nesting_of(forecaster)
    sliced = {
        name: weight.clone().detach() for name, weight in narrowed(weights, nested, width).items()
    }
    # The other channels silenced in place: they start at 0 and stay there.
    silenced = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for name, part in sliced.items():
        factor = width**-0.5 if _sums_over_hidden(name) else 1.0
        silenced[name][nested.leading(name, tuple(part.shape), 1.0)] = part * factor
    with torch.no_grad():
        small = functional_call(forecaster, sliced, inputs)
        in_place = functional_call(forecaster, silenced, inputs)
        views = functional_call(forecaster, narrowed(weights, nested, width), inputs)
    assert torch.equal(small, views)
    assert torch.allclose(small, in_place, atol=1e-6)
    assert not torch.allclose(small, forecaster(*inputs), atol=1e-3)


def _sums_over_hidden(name: str) -> bool:
    sums = ("maps.", "cell.input", "cell.state", "head.correction", "head.hold", "head.spread.")
    starts = ("messages.", "cell.", "decoder.", "head.")
    biases = ("bias", "changes")
    return (
        name.startswith(starts) and any(part in name for part in sums) and not name.endswith(biases)
    )
