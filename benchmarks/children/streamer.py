"""Goes through windows: `streamer {stream,memory} FOLDER`; told "epoch", it takes all of them once.

`stream` is the product's way. `memory` reads all rows, then cuts windows out of them in a shuffled
order: the least that windows can cost, for data that fit.
"""

import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets.shards import Shards
from benchmarks.children.lines import answer

LENGTH, STRIDE, BATCH = 96, 8, 256
KIB_IN_MIB = 1024
MICRO = 1e6


def stream(series: Shards) -> Iterator[NDArray[np.float32]]:
    """Batches `[256, 96, S]` from the files."""
    yield from series.windows(LENGTH, stride=STRIDE, batch=BATCH, seed=0)


def memory(series: Shards) -> Iterator[NDArray[np.float32]]:
    """The same number of batches from one array."""
    rows = next(series.rows_from(0, series.rows))
    starts = np.arange(0, len(rows) - LENGTH + 1, STRIDE)
    np.random.default_rng(0).shuffle(starts)
    for at in range(0, len(starts) // BATCH * BATCH, BATCH):
        yield np.stack([rows[start : start + LENGTH] for start in starts[at : at + BATCH].tolist()])


def reply(kind: str, folder: Path) -> dict[str, object]:
    """One epoch: CPU time of a window, and the peak of the process."""
    began = time.process_time()
    batches = (stream if kind == "stream" else memory)(Shards.open(str(folder)))
    windows = sum(len(batch) for batch in batches)
    return {
        "windows": windows,
        "cpu_us": (time.process_time() - began) / windows * MICRO,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_IN_MIB,
    }


if __name__ == "__main__":
    answer(lambda _: reply(sys.argv[1], Path(sys.argv[2])))
