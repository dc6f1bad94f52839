"""The network that tells conditions: a width is a network of its own, a gap counts as the mean."""

import pytest
import torch
from torch import Tensor

from aimass_cloud.models.diagnosis import CLIP, DiagnosisNetwork, Layout, Units, neutral
from aimass_cloud.models.network import called, narrowed, nesting_of, predictor

LAYOUT = Layout(window=8, patch=2, hidden=32, head=8, dropout=0.0)
RIGID = {"tokens.weight": 1, "tokens.place": 1, "readout.weight": 1, "readout.bias": 0}
"""Axes that shrink, of the weights that have others."""
SENSORS, CLASSES = 5, 3


def network() -> DiagnosisNetwork:
    torch.manual_seed(1)
    constants = neutral(torch.full((SENSORS,), 100.0), torch.full((SENSORS,), 4.0))
    return DiagnosisNetwork(LAYOUT, constants, sensors=SENSORS, classes=CLASSES).eval()


def windows() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    values = 100 + 4 * torch.randn(4, LAYOUT.window, SENSORS, generator=random)
    return values, (torch.rand(values.shape, generator=random) > 0.1).float()


@torch.no_grad()
@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_a_slice_computes_what_the_leading_part_computes(width: float) -> None:
    whole, (values, mask) = network(), windows()
    parts = narrowed(dict(whole.named_parameters()), nesting_of(whole), width)
    sliced = {name: part.clone() for name, part in parts.items()}
    inside = predictor(whole)(width, {"values": values, "mask": mask})
    probabilities, label = called(whole, sliced, [values, mask])
    assert torch.equal(torch.softmax(inside, dim=-1), probabilities)
    assert torch.equal(label, inside.argmax(dim=-1))


@torch.no_grad()
def test_what_a_width_does_not_keep_has_no_part_in_it() -> None:
    whole, (values, mask) = network(), windows()
    batch = {"values": values, "mask": mask}
    before, kept = predictor(whole)(0.25, batch), nesting_of(whole)
    for name, weight in whole.named_parameters():
        place = kept.leading(name, tuple(weight.shape), 0.25)
        inner = weight[place].clone()
        weight.normal_()
        weight[place] = inner
    assert torch.equal(predictor(whole)(0.25, batch), before)


def test_every_axis_over_channels_shrinks() -> None:
    whole = network()
    weights = dict(whole.named_parameters())
    for name, part in narrowed(weights, nesting_of(whole), 0.25).items():
        axes = RIGID.get(name, weights[name].ndim)
        assert part.numel() * 4**axes == weights[name].numel(), name


def test_a_gap_counts_as_the_mean_and_a_broken_sensor_as_far_off() -> None:
    units = Units(torch.tensor([100.0, 0.0]), torch.tensor([4.0, 1.0]))
    values = torch.tensor([[[108.0, float("nan")], [1e9, -1e9]]])
    mask = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    assert units(values, mask).tolist() == [[[2.0, 0.0], [CLIP, -CLIP]]]


def test_a_new_network_is_undecided_and_every_weight_learns() -> None:
    whole, (values, mask) = network(), windows()
    probabilities, _ = whole(values, mask)
    assert probabilities.detach().numpy() == pytest.approx(1 / CLASSES, abs=0.25)
    batch = {"values": values, "mask": mask, "label": torch.tensor([0, 1, 2, 0])}
    torch.autograd.backward(whole.criterion(whole.predict(batch), batch))
    still = [name for name, one in whole.named_parameters() if not one.grad.abs().sum() > 0]  # type: ignore[union-attr]
    assert still == []
