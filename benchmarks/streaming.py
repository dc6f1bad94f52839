"""Windows streamed from Parquet shards: ten times the rows, against the rows once, and in memory.

Each turn is a process of its own that goes through one epoch of shuffled windows. What streams must
not need more memory for more rows; what holds all rows shows what they would take, and the time.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets import shards
from benchmarks.harness.measure import Case, Figures, Sample, Scale
from benchmarks.harness.processes import Child

SENSORS = 50
ROWS, QUICK_ROWS = 200_000, 20_000
TIMES = 10
SHARD_ROWS = 100_000
PART = 10_000
MOST_ROUNDS, QUICK_ROUNDS = 3, 2
OURS, ONCE, HELD = "aimass, 10 x rows", "rows once", "10 x rows in memory"


def run(scale: Scale) -> Figures:
    """Shards once, then processes in turns."""
    figures = Figures()
    rows = QUICK_ROWS if scale.quick else ROWS
    with tempfile.TemporaryDirectory() as name:
        once, more = Path(name) / "once", Path(name) / "more"
        write(once, rows)
        write(more, rows * TIMES)
        contenders = {
            OURS: epoch("stream", more),
            ONCE: epoch("stream", once),
            HELD: epoch("memory", more),
        }
        case = Case("an epoch", contenders, ours=(OURS,))
        figures.measure(case, min(scale.rounds, QUICK_ROUNDS if scale.quick else MOST_ROUNDS))
    mib = rows * TIMES * SENSORS * np.float32().nbytes >> 20
    figures.notes.append(f"{rows * TIMES} rows of {SENSORS} sensors are {mib} MiB as float32")
    return figures


def write(folder: Path, rows: int) -> None:
    """Shards of random rows."""
    names = [f"s{number:02}" for number in range(SENSORS)]
    shards.write(str(folder), parts(rows), names, shard_rows=SHARD_ROWS)


def parts(rows: int) -> Iterator[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    for _ in range(rows // PART):
        yield random.standard_normal((PART, SENSORS), np.float32)


def epoch(kind: str, folder: Path) -> Callable[[], Sample]:
    """A turn: a process from its start to its end."""

    def turn() -> Sample:
        with Child("streamer", kind, folder) as child:
            child.hear()
            seen = child.ask("epoch")
            return {
                "MiB resident at most": seen["peak_mib"],
                "CPU us a window": seen["cpu_us"],
            }

    return turn
