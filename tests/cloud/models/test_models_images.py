"""The image network: any width is a network of its own, and a deep one starts as well as a flat."""

import math

import pytest
import torch
from torch import Tensor

from aimass_cloud.models.images import ImageNetwork, Layout, neutral
from aimass_cloud.models.network import called, narrowed, nesting_of, predictor

LAYOUT = Layout(stages=(8, 8, 16), blocks=2)
WIDTHS = (1.0, 0.5, 0.25)


def network(layout: Layout = LAYOUT, shape: tuple[int, int, int] = (1, 16, 16)) -> ImageNetwork:
    torch.manual_seed(1)
    channels = shape[0]
    constants = neutral(torch.full((channels,), 0.5), torch.full((channels,), 0.2))
    made = ImageNetwork(layout, constants, shape=shape, classes=3)
    for name, weight in made.named_parameters():
        if name.endswith("second.gain"):  # as training would: blocks do something
            torch.nn.init.constant_(weight, 0.5)
    return made.eval()


def images(shape: tuple[int, int, int] = (1, 16, 16)) -> Tensor:
    return torch.rand(4, *shape, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize("width", WIDTHS)
def test_a_slice_computes_what_the_leading_part_computes(width: float) -> None:
    whole = network()
    arrays = dict(whole.named_parameters())
    sliced = {
        name: part.clone() for name, part in narrowed(arrays, nesting_of(whole), width).items()
    }
    inside = predictor(whole)(width, {"image": images()})
    probabilities, label = called(whole, sliced, [images()])
    assert torch.equal(torch.softmax(inside, dim=-1), probabilities)
    assert torch.equal(label, inside.argmax(dim=-1))


@torch.no_grad()
def test_what_a_width_does_not_keep_has_no_part_in_it() -> None:
    whole = network()
    before = predictor(whole)(0.5, {"image": images()})
    kept = nesting_of(whole)
    for name, weight in whole.named_parameters():
        inner = weight[kept.leading(name, tuple(weight.shape), 0.5)].clone()
        weight.normal_()
        weight[kept.leading(name, tuple(weight.shape), 0.5)] = inner
    assert torch.equal(predictor(whole)(0.5, {"image": images()}), before)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (1, 30, 50), (3, 64, 48), (1, 1, 1)])
def test_images_of_any_shape_are_classified(shape: tuple[int, int, int]) -> None:
    probabilities, label = network(shape=shape)(images(shape))
    assert probabilities.shape == (4, 3)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(4))
    assert label.dtype == torch.int64


@torch.no_grad()
@pytest.mark.parametrize("width", WIDTHS)
def test_signals_neither_die_nor_explode_in_many_blocks(width: float) -> None:
    deep = network(Layout(stages=(32, 32, 32), blocks=8))
    arrays = narrowed(dict(deep.named_parameters()), nesting_of(deep), width)
    sizes: list[float] = []
    for block in deep.blocks:
        block.register_forward_hook(lambda _layer, _inputs, state: sizes.append(state.std().item()))
    noise = torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(3)) * 0.2 + 0.5
    called(deep, arrays, [noise])
    assert 0.1 < min(sizes) < max(sizes) < 3.0


def test_the_temperature_moves_confidence_and_no_label() -> None:
    plain, soft = network(), network()
    soft.readout.temperature.fill_(4.0)
    (sure, label), (unsure, same) = plain(images()), soft(images())
    assert torch.equal(label, same)
    assert unsure.max() < sure.max()


def test_targets_are_smoothed_in_training_alone() -> None:
    model = network()
    batch = {"label": torch.tensor([0])}
    sure = torch.tensor([[30.0, 0.0, 0.0]])
    assert float(model.criterion(sure, batch)) == pytest.approx(0.0, abs=1e-6)
    assert float(model.train().criterion(sure, batch)) > 1.0


def test_a_narrow_width_imitates_best_what_is_the_same() -> None:
    model, teacher = network(), torch.tensor([[2.0, 0.0, 0.0]])
    other = torch.tensor([[0.0, 2.0, 0.0]])
    same, wrong = (float(model.imitation(one, teacher)) for one in (teacher, other))
    shares = torch.softmax(teacher, dim=-1)
    assert same == pytest.approx(-float((shares * shares.log()).sum()))
    assert wrong > same
    assert math.isfinite(wrong)
