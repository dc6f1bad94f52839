"""Streaming: windows that follow each other, whole and row by row, on real telemetry with gaps.

The model is a graph network that sees each row by itself (Li et al., GGNN, 2016) before a GRU goes
over the window, as PyTorch Geometric Temporal and many forecasters have it. What the device runs is
timed: its sessions with their checks, the model whole and in two parts, turn by turn.
"""

import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aimass_cloud import recipes
from aimass_cloud.recipes import tep
from aimass_cloud.recipes.assembly import drafted
from aimass_cloud.slicing.export import filled, folded
from aimass_cloud.slicing.streamed import TRIED, Trial
from aimass_cloud.slicing.streaming import Stream, stream_of
from aimass_cloud.slicing.templates import OPSET, Templates
from aimass_edge.config import BoardSettings
from aimass_edge.runtime.onnx import OnnxSession
from aimass_edge.runtime.streaming import StreamingSession
from aimass_shared.streaming import REST_FILE, STEP_FILE
from aimass_shared.windows import Row as Reading
from aimass_shared.windows import WindowBuffer
from benchmarks.models.table import Row, at_least

WINDOW, HORIZON, GATES = 48, 4, 3
IDENTICAL_BAR, GAIN_BAR = 100.0, 1.3
MISSING, GAP_ROWS = 0.02, 200
"""Share of the values that are missing; rows after which as many as a window are lost."""
CASES: Final = {"32 channels": (32, False), "96 channels": (96, False), "pooled, 32": (32, True)}

Arrays = dict[str, NDArray[Any]]


def measure(quick: bool) -> list[Row]:  # noqa: FBT001  the only question that benchmarks are asked
    """Bits that are the same and times of each size; which shipped recipes have such a form."""
    rows: list[Row] = []
    for name, (hidden, pooled) in list(CASES.items())[: 1 if quick else None]:
        rows += _measured(
            name, Messages(hidden, pooled=pooled).eval(), windows=120 if quick else 400
        )
    if not quick:
        rows.append(Row("shipped recipes", "all sizes", "with a form", float(_shipped())))
    return rows


class Messages(nn.Module):
    """A graph network over the sensors of each row, then a GRU over the rows."""

    def __init__(self, hidden: int, *, pooled: bool, steps: int = 2) -> None:
        """Draw the parameters."""
        super().__init__()
        torch.manual_seed(0)
        rows = torch.tensor(tep.PLANT.load().train)
        self.mean, self.scale = nn.Buffer(rows.mean(0)), nn.Buffer(rows.std(0).clamp(min=1e-6))
        sensors = rows.shape[1]
        self.edges = nn.Buffer(torch.softmax(torch.randn(sensors, sensors), 1))
        self.encoder, self.message = nn.Linear(2, hidden), nn.Linear(hidden, hidden)
        self.heard, self.own = (nn.Linear(hidden, GATES * hidden) for _ in range(2))
        self.over_rows = nn.GRU(hidden, hidden, batch_first=True)
        self.answer = nn.Linear(hidden, sensors * HORIZON if pooled else HORIZON)
        self.steps, self.pooled = steps, pooled

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Forecasts `[B, horizon, S]` in units."""
        batch, window, sensors = values.shape
        scaled = ((values - self.mean) / self.scale * mask).clamp(-3, 3)
        state = torch.tanh(self.encoder(torch.stack([scaled, mask], -1)))
        for _ in range(self.steps):
            state = self._next(self.edges @ self.message(state), state)
        if self.pooled:
            read: Tensor = self.answer(self.over_rows(state.mean(2))[0][:, -1])
            return read.reshape(batch, HORIZON, sensors) * self.scale + self.mean
        rows = state.transpose(1, 2).reshape(batch * sensors, window, -1)
        each: Tensor = self.answer(self.over_rows(rows)[0][:, -1])
        return each.reshape(batch, sensors, HORIZON).transpose(1, 2) * self.scale + self.mean

    def _next(self, heard: Tensor, state: Tensor) -> Tensor:
        told, own = self.heard(heard).chunk(GATES, -1), self.own(state).chunk(GATES, -1)
        keep = torch.sigmoid(told[0] + own[0])
        return keep * state + (1 - keep) * torch.tanh(
            told[1] + torch.sigmoid(told[2] + own[2]) * own[1]
        )


def exported(network: nn.Module, *inputs: Tensor) -> onnx.ModelProto:
    """A network of values and a mask as a folded graph for any batch."""
    batch = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own next version
        program = torch.onnx.export(
            network,
            inputs,
            input_names=["values", "mask"],
            output_names=["forecast"],
            opset_version=OPSET,
            dynamic_shapes=(batch, batch),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise TypeError("torch exported to a file instead of a program")
    return folded(program.model_proto)


def _measured(name: str, network: Messages, *, windows: int) -> Iterator[Row]:
    sensors = len(network.mean)
    shape = (2, WINDOW, sensors)
    graph = exported(network, torch.zeros(shape), torch.ones(shape))
    stream = _identical(graph, sensors)
    with tempfile.TemporaryDirectory() as folder:
        same, whole, parts = _raced(_sessions(Path(folder), graph, stream), windows)
    best = "graph and GRU", name
    yield at_least(Row(*best, "% same bits", 100 * same), IDENTICAL_BAR)
    yield Row(*best, "ms whole", float(np.median(whole)))
    yield Row(*best, "ms row by row", float(np.median(parts)))
    gain = float(np.median(whole) / np.median(parts))
    yield at_least(Row(*best, "times faster, median", gain), GAIN_BAR)
    yield Row(*best, "times faster, fastest", float(np.min(whole) / np.min(parts)))
    kept = sum(int(np.prod(ring.shape)) for ring in stream.form.rings) * 4 / 1024
    yield Row(*best, "KiB kept", kept)


def _identical(graph: onnx.ModelProto, sensors: int) -> Stream:
    """The form that gives the same bits here."""
    random = np.random.default_rng(1)
    values = random.normal(size=(1, WINDOW + 8, sensors)).astype(np.float32)
    for without in TRIED:
        stream = stream_of(graph, WINDOW, without=without)
        if (
            stream
            and Trial(graph, stream, {"values": values, "mask": np.ones_like(values)}).identical
        ):
            return stream
    raise RuntimeError("no form gives the same bits here")


def _sessions(
    folder: Path, graph: onnx.ModelProto, stream: Stream
) -> tuple[OnnxSession, StreamingSession]:
    files = {"model.onnx": graph, STEP_FILE: stream.step, REST_FILE: stream.rest}
    for name, part in files.items():
        onnx.save_model(part, folder / name)
    whole, *parts = (OnnxSession(folder / name, BoardSettings()) for name in files)
    return whole, StreamingSession(OnnxSession(folder / "model.onnx", BoardSettings()), *parts)


def _raced(
    sessions: tuple[OnnxSession, StreamingSession], count: int
) -> tuple[float, list[float], list[float]]:
    """Share of answers with the same bits, and milliseconds of those that were streamed."""
    whole, streaming = sessions
    same, took, total = [], list[float](), list[float]()
    for feeds in _windows(count):
        before = streaming.counts.streamed
        ours, ours_ms = _timed(streaming, feeds)
        theirs, theirs_ms = _timed(whole, feeds)
        same.append(ours["forecast"].tobytes() == theirs["forecast"].tobytes())
        if streaming.counts.streamed > before:
            took.append(ours_ms)
            total.append(theirs_ms)
    return float(np.mean(same)), total, took


def _timed(session: OnnxSession | StreamingSession, feeds: Arrays) -> tuple[Arrays, float]:
    started = time.perf_counter()
    outputs = session.run(feeds)
    return outputs, 1e3 * (time.perf_counter() - started)


def _windows(count: int) -> Iterator[Arrays]:
    """Windows of real telemetry, some values missing, with gaps."""
    plant, random = tep.PLANT.load(), np.random.default_rng(0)
    buffer, given = WindowBuffer(WINDOW, 1, step_ms=plant.step_ms), 0
    rows = np.concatenate([plant.test, *plant.faults.values()])
    for at, values in enumerate(rows):
        mask = (random.random(len(values)) >= MISSING).astype(np.float32)
        time_ms = plant.step_ms * (at + WINDOW * (at // GAP_ROWS))
        window = buffer.add(Reading(time_ms, values * mask, mask))
        if window is not None and given < count:
            given += 1
            yield {"values": window.values[None], "mask": window.mask[None]}


def _shipped() -> int:
    """How many shipped recipes work a product out of single rows."""
    return sum(_has_form(name) for name in recipes.names())


def _has_form(name: str) -> bool:
    plan = recipes.find(name)
    model = drafted(plan, plan.open(plan.run), msgspec.structs.replace(plan.run, widths=(1.0,)))
    if not model.info.contract.telemetry:
        return False
    with tempfile.TemporaryDirectory() as folder:
        template = Templates(model, Path(folder)).forward(1.0)
    return (
        stream_of(folded(filled(template, model.at(1.0))), model.info.contract.window) is not None
    )
