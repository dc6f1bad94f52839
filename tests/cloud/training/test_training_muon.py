"""Muon: all directions of a step are equally long, and it goes where others go."""

import pytest
import torch
from torch import nn

from aimass_cloud.recipes.run import Optimizer, RunSettings
from aimass_cloud.training.muon import LENGTH, Muon, orthogonal
from aimass_cloud.training.optimizing import optimizer_of
from aimass_shared.errors import InvalidSettingError


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert 0.5 < values.min() < values.max() < 1.3


@pytest.mark.parametrize("shape", [(6, 20), (4, 3, 3, 3)])
def test_a_step_is_as_long_as_one_of_adam(shape: tuple[int, ...]) -> None:
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    Muon([weight], 0.1, decay=0.0).step()
    rms = float(weight.detach().square().mean().sqrt())
    assert rms == pytest.approx(0.1 * LENGTH, rel=0.3)


def test_a_vector_goes_with_adam() -> None:
    own, other = (nn.Parameter(torch.ones(3)) for _ in range(2))
    steps = Muon([own], 0.1, decay=0.5), torch.optim.Adam([other], 0.1, betas=(0.9, 0.99))
    for _ in range(3):
        for weight, optimizer in zip((own, other), steps, strict=True):
            weight.grad = torch.tensor([1.0, -2.0, 0.5])
            optimizer.step()
    assert torch.allclose(own, other)


def test_it_solves_what_is_badly_scaled() -> None:
    torch.manual_seed(0)
    scale = torch.logspace(0, -2, 8)
    weight = nn.Parameter(torch.zeros(4, 8))
    wanted = torch.randn(4, 8)
    optimizer = Muon([weight], 0.2, decay=0.0)
    losses: list[float] = []
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 200)
        optimizer.zero_grad()
        loss = ((weight - wanted) * scale).square().sum()
        torch.autograd.backward(loss)
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.01 * losses[0]


def test_a_run_that_shares_weights_out_is_refused() -> None:
    run = RunSettings(optimizer=Optimizer("muon"), distributed="fsdp")
    with pytest.raises(InvalidSettingError, match="whole weights"):
        optimizer_of(run, [nn.Parameter(torch.zeros(2, 2))])
