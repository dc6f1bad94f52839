"""What a slice costs and how well it does, measured on its file as a device would run it.

Times are of one sample on one core of this machine: the unit that board factors multiply.
"""

import time
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime

from aimass_cloud.models.samples import Arrays, Part
from aimass_shared.slices import SliceCost

if TYPE_CHECKING:  # it needs torch, which a process that looks at a user's model does without
    from aimass_cloud.recipes.task import Recipe

RUNS = 200
BATCH = 64
# Memory is estimated, a little high: what a session takes at all (11 to 14 MiB on x86-64), three
# copies of the file (read, parsed, prepacked), and what is alive at once in a batch of BATCH
# samples: some times the largest value in between. A test compares it with a process of its own.
SESSION_MIB = 16.0
COPIES = 3
ALIVE = 4
FLOAT_BYTES = 4
MIB = 1 << 20


def session_of(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime on one core of a processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class Runner:
    """A graph in ONNX Runtime on one core, as it runs on a device."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        """Load the graph."""
        self._session = session_of(graph)
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs for samples, in batches that fit a cache."""
        count = len(next(iter(inputs.values())))
        parts = [
            self._session.run(
                self._names, {name: array[at : at + BATCH] for name, array in inputs.items()}
            )
            for at in range(0, count, BATCH)
        ]
        return {
            name: np.concatenate([part[index] for part in parts])
            for index, name in enumerate(self._names)
        }

    def fastest_ms(self, sample: Arrays, runs: int = RUNS) -> float:
        """Fastest of many runs over one sample: what is left when nobody disturbs."""
        best = float("inf")
        for _ in range(runs):
            started = time.perf_counter_ns()
            self._session.run(self._names, sample)
            best = min(best, time.perf_counter_ns() - started)
        return best / 1e6


def memory_of(graph: onnx.ModelProto) -> float:
    """Resident MiB that a runtime needs for a graph, at most; estimated."""
    alive = ALIVE * BATCH * largest_value(graph) * FLOAT_BYTES
    return round(SESSION_MIB + (COPIES * graph.ByteSize() + alive) / MIB, 1)


def measured(graph: onnx.ModelProto, runner: Runner, *, plan: "Recipe", test: Part) -> SliceCost:
    """The cost of a graph, and its error on samples that nothing was chosen on."""
    first = {name: array[:1] for name, array in test.inputs.items()}
    return SliceCost(
        model_bytes=graph.ByteSize(),
        memory_mib=memory_of(graph),
        reference_ms=round(runner.fastest_ms(first), 4),
        val_error=plan.error(runner.run(test.inputs), test.truth),
    )


def largest_value(graph: onnx.ModelProto) -> int:
    """Numbers in the largest value that the graph works out for one sample."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    worked_out = {value.name for value in inferred.input}
    for node in inferred.node:  # in order: what an input changes is there once a sample
        if worked_out.intersection(node.input):
            worked_out.update(node.output)
    sizes = [_size(value) for value in inferred.value_info if value.name in worked_out]
    return max(sizes, default=1)


def _size(value: onnx.ValueInfoProto) -> int:
    dims = value.type.tensor_type.shape.dim
    return int(np.prod([max(1, dim.dim_value) for dim in dims], dtype=np.int64))
