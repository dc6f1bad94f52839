"""Windows that overlap, answered row by row: the same bits as whole, or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tests import graphs
from tests.streams import per_row, rows_of

from aimass_cloud.recipes import tep
from aimass_cloud.slicing import streamed as streams
from aimass_cloud.slicing.export import folded
from aimass_cloud.slicing.quantize import quantized
from aimass_cloud.slicing.streamed import Trial, streamed, with_stream
from aimass_cloud.slicing.streaming import stream_of
from aimass_edge.config import BoardSettings
from aimass_edge.predict.telemetry import model_input, select
from aimass_edge.runtime.onnx import OnnxSession
from aimass_edge.runtime.streaming import StreamingSession
from aimass_shared.manifest import Contract, Role, Sensor, TensorSpec
from aimass_shared.slices import SliceCost
from aimass_shared.streaming import METADATA, REST_FILE, STEP_FILE, read
from aimass_shared.windows import Row, WindowBuffer

WINDOW, SENSORS = 8, 6


def contract_of(sensors: tuple[Sensor, ...], window: int, stride: int = 1) -> Contract:
    shape = (-1, window, len(sensors))
    inputs = tuple(TensorSpec(name, "FP32", shape) for name in ("values", "mask"))
    outputs = (TensorSpec("forecast", "FP32", (-1, 1, len(sensors))),)
    return Contract(
        "rows",
        inputs,
        outputs,
        sensors=sensors,
        step_ms=1000,
        window=window,
        horizon=1,
        stride=stride,
    )


CONTRACT = contract_of(tuple(Sensor(f"s{at}", "", "any") for at in range(SENSORS)), WINDOW)


@pytest.mark.parametrize("changes", [False, True])
def test_rows_are_worked_out_once_and_give_the_same_bits(*, changes: bool) -> None:
    graph = folded(per_row(changes=changes))
    stream = stream_of(graph, WINDOW)
    assert stream is not None
    for part in (stream.step, stream.rest):
        onnx.checker.check_model(part, full_check=True)
    assert stream.form.rows == 1 + changes
    assert [ring.rows for ring in stream.form.rings] == [WINDOW - changes]
    assert "MatMul" in {node.op_type for node in stream.step.graph.node}
    assert "GRU" in {node.op_type for node in stream.rest.graph.node}
    assert Trial(graph, stream, rows_of(40, SENSORS)).identical


def test_an_int8_slice_unpacks_its_weights_in_the_part_that_needs_them() -> None:
    graph = folded(per_row())
    rows = rows_of(WINDOW * 32, SENSORS)
    samples = {name: array.reshape(32, WINDOW, SENSORS) for name, array in rows.items()}
    rounded = quantized(graph, samples, ())
    stream = stream_of(rounded, WINDOW)
    assert stream is not None
    assert "DequantizeLinear" in {node.op_type for node in stream.step.graph.node}
    assert Trial(rounded, stream, rows).identical


def test_operators_whose_bits_change_with_the_shape_stay_in_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "LEAST_GAIN", 0.0)
    graph = folded(per_row(pooled=True, sensors=52, window=48, hidden=32))
    sensors = tuple(Sensor(f"s{at}", "", "any") for at in range(52))
    found = streamed(graph, contract_of(sensors, 48))
    assert found is not None
    operators = {node.op_type for node in found.rest.graph.node}
    every = stream_of(graph, 48)
    assert every is not None
    if not Trial(graph, every, rows_of(80, 52)).identical:  # it is up to ONNX Runtime's kernels
        assert "ReduceMean" in operators
    assert 0 < found.form.took_ms < found.form.whole_ms
    assert read(metadata(found.rest)[METADATA]) == found.form


def test_a_slice_gets_two_more_files_and_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LEAST_GAIN", 0.0)
    contents: dict[Role, bytes] = {"model": b""}
    before = SliceCost(model_bytes=1, memory_mib=20.0, reference_ms=1.0, val_error=0.0)
    after = with_stream(contents, before, folded(per_row(hidden=128)), contract=CONTRACT)
    assert list(contents) == ["model", "stream-step", "stream-rest"]
    assert 20 < after.memory_mib < 25
    monkeypatch.setattr(streams, "LEAST_GAIN", 1e6)
    assert with_stream({}, before, folded(per_row()), contract=CONTRACT) == before


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {one.key: one.value for one in model.metadata_props}


@pytest.mark.parametrize("name", ["gru", "resnet", "transformer"])
def test_a_graph_that_works_nothing_out_of_single_rows_has_no_form(name: str) -> None:
    assert stream_of(folded(getattr(graphs, name)()), 10) is None


def test_only_windows_that_come_with_every_row_are_streamed() -> None:
    graph = folded(per_row())
    assert streamed(graph, contract_of(CONTRACT.sensors, WINDOW, stride=2)) is None


def test_a_form_that_does_not_run_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The slice itself is right: a release must not fail for what is a help and no more."""
    found = stream_of(folded(per_row()), WINDOW)
    assert found is not None
    broken = onnx.ModelProto()
    broken.CopyFrom(found.rest)
    broken.graph.node[0].op_type = "Nonsense"
    monkeypatch.setattr(streams, "stream_of", lambda *_, **__: replace(found, rest=broken))
    assert streamed(folded(per_row()), CONTRACT) is None
    assert "does not run, it is left out" in caplog.text


def test_a_form_that_gains_too_little_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LEAST_GAIN", 1e6)
    assert streamed(folded(per_row()), CONTRACT) is None


def test_filters_along_rows_keep_their_newest_positions() -> None:
    b = graphs.Builder(1)
    x = b.op("Transpose", b.input("values", ["batch", 12, 3]), perm=[0, 2, 1])
    y = b.op("Relu", b.op("Conv", x, b.weight(4, 3, 3), dilations=[2], kernel_shape=[3]))
    mean = b.op("ReduceMax", y, b.whole(2), keepdims=0)
    graph = folded(b.model((mean, ["batch", 4])))
    stream = stream_of(graph, 12)
    assert stream is not None
    assert (stream.form.rows, [ring.rows for ring in stream.form.rings]) == (5, [8])
    trial = Trial(graph, stream, {"values": rows_of(30, 3)["values"]})
    assert trial.largest_error <= 1e-6


def test_real_telemetry_with_gaps_and_late_rows_gives_the_same_bits(tmp_path: Path) -> None:
    plant = tep.PLANT.load()
    contract = contract_of(plant.sensors, 16)
    graph = folded(per_row(sensors=52, window=16, mean=20.0, scale=30.0))
    stream = stream_of(graph, 16)
    assert stream is not None
    files = {"model.onnx": graph, STEP_FILE: stream.step, REST_FILE: stream.rest}
    for name, part in files.items():
        onnx.save_model(part, tmp_path / name)
    whole = OnnxSession(tmp_path / "model.onnx", BoardSettings())
    parts = (OnnxSession(tmp_path / name, BoardSettings()) for name in files)
    session = StreamingSession(*parts)
    selection = select(contract, plant.names)
    buffer, answered = WindowBuffer(16, 1, step_ms=plant.step_ms), 0
    for row in telemetry(plant.test, plant.step_ms):
        window = buffer.add(row)
        if window is not None:
            feeds = model_input(contract, window, selection).feeds
            assert same(session.run(feeds), whole.run(feeds))
            answered += 1
    assert answered > 300
    assert session.counts.streamed > 0.8 * answered
    assert session.counts.whole > 2
    session.close()
    whole.close()


def same(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> bool:
    return all(found[name].tobytes() == array.tobytes() for name, array in expected.items())


def telemetry(rows: NDArray[np.float32], step_ms: int) -> list[Row]:
    """Recorded rows of which some sensors are silent now and then, and an hour is missing."""
    random = np.random.default_rng(0)
    found = []
    for at, values in enumerate(rows):
        mask = (random.random(len(values)) > 0.02).astype(np.float32)
        gap = 20 * step_ms * (at // 150)
        found.append(Row(at * step_ms + gap, values * mask, mask))
    return found
