"""The loss over widths: each counts, and a teacher as much as all that imitate it."""

from types import ModuleType

import pytest
import torch

from aimass_cloud.training.objective import IMITATION, Kind, Objective

BATCH = {
    "x": torch.randn(8, 6, generator=torch.Generator().manual_seed(0)),
    "y": torch.ones(8, 1),
}

Losses = dict[str, float]
KINDS: tuple[Kind, ...] = ("sandwich", "distil")


@pytest.fixture
@torch.no_grad()
def losses(child: ModuleType) -> Losses:
    torch.manual_seed(0)
    network = child.Tiny(0.0).eval()
    torch.nn.init.normal_(network.outer)
    kinds = {kind: Objective(network, widths=(1.0, 0.5, 0.25), kind=kind) for kind in KINDS}
    found: Losses = {kind: float(one(BATCH, 0)) for kind, one in kinds.items()}
    told = [kinds["sandwich"].predict(width, BATCH) for width in (1.0, 0.5, 0.25)]
    own = [float(network.criterion(one, BATCH)) for one in told]
    like = [float(network.imitation(one, told[0])) for one in told[1:]]
    mixed = [(1 - IMITATION) * a + IMITATION * b for a, b in zip(own[1:], like, strict=True)]
    return {**found, "mean": sum(own) / 3, "taught": (own[0] + sum(mixed) / 2) / 2}


def test_a_sandwich_is_the_mean_over_widths(losses: Losses) -> None:
    assert losses["sandwich"] == pytest.approx(losses["mean"])


def test_a_teacher_counts_as_much_as_all_that_imitate_it(losses: Losses) -> None:
    assert losses["distil"] == pytest.approx(losses["taught"])
