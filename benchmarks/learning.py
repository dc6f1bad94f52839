"""A gradient step of the shipped forecaster on a device, against torch; time and memory.

A step is forward, backward and Adam on one batch of 32 windows, on one thread. Each round starts
both learners anew, because memory is a matter of the whole process.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aimass_shared.errors import AimassError
from benchmarks.harness.measure import Case, Figures, Sample, Scale
from benchmarks.harness.processes import DEADLINE_S, ENVIRON, Child, memory

FULL_CONFIG, QUICK_CONFIG = "{}", '{"hidden": 16, "steps": 1}'
KINDS = {"aimass": "device", "torch": "torch"}
MEASURED_STEPS, WARM_UP_STEPS = 30, 5
MOST_ROUNDS, QUICK_ROUNDS = 5, 2
CLOSE = 1e-3


def run(scale: Scale) -> Figures:
    """Files once, then learners in turns."""
    figures = Figures()
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _write_files(directory, QUICK_CONFIG if scale.quick else FULL_CONFIG)
        contenders = {who: _learned(kind, directory, losses) for who, kind in KINDS.items()}
        case = Case("small model" if scale.quick else "shipped model", contenders)
        figures.measure(case, min(scale.rounds, QUICK_ROUNDS if scale.quick else MOST_ROUNDS))
    figures.notes.append(_agreement(losses))
    return figures


def _write_files(directory: Path, config: str) -> None:
    module = "benchmarks.children.learning_files"
    done = subprocess.run(
        [sys.executable, "-m", module, str(directory), config],
        env={**os.environ, **ENVIRON},
        check=False,
        timeout=DEADLINE_S,
    )
    if done.returncode:
        raise AimassError("the model could not be made; the extra `train` must be installed")


def _learned(kind: str, directory: Path, losses: dict[str, list[float]]) -> Callable[[], Sample]:
    """A turn: a learner from its start to its end."""

    def turn() -> Sample:
        began = time.monotonic()
        with Child("learner", kind, directory) as learner:
            learner.hear()
            first = learner.ask("steps", 1)
            ready_s = time.monotonic() - began
            more = learner.ask("steps", WARM_UP_STEPS)
            seen = learner.ask("steps", MEASURED_STEPS)
            losses[kind] = [*first["losses"], *more["losses"], *seen["losses"]]
            return {
                "ms a step": seen["wall_ms"],
                "CPU ms a step": seen["cpu_ms"],
                "s from start to the first step": ready_s,
                **memory(learner.pid),
            }

    return turn


def _agreement(losses: dict[str, list[float]]) -> str:
    """Whether both went the same way, without which their times say nothing."""
    device, torch = (np.array(losses[kind]) for kind in KINDS.values())
    far = float(np.max(np.abs(device - torch) / torch))
    told = f"losses of {len(torch)} steps differ by {far:.1e} at most"
    way = f"{torch[0]:.4f} -> {torch[-1]:.4f}"
    return f"{told} ({way})" if far < CLOSE else f"NOT THE SAME WORK: {told} ({way})"
