"""A training that is killed goes on from its last whole checkpoint, to the bit."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from aimass_cloud.recipes.run import Optimizer
from aimass_cloud.training.checkpoints import SHEET, Checkpoints
from aimass_cloud.training.run_directory import RunDirectory
from aimass_shared.errors import StateCorruptError


def _steps(directory: Path) -> list[str]:
    return sorted(folder.name for folder in (directory / "checkpoints").iterdir())


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_a_killed_training_gives_the_same_weights_to_the_bit(
    child: ModuleType, tmp_path: Path
) -> None:
    """40 steps are 24 steps, SIGKILL, and the rest from the checkpoint of step 20."""
    command = [sys.executable, child.__file__, "die", str(tmp_path / "killed"), "25"]
    killed = subprocess.run([str(part) for part in command], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert _steps(tmp_path / "killed") == ["step-00000010", "step-00000020"]
    resumed = child.trained(child.RUN, tmp_path / "killed", task=child.TinyTask(0.3))
    whole = child.trained(child.RUN, tmp_path / "whole", task=child.TinyTask(0.3))
    assert _same(resumed.frozen.weights, whole.frozen.weights)
    states = [Checkpoints(tmp_path / name / "checkpoints").load(40) for name in ("killed", "whole")]
    assert _same(states[0].weights, states[1].weights)
    assert _same(states[0].optimizer, states[1].optimizer)
    assert _same(states[0].average, states[1].average)
    losses = [[(row.step, row.loss, row.held_back) for row in state.rows] for state in states]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": Optimizer("sgd")},
        {"optimizer": Optimizer("muon")},
        {"precision": "bf16", "accumulate": 3, "average": 0.0, "nesting": "distil"},
    ],
    ids=["sgd", "muon", "bf16 in parts"],
)
def test_every_way_of_training_can_be_interrupted(
    child: ModuleType, tmp_path: Path, change: dict[str, Any]
) -> None:
    run = replace(child.RUN, **change)
    with pytest.raises(child.StoppedError):
        child.trained(run, tmp_path, task=child.TinyTask(0.3, child.stopping(14)))
    resumed = child.trained(run, tmp_path, task=child.TinyTask(0.3))
    whole = child.trained(run, task=child.TinyTask(0.3))
    assert [row.loss for row in resumed.rows] == [row.loss for row in whole.rows]
    assert _same(resumed.frozen.weights, whole.frozen.weights)


def test_the_last_two_checkpoints_are_kept(child: ModuleType, tmp_path: Path) -> None:
    child.trained(child.RUN, tmp_path)
    assert _steps(tmp_path) == ["step-00000030", "step-00000040"]


def test_a_training_that_lost_patience_is_not_trained_further(
    child: ModuleType, tmp_path: Path
) -> None:
    run = replace(child.RUN, optimizer=replace(child.RUN.optimizer, rate=1e-9), patience=1)
    task = child.TinyTask()
    task.held = {"x": task.held["x"], "y": torch.zeros_like(task.held["y"])}
    first = child.trained(run, tmp_path, task=task)
    again = child.trained(run, tmp_path, task=task)
    assert first.taken == again.taken < run.steps
    assert _same(first.frozen.weights, again.frozen.weights)


def test_what_is_left_of_a_checkpoint_does_not_count(child: ModuleType, tmp_path: Path) -> None:
    child.trained(child.RUN, tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    newest = tmp_path / "checkpoints" / "step-00000040"
    file = newest / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"oops")
    assert checkpoints.newest() == 30, "its digest is not that of its sheet"
    (newest / SHEET).unlink()
    assert checkpoints.newest() == 30, "it has no sheet: the process was killed before"
    state = checkpoints.load(30)
    checkpoints.save(state)
    assert _steps(tmp_path) == ["step-00000030"]


def test_checkpoints_that_are_all_damaged_are_an_error(child: ModuleType, tmp_path: Path) -> None:
    child.trained(child.RUN, tmp_path)
    for sheet in tmp_path.glob(f"checkpoints/*/{SHEET}"):
        sheet.write_text("{")
    with pytest.raises(StateCorruptError, match="remove them to begin anew"):
        child.trained(child.RUN, tmp_path)


def test_a_run_without_checkpoints_begins_at_the_beginning(
    child: ModuleType, tmp_path: Path
) -> None:
    RunDirectory(tmp_path).begin("tiny", child.RUN)
    assert child.trained(child.RUN, tmp_path).rows[0].step == 0
