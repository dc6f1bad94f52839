"""Telemetry of a release that brings its model row by row, with requests between the windows."""

from pathlib import Path

import numpy as np
import onnx
from tests.streams import per_row, rows_of

from aimass_cloud.slicing.export import folded
from aimass_cloud.slicing.streaming import stream_of
from aimass_edge.config import BoardSettings, CapacitySettings
from aimass_edge.predict import Predictor
from aimass_edge.runtime import Session, open_session
from aimass_edge.runtime.onnx import OnnxSession
from aimass_edge.runtime.streaming import StreamingSession
from aimass_edge.update.slots import FILE_NAMES
from aimass_shared.inference import InferRequest
from aimass_shared.manifest import Contract, Manifest, Role, Sensor, SliceEntry, TensorSpec
from aimass_shared.slices import SliceCost, SliceSpec
from aimass_shared.windows import Row, WindowBuffer

WINDOW, SENSORS = 48, 40
NAMES = tuple(f"s{at}" for at in range(SENSORS))
SHAPE = (-1, WINDOW, SENSORS)
CONTRACT = Contract(
    model="rows",
    sensors=tuple(Sensor(name, "", "any") for name in NAMES),
    step_ms=1000,
    window=WINDOW,
    horizon=1,
    inputs=(TensorSpec("values", "FP32", SHAPE), TensorSpec("mask", "FP32", SHAPE)),
    outputs=(TensorSpec("forecast", "FP32", (-1, 1, SENSORS)),),
)


def installed(folder: Path) -> tuple[Manifest, SliceEntry]:
    """A slice with its files where an update puts them."""
    graph = folded(per_row(sensors=SENSORS, window=WINDOW, hidden=32))
    stream = stream_of(graph, WINDOW)
    assert stream is not None
    files: dict[Role, onnx.ModelProto] = {
        "model": graph,
        "stream-step": stream.step,
        "stream-rest": stream.rest,
    }
    for role, part in files.items():
        onnx.save_model(part, folder / FILE_NAMES[role])
    entry = SliceEntry(SliceSpec(1.0, "fp32"), SliceCost(1, 1.0, 1.0, 0.1), (), 1e-4)
    return Manifest("r1", "rows", CONTRACT, (entry,), 0), entry


async def test_predictions_are_those_of_whole_windows(tmp_path: Path) -> None:
    manifest, entry = installed(tmp_path)
    opened: list[Session] = []

    def opener(path: Path, board: BoardSettings) -> Session:
        opened.append(open_session(path, board))
        return opened[-1]

    whole = OnnxSession(tmp_path / "model.onnx", BoardSettings())
    rows = rows_of(WINDOW + 30, SENSORS)
    other = {name: array[:, 20 : 20 + WINDOW] for name, array in rows.items()}
    buffer, predicted = WindowBuffer(WINDOW, 1, step_ms=1000), 0
    async with Predictor(BoardSettings(), CapacitySettings(), opener=opener) as predictor:
        await predictor.activate(manifest, entry, tmp_path)
        for at in range(WINDOW + 30):
            gap = 5000 * (at >= WINDOW + 15)  # after which a window must fill anew: none comes
            row = Row(1000 * at + gap, rows["values"][0, at], rows["mask"][0, at])
            window = buffer.add(row)
            if window is None:
                continue
            found = await predictor.predict(window, NAMES)
            feeds = {"values": window.values[None], "mask": window.mask[None]}
            assert found is not None
            assert np.array_equal(found.forecast, whole.run(feeds)["forecast"][0, 0])
            request = InferRequest(model="rows", inputs=other, deadline_ms=30_000)
            answer = await predictor.infer(request)
            assert np.array_equal(answer.outputs["forecast"], whole.run(other)["forecast"])
            predicted += 1
        (session,) = opened
        assert isinstance(session, StreamingSession)
        # All windows but the first; that of the request stands between them and changes nothing.
        assert (predicted, session.counts.streamed >= 15) == (16, True)
