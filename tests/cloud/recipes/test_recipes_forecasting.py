"""The gate of a correction, on cases whose answer is known."""

import torch

from aimass_cloud.recipes.forecasting import gate


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
