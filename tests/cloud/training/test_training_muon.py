"""Muon: all directions of a step are equally long, and it goes where others go."""

import pytest
import torch
from torch import nn

from aimass_cloud.models.images import ImageNetwork, Layout, neutral
from aimass_cloud.recipes.run import Optimizer, RunSettings
from aimass_cloud.training.muon import LENGTH, Muon, orthogonal
from aimass_cloud.training.objective import Objective
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


def test_what_a_narrow_width_has_is_turned_as_in_a_network_of_that_width() -> None:
    gradient = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    places = [(slice(0, 4), slice(0, 3)), (slice(0, 2), slice(0, 2))]
    whole, plain = (nn.Parameter(torch.zeros(8, 6)) for _ in range(2))
    narrow = [nn.Parameter(torch.zeros_like(gradient[place])) for place in places]
    whole.grad, plain.grad = gradient.clone(), gradient.clone()
    for weight, place in zip(narrow, places, strict=True):
        weight.grad = gradient[place].clone()
    Muon([whole], 0.1, decay=0.0, parts={whole: places}).step()
    Muon([plain, *narrow], 0.1, decay=0.0).step()
    half, quarter = narrow
    assert torch.equal(whole[:2, :2], quarter)
    assert torch.equal(whole[2:4, :3], half[2:])
    assert torch.equal(whole[4:], plain[4:])
    assert not torch.allclose(whole[:4, :3], plain[:4, :3])


def test_a_training_of_several_widths_turns_each_by_itself() -> None:
    network = ImageNetwork(
        Layout(stages=(8, 8)),
        neutral(torch.zeros(1), torch.ones(1)),
        shape=(1, 4, 4),
        classes=2,
    )
    objective = Objective(network, widths=(1.0, 0.5), kind="sandwich")
    found = {name: objective.parts.get(weight) for name, weight in network.named_parameters()}
    filters = (slice(0, 1), slice(0, 3), slice(0, 3))
    assert found["stem.weight"] == [(slice(0, 4), *filters)]
    assert found["readout.weight"] == [(slice(0, 4), slice(0, 2))]
    assert found["readout.bias"] is None


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
