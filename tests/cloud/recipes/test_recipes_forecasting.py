"""What is chosen on held-back windows, on cases whose answer is known."""

import numpy as np
import torch
from torch import Tensor

from aimass_cloud.models.forecaster import SIDES
from aimass_cloud.recipes.forecasting import LINEAR, choices, chosen, coverage, gate, reach
from aimass_shared.manifest import Sensor


def test_a_right_correction_is_let_through_and_a_wrong_one_is_not() -> None:
    random = torch.Generator().manual_seed(3)
    target = torch.randn(500, 2, 3, generator=random)
    added = torch.stack([target[..., 0], 2 * target[..., 1], -target[..., 2]], dim=-1)
    shares = gate(torch.zeros_like(target), added, target, kinds=["a", "b", "c"])
    assert torch.allclose(shares, torch.tensor([1.0, 0.5, 0.0]).expand(2, 3), atol=1e-5)


def test_a_gate_cannot_make_the_forecast_worse_where_it_was_chosen() -> None:
    random = torch.Generator().manual_seed(4)
    linear, added, target = (torch.randn(50, 2, 3, generator=random) for _ in range(3))
    gated = linear + gate(linear, added, target, kinds=["a", "a", "b"]) * added
    assert (gated - target).square().mean() <= (linear - target).square().mean()


def test_a_missing_value_does_not_move_the_gate() -> None:
    random = torch.Generator().manual_seed(5)
    linear, added, target = (torch.randn(50, 2, 3, generator=random) for _ in range(3))
    gaps = target.masked_fill(torch.rand(target.shape, generator=random) < 0.2, torch.nan)
    known = gate(linear, added, gaps, kinds=["a"] * 3)
    wild = gate(linear, torch.where(gaps.isnan(), 1e6, added), gaps, kinds=["a"] * 3)
    assert known.isfinite().all()
    assert torch.equal(known, wild)


def test_a_relation_that_does_harm_is_silent() -> None:
    target = torch.randn(200, 2, 3, generator=torch.Generator().manual_seed(6))

    def forecast(share: Tensor, loudness: Tensor) -> Tensor:
        said = target - 3.0 * loudness[2] * target.flip(0) + 0.0 * loudness[0]
        return share * said

    relations = ("inward", "outward", "given_inward", "given_outward")
    found = choices(forecast, target, relations=relations, sensors=[Sensor("s", "", "a")] * 3)
    assert list(dict.fromkeys(each.name for each in found)) == [
        LINEAR,
        "network, no graph",
        "network, given graph",
        "network, learned graph",
        "network, learned + given graph",
    ]
    best = chosen(found)
    assert best.loudness[2:].tolist() == [0.0, 0.0]
    assert best.error < 1e-6


def test_a_correction_that_one_stretch_speaks_for_is_not_trusted() -> None:
    random = torch.Generator().manual_seed(8)
    target = torch.randn(160, 2, 3, generator=random)
    target[:20] *= 10.0

    def gains_in(stretches: int) -> str:
        right = torch.arange(len(target))[:, None, None] < 20 * stretches
        said = torch.where(right, 0.5 * target, torch.randn(target.shape, generator=random) / 2)

        def forecast(share: Tensor, loudness: Tensor) -> Tensor:
            return share * said + 0.0 * loudness.sum()

        found = choices(forecast, target, relations=(), sensors=[Sensor("s", "", "a")] * 3)
        assert min(each.error for each in found) < found[0].error
        return chosen(found).name

    assert gains_in(1) == LINEAR
    assert gains_in(8) == "network, no graph"


def test_where_nothing_was_measured_the_linear_forecast_ships() -> None:
    target = torch.full((12, 2, 3), torch.nan)

    def forecast(share: Tensor, loudness: Tensor) -> Tensor:
        return torch.ones(12, 2, 3) * share + 0.0 * loudness.sum()

    found = choices(forecast, target, relations=(), sensors=[Sensor("s", "", "a")] * 3)
    assert chosen(found).name == LINEAR


def test_a_band_reaches_as_far_as_held_back_values_lie_out() -> None:
    random = torch.Generator().manual_seed(7)
    target = torch.randn(4000, 2, 3, generator=random) * torch.tensor([1.0, 5.0, 5.0])
    band = torch.ones(4000, SIDES, 2, 3)
    far = reach(torch.zeros_like(target), band, target, kinds=["a", "b", "b"])
    assert far.shape == (SIDES, 2, 3)
    expected = torch.tensor([1.0, 5.0, 5.0]) * 1.2816
    assert torch.allclose(far, expected.expand_as(far), rtol=0.1)
    lower, upper = (-far[0]).expand_as(target), far[1].expand_as(target)
    found = coverage(lower.numpy(), upper.numpy(), target.numpy(), scale=np.ones(3, np.float32))
    assert abs(found["covered"] - 0.8) < 0.02
