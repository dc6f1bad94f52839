"""Several processes train as one does: the same losses, and one run after the other way."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from aimass_cloud.training.checkpoints import Checkpoints

TOLERANCE = 1e-4
"""Of a mean loss, relative: sums of other parts of a batch are rounded otherwise."""


def _torchrun(script: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", script]
    result = subprocess.run(
        [*command, *arguments], timeout=110, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_two_processes_train_as_one_does_in_every_way(child: ModuleType, tmp_path: Path) -> None:
    _torchrun(str(child.__file__), "together", str(tmp_path))
    alone = [row.loss for row in child.trained(child.RUN, tmp_path / "alone").rows]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.keys() == {"ddp", "fsdp", "in-parts"}
    for losses in found.values():
        assert losses[1:] == pytest.approx(alone[1:], rel=TOLERANCE)
    _one_goes_on(child, tmp_path)


def _one_goes_on(child: ModuleType, directory: Path) -> None:
    """Where two with DDP, then two with FSDP have stopped."""
    half, alone = (Checkpoints(directory / name / "checkpoints") for name in ("half", "alone"))
    assert half.newest() == 20
    child.trained(child.RUN, directory / "half")
    mine, theirs = half.load(40), alone.load(40)
    for name, weight in theirs.weights.items():
        assert mine.weights[name].numpy() == pytest.approx(weight.numpy(), abs=TOLERANCE)
