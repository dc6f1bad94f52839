"""What a slice costs and how well it does, measured on its file as a device would run it.

Times are of one window on one core of this machine: the unit that board factors multiply.
"""

import time

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from aimass_cloud.models.windows import cut, scaled_error
from aimass_cloud.recipes import PlantData
from aimass_shared.manifest import Contract
from aimass_shared.slices import SliceCost

RUNS = 200
BATCH = 64
# Memory is estimated, a little high: what a session takes at all (11 to 14 MiB on x86-64), three
# copies of the file (read, parsed, prepacked), and the hidden states alive at once in a batch of
# BATCH windows. A test compares the estimate with a process of its own.
SESSION_MIB = 16.0
COPIES = 3
STATES = 16
FLOAT_BYTES = 4
MIB = 1 << 20

Outputs = dict[str, NDArray[np.float32]]


class Runner:
    """A graph in ONNX Runtime on one core, as it runs on a device."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        """Load the graph."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, values: NDArray[np.float32], mask: NDArray[np.float32]) -> Outputs:
        """The outputs for windows `[n, W, S]`, in batches that fit a cache."""
        parts = [
            self._session.run(self._names, {"values": values[at:to], "mask": mask[at:to]})
            for at, to in ((at, at + BATCH) for at in range(0, len(values), BATCH))
        ]
        return {
            name: np.concatenate([part[index] for part in parts])
            for index, name in enumerate(self._names)
        }

    def fastest_ms(self, window: NDArray[np.float32]) -> float:
        """Fastest of many runs over one window `[1, W, S]`: what is left when nobody disturbs."""
        feeds = {"values": window, "mask": np.ones_like(window)}
        best = float("inf")
        for _ in range(RUNS):
            started = time.perf_counter_ns()
            self._session.run(self._names, feeds)
            best = min(best, time.perf_counter_ns() - started)
        return best / 1e6


def measured(
    graph: onnx.ModelProto, runner: Runner, *, data: PlantData, contract: Contract, channels: int
) -> SliceCost:
    """The cost of a graph with this many hidden channels."""
    size = graph.ByteSize()
    states = STATES * BATCH * len(contract.sensors) * channels * FLOAT_BYTES
    window = cut(data.test[: contract.window], contract.window)
    return SliceCost(
        model_bytes=size,
        memory_mib=round(SESSION_MIB + (COPIES * size + states) / MIB, 1),
        reference_ms=round(runner.fastest_ms(window), 4),
        val_mse=validation_error(runner, data, contract),
    )


def validation_error(runner: Runner, data: PlantData, contract: Contract) -> float:
    """Forecast error on the recipe's test rows, in squared standard deviations."""
    rows = cut(data.test, contract.window + contract.horizon)
    past, future = rows[:, : contract.window], rows[:, contract.window :]
    forecast = runner.run(past, np.ones_like(past))["forecast"]
    return scaled_error(forecast, future, data.train.std(axis=0))
