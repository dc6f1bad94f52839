"""Steps: every setting does what it says, and what may not matter does not."""

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from aimass_cloud.models.losses import distance
from aimass_cloud.recipes.run import Optimizer, RunSettings, Schedule
from aimass_cloud.training.optimizing import Average, optimizer_of, parts_of, rate_at
from aimass_cloud.training.trainer import Trained
from aimass_cloud.training.world import joined
from aimass_shared.errors import InvalidSettingError, TrainingFailedError

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
RUN = RunSettings(steps=100, optimizer=Optimizer(rate=1.0), schedule=Schedule(warm_up=10))


@pytest.fixture
def run(child: ModuleType) -> RunSettings:
    settings: RunSettings = child.RUN
    return settings


def _weights(found: Trained) -> Mapping[str, Tensor]:
    return found.frozen.weights


def _apart(one: Trained, other: Trained) -> float:
    """The largest difference of a weight."""
    mine, theirs = _weights(one), _weights(other)
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def test_training_lowers_the_error_of_all_widths(child: ModuleType, run: RunSettings) -> None:
    rows = child.trained(replace(run, steps=150, widths=(1.0, 0.5))).rows
    assert rows[-1].held_back < 0.3 * rows[0].held_back


def test_training_stops_when_held_back_samples_gain_nothing(
    child: ModuleType, run: RunSettings
) -> None:
    task = child.TinyTask()
    task.held = {"x": task.held["x"], "y": torch.zeros_like(task.held["y"])}
    found = child.trained(replace(run, steps=200, check=5, patience=3, average=0.0), task=task)
    assert found.step + 15 == found.taken < 200


def test_an_error_that_is_no_number_is_a_failure(child: ModuleType, run: RunSettings) -> None:
    task = child.TinyTask()
    task.train["y"][:] = torch.nan
    with pytest.raises(TrainingFailedError, match="after 1 steps"):
        child.trained(replace(run, check=1), task=task)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("constant", {1: 0.1, 5: 0.5, 10: 1.0, 55: 1.0, 100: 1.0}),
        ("linear", {1: 0.1, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0}),
        ("cosine", {1: 0.1 * (1 + math.cos(math.pi / 100)) / 2, 50: 0.5, 100: 0.0}),
    ],
)
def test_the_rate_rises_and_then_goes_as_its_schedule_says(
    name: Literal["constant", "linear", "cosine"], rates: Mapping[int, float]
) -> None:
    run = replace(RUN, schedule=Schedule(name, warm_up=10))
    assert {step: pytest.approx(rate_at(run, step)) for step in rates} == rates


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")])
def test_every_optimizer_learns(
    child: ModuleType, run: RunSettings, name: Literal["adamw", "adam", "sgd"], kind: str
) -> None:
    chosen = Optimizer(name, rate=2e-2, decay=1e-4)
    one = torch.nn.Parameter(torch.zeros(1))
    assert type(optimizer_of(replace(run, optimizer=chosen), [one])).__name__ == kind
    rows = child.trained(replace(run, optimizer=chosen, average=0.0)).rows
    assert rows[-1].held_back < 0.8 * rows[0].held_back


@pytest.mark.parametrize("accumulate", [2, 3, 32])
def test_a_batch_in_parts_gives_the_same_weights(
    child: ModuleType, run: RunSettings, accumulate: int
) -> None:
    once = child.trained(run)
    assert _apart(once, child.trained(replace(run, accumulate=accumulate))) < 1e-5


def test_parts_of_a_batch_are_all_of_it_in_order() -> None:
    batch = {"x": torch.arange(10), "y": torch.arange(20).reshape(10, 2)}
    parts = list(parts_of(batch, 3))
    assert [len(part["x"]) for part in parts] == [4, 3, 3]
    for name, tensor in batch.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor)


def test_clipping_bounds_a_step(child: ModuleType, run: RunSettings) -> None:
    step = replace(run, steps=1, check=1, average=0.0, schedule=Schedule("constant", warm_up=0))
    plain = replace(step, optimizer=Optimizer("sgd", rate=1.0, decay=0.0, momentum=0.0))
    moved = {
        norm: _length(child, child.trained(replace(plain, clip_norm=norm))) for norm in (0.0, 1e-3)
    }
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert moved[0.0] > 0.1


def _length(child: ModuleType, found: Trained) -> float:
    """How far a training moved from where it began."""
    torch.manual_seed(3)
    start = dict(child.TinyTask().network().named_parameters())
    moves = [(_weights(found)[name] - start[name].detach()).flatten() for name in start]
    return float(torch.cat(moves).norm())


def test_bf16_learns_as_well_and_looks_in_fp32(child: ModuleType, run: RunSettings) -> None:
    exact, coarse = (child.trained(replace(run, precision=kind)) for kind in ("fp32", "bf16"))
    assert coarse.error == pytest.approx(exact.error, rel=0.1)
    assert coarse.error != exact.error
    assert all(weight.dtype == torch.float32 for weight in _weights(coarse).values())


def test_an_average_forgets_its_beginning_and_moves_slowly_after() -> None:
    weights = {"w": torch.zeros(1)}
    average = Average(weights, 0.9)
    weights["w"].fill_(1.0)
    for step in range(1, 6):
        average.add(weights, step)
    assert 0.99 < float(average.weights["w"]) < 1.0
    weights["w"].fill_(2.0)
    average.add(weights, 500)
    assert float(average.weights["w"]) == pytest.approx(1.1, abs=0.01)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"precision": "fp16"}, "needs a GPU"),
        ({"batch": 4, "accumulate": 5}, "cannot be cut into 5 parts"),
        pytest.param({"device": "cuda"}, "torch sees no GPU", marks=without_gpu),
    ],
)
def test_what_cannot_be_done_is_said(run: RunSettings, change: dict[str, Any], hint: str) -> None:
    with pytest.raises(InvalidSettingError, match=hint), joined(replace(run, **change)):
        pass


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_a_loss_is_chosen_by_name(child: ModuleType, run: RunSettings, loss: str) -> None:
    task = child.TinyTask()
    first = child.trained(replace(run, loss=loss), task=task).rows[0].held_back
    nothing = distance(loss, task.held["y"]).mean()  # a network begins at zero
    assert first == pytest.approx(float(nothing))


def test_a_loss_that_is_not_there_is_refused(child: ModuleType, run: RunSettings) -> None:
    with pytest.raises(InvalidSettingError, match="no loss 'hinge' here; there are: mse, mae"):
        child.trained(replace(run, loss="hinge"))


@pytest.mark.parametrize(("name", "values"), [("mae", (0.5, 3.0)), ("huber", (0.25, 5.0))])
def test_distances_are_what_their_names_say(name: str, values: tuple[float, float]) -> None:
    assert distance(name, torch.tensor([0.5, -3.0])).tolist() == list(values)
    assert distance("", torch.tensor([-2.0])).tolist() == [4.0]
