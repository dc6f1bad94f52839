"""Training on windows of Parquet shards: ten times the rows, against the rows once, and by hand.

Each turn is a process of its own that trains a small network for as many steps as one epoch of ten
times the rows has. What streams must not need more memory for more rows; what holds all rows shows
what they would take, and a loop by hand what the trainer costs beside its steps.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.children.trainee import BATCH, STRIDE
from benchmarks.harness.measure import Case, Figures, Sample, Scale
from benchmarks.harness.processes import Child
from benchmarks.streaming import SENSORS, TIMES, write

ROWS, QUICK_ROWS = 200_000, 20_000
MOST_ROUNDS = 2
OURS, ONCE, HELD, HAND = "aimass, 10 x rows", "rows once", "10 x rows in memory", "by hand"


def run(scale: Scale) -> Figures:
    """Shards once, then processes in turns."""
    figures = Figures()
    rows = QUICK_ROWS if scale.quick else ROWS
    steps = rows * TIMES // STRIDE // BATCH
    with tempfile.TemporaryDirectory() as name:
        once, more = Path(name) / "once", Path(name) / "more"
        write(once, rows)
        write(more, rows * TIMES)
        contenders = {
            OURS: training("stream", more, steps),
            ONCE: training("stream", once, steps),
            HELD: training("memory", more, steps),
            HAND: training("bare", more, steps),
        }
        case = Case("a training", contenders, ours=(OURS,))
        figures.measure(case, min(scale.rounds, MOST_ROUNDS))
    mib = rows * TIMES * SENSORS * np.float32().nbytes >> 20
    figures.notes.append(
        f"{steps} steps; {rows * TIMES} rows of {SENSORS} sensors are {mib} MiB as float32"
    )
    return figures


def training(kind: str, folder: Path, steps: int) -> Callable[[], Sample]:
    """A turn: a process from its start to its end."""

    def turn() -> Sample:
        with Child("trainee", kind, folder, steps) as child:
            child.hear()
            seen = child.ask("train")
            return {
                "MiB resident at most": seen["peak_mib"],
                "CPU us a window": seen["cpu_us"],
            }

    return turn
