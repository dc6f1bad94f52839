"""A session that answers windows row by row: only where it is right and of use."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from tests.streams import per_row, rows_of

from aimass_cloud.slicing.export import folded
from aimass_cloud.slicing.streaming import stream_of
from aimass_edge.config import BoardSettings
from aimass_edge.runtime import Session, open_session
from aimass_edge.runtime.onnx import OnnxSession
from aimass_edge.runtime.streaming import StreamingSession
from aimass_shared.errors import BadTensorError, NoActiveModelError
from aimass_shared.streaming import METADATA, REST_FILE, STEP_FILE

BOARD = BoardSettings()
WINDOW, SENSORS, HIDDEN = 48, 40, 32
Feeds = dict[str, NDArray[Any]]
Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    graph = folded(per_row(sensors=SENSORS, window=WINDOW, hidden=HIDDEN))
    stream = stream_of(graph, WINDOW)
    assert stream is not None
    parts = {"model.onnx": graph, STEP_FILE: stream.step, REST_FILE: stream.rest}
    for name, part in parts.items():
        onnx.save_model(part, folder / name)
    return folder


@pytest.fixture
def model(files: Path, tmp_path: Path) -> Path:
    """The files in a folder of their own, that a test may spoil."""
    for file in files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / "model.onnx"


def windows(count: int) -> list[Feeds]:
    rows = rows_of(WINDOW + count, SENSORS)
    return [
        {name: array[:, at : at + WINDOW].copy() for name, array in rows.items()}
        for at in range(count)
    ]


def streaming(model: Path) -> StreamingSession:
    names = (model.name, STEP_FILE, REST_FILE)
    return StreamingSession(*(OnnxSession(model.with_name(name), BOARD) for name in names))


def same(found: Feeds, expected: Feeds) -> bool:
    return all(found[name].tobytes() == array.tobytes() for name, array in expected.items())


def test_windows_that_follow_each_other_are_answered_from_the_one_before(model: Path) -> None:
    session, whole = streaming(model), OnnxSession(model, BOARD)
    for feeds in windows(40):
        assert same(session.run(feeds), whole.run(feeds))
    assert (session.counts.whole, session.counts.streamed) == (1, 39)


def test_other_windows_between_them_change_nothing(model: Path) -> None:
    session, whole = streaming(model), OnnxSession(model, BOARD)
    other = windows(80)[70]
    for feeds in windows(10):
        for one in (feeds, other, {name: np.concatenate([a, a]) for name, a in feeds.items()}):
            assert same(session.run(one), whole.run(one))
    # The first window of telemetry and each of what others ask; telemetry itself goes on.
    assert session.counts.streamed >= 8


def test_a_value_that_changes_late_is_seen(model: Path) -> None:
    session, whole = streaming(model), OnnxSession(model, BOARD)
    for at, feeds in enumerate(windows(9)):
        if at == 6:  # a row that was there already came again with another value
            feeds["values"][0, 3, 2] += 1
        assert same(session.run(feeds), whole.run(feeds))
    assert session.counts.whole >= 2


def test_an_empty_window_is_run_whole(model: Path) -> None:
    session = streaming(model)
    feeds = {name: np.zeros((1, WINDOW, SENSORS), np.float32) for name in ("values", "mask")}
    for _ in range(4):
        session.run(feeds)
    assert session.counts.streamed == 0


def test_threads_do_not_mix_their_windows(model: Path) -> None:
    session, whole = streaming(model), OnnxSession(model, BOARD)
    wrong: list[int] = []

    def work(start: int) -> None:
        wrong.extend(
            at
            for at, feeds in enumerate(windows(40)[start:])
            if not same(session.run(feeds), whole.run(feeds))
        )

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 7, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_wrong_inputs_are_refused_as_by_the_whole_model(model: Path) -> None:
    session = streaming(model)
    feeds = windows(1)[0]
    with pytest.raises(BadTensorError, match="mask"):
        session.run({"values": feeds["values"]})
    with pytest.raises(BadTensorError):
        session.run({name: array[:, 1:] for name, array in feeds.items()})
    with pytest.raises(BadTensorError):
        session.run({name: array.astype(np.float64) for name, array in feeds.items()})
    session.close()
    session.close()
    with pytest.raises(NoActiveModelError):
        session.run(feeds)


def test_it_is_opened_where_its_parts_are(model: Path) -> None:
    session = open_session(model, BOARD)
    assert isinstance(session, StreamingSession)
    assert session.gain() > 1
    assert [spec.shape for spec in session.outputs] == [(-1, 1, SENSORS)]
    assert (session.provider, session.waits) == ("CPUExecutionProvider", False)
    session.close()


def _missing(model: Path) -> None:
    model.with_name(STEP_FILE).unlink()


def _damaged(model: Path) -> None:
    model.with_name(REST_FILE).write_bytes(b"no model")


def _silent(model: Path) -> None:
    rest = onnx.load_model(model.with_name(REST_FILE))
    del rest.metadata_props[:]
    onnx.save_model(rest, model.with_name(REST_FILE))


def _too_long(model: Path) -> None:
    rest = onnx.load_model(model.with_name(REST_FILE))
    text = rest.metadata_props[0].value.replace(f'"window":{WINDOW}', '"window":4')
    helper.set_model_props(rest, {METADATA: text})
    onnx.save_model(rest, model.with_name(REST_FILE))


def _swapped(model: Path) -> None:
    onnx.save_model(onnx.load_model(model), model.with_name(STEP_FILE))


def _other_weights(model: Path) -> None:
    step = onnx.load_model(model.with_name(STEP_FILE))
    for tensor in step.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            numbers = onnx.numpy_helper.to_array(tensor) * np.float32(1.0001)
            tensor.CopyFrom(onnx.numpy_helper.from_array(numbers, tensor.name))
    onnx.save_model(step, model.with_name(STEP_FILE))


@pytest.mark.parametrize(
    "spoil", [_missing, _damaged, _silent, _too_long, _swapped, _other_weights]
)
def test_parts_that_are_not_right_are_left_alone(
    spoil: Edit, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(model)
    with caplog.at_level(logging.WARNING):
        session: Session = open_session(model, BOARD)
    assert isinstance(session, OnnxSession)
    assert bool(caplog.records) == (spoil is not _missing)
    session.run(windows(1)[0])
    session.close()
