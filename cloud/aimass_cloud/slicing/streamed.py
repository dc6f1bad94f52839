"""The streaming form of a slice, if it is the same to the bit and worth it.

Which operators give the same bits for one row as for a whole window is up to a runtime's kernels:
sums over axes and filters often do not. So it is tried: on rows that follow each other, where some
values are missing, each answer must be the whole graph's. If not, such operators stay in the rest.
"""

import logging
import time
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from aimass_cloud.slicing.costs import COPIES, FLOAT_BYTES, MIB
from aimass_cloud.slicing.streaming import Stream, stream_of
from aimass_shared.manifest import Contract, Role
from aimass_shared.slices import SliceCost
from aimass_shared.streaming import FILES, Part, Streamer

log = logging.getLogger(__name__)

LEAST_GAIN = 1.3
"""How many times faster a window must be for two more files and a ring in memory."""
TRIED: tuple[tuple[str, ...], ...] = ((), ("Reduce",), ("Reduce", "Conv"))
"""Beginnings of the names of operators that stay in the rest, most hopeful first."""
WINDOWS, MISSING = 64, 0.05

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Mapping[str, NDArray[Any]]], Arrays]


def with_stream(
    contents: dict[Role, bytes], cost: SliceCost, model: onnx.ModelProto, *, contract: Contract
) -> SliceCost:
    """Add the files of a slice's streaming form, if it has one that is worth it; its cost then."""
    stream = streamed(model, contract)
    if stream is None:
        return cost
    files = (stream.step.SerializeToString(), stream.rest.SerializeToString())
    contents |= dict(zip(FILES, files, strict=True))
    numbers = sum(prod(ring.shape) for ring in stream.form.rings)
    # Each ring is there twice, and once as the rest takes it.
    more = (COPIES * sum(map(len, files)) + (2 + 1) * FLOAT_BYTES * numbers) / MIB
    return msgspec.structs.replace(cost, memory_mib=round(cost.memory_mib + more, 1))


def streamed(model: onnx.ModelProto, contract: Contract) -> Stream | None:
    """The streaming form of a slice, with what it takes here; None if it has none that is worth it.

    Args:
        model: the slice's graph.
        contract: of its release. Only windows that come with every row can be streamed.
    """
    if not contract.telemetry or contract.stride != 1 or contract.window < 2:  # noqa: PLR2004  rows in common
        return None
    rows = _rows(contract)
    for without in TRIED:
        stream = stream_of(model, contract.window, without=without)
        if stream is None:
            return None
        try:
            trial = Trial(model, stream, rows)
        except Exception as error:  # noqa: BLE001  those of ONNX Runtime have no class in common
            # The form is a help and no more: the slice is released without.
            log.warning("a streaming form does not run, it is left out: %s", error)
            continue
        if trial.identical:
            timed = trial.timed()
            return timed if LEAST_GAIN * timed.form.took_ms <= timed.form.whole_ms else None
    return None


def _rows(contract: Contract) -> Arrays:
    """Rows of telemetry as they may come, in the units of the sensors."""
    random = np.random.default_rng(0)
    shape = (1, contract.window + WINDOWS, len(contract.sensors))
    mean, deviation = np.zeros(shape[2]), np.ones(shape[2])
    if contract.normal is not None:
        mean, deviation = np.array(contract.normal.mean), np.array(contract.normal.deviation)
    mask = (random.random(shape) >= MISSING).astype(np.float32)
    values = (mean + deviation * random.normal(size=shape)).astype(np.float32) * mask
    return {"values": values, "mask": mask}


class Trial:
    """A graph and its streaming form, beside each other on rows that follow each other.

    Attributes:
        identical: whether all bits of all answers are the same.
        largest_error: of any output.
    """

    def __init__(self, model: onnx.ModelProto, stream: Stream, rows: Arrays) -> None:
        """Run both on every window of some rows `[1, rows, ...]`, by the names of inputs."""
        self._stream, self._window = stream, stream.form.window
        names = [value.name for value in model.graph.input]
        self._rows = {name: array for name, array in rows.items() if name in names}
        step, rest = (
            Part([value.name for value in part.graph.input], _run(part))
            for part in (stream.step, stream.rest)
        )
        self._whole = _run(model)
        self._streamer = Streamer(stream.form, list(self._rows), step=step, rest=rest)
        self.windows = next(iter(self._rows.values())).shape[1] - self._window
        self.largest_error, self.identical = 0.0, True
        for at in range(self.windows):
            self._compare(at)

    def timed(self) -> Stream:
        """The stream with the fastest of many windows, either way."""
        # The second of the windows fills the rings: it is never the fastest.
        took = min(self._took(self._streamer.answer, at) for at in range(1, self.windows))
        whole = min(self._took(self._whole, at) for at in range(1, self.windows))
        return self._stream.with_times(took_ms=took, whole_ms=whole)

    def _feeds(self, at: int) -> Arrays:
        return {name: array[:, at : at + self._window].copy() for name, array in self._rows.items()}

    def _compare(self, at: int) -> None:
        feeds = self._feeds(at)
        found, expected = self._streamer.answer(feeds), self._whole(feeds)
        if found is None:
            self.identical &= at == 0
            return
        for name, array in expected.items():
            self.identical &= found[name].tobytes() == array.tobytes()
            error = float(np.abs(found[name].astype(np.float64) - array).max())
            self.largest_error = max(self.largest_error, error)

    def _took(self, run: Callable[[Arrays], object], at: int) -> float:
        feeds = self._feeds(at)
        started = time.perf_counter_ns()
        run(feeds)
        return (time.perf_counter_ns() - started) / 1e6


def _run(part: onnx.ModelProto) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run
