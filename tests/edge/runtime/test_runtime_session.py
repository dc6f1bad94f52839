"""The contract of every Session, run against each implementation with real ONNX files."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimass_edge.config import BoardSettings
from aimass_edge.runtime import Session, open_session
from aimass_edge.runtime.backends import CPU
from aimass_edge.runtime.onnx import usable_providers
from aimass_edge.runtime.paced import PacedSession
from aimass_edge.runtime.session import check_feeds, describe
from aimass_shared.errors import (
    BadTensorError,
    ModelError,
    ModelLoadFailedError,
    NoActiveModelError,
)
from aimass_shared.manifest import TensorSpec

DATA = Path(__file__).parent.parent / "data"
PLAIN = BoardSettings()
PACED = BoardSettings(simulate=True, cpu_time_factor=2.0)
Feeds = dict[str, NDArray[Any]]


@pytest.fixture(params=[PLAIN, PACED], ids=["plain", "paced"])
def board(request: pytest.FixtureRequest) -> BoardSettings:
    settings: BoardSettings = request.param
    return settings


@pytest.fixture
def session(board: BoardSettings) -> Iterator[Session]:
    opened = open_session(DATA / "monitor.onnx", board)
    yield opened
    opened.close()


def feeds(batch: int = 1) -> Feeds:
    values = np.arange(batch * 12, dtype=np.float32).reshape(batch, 4, 3)
    return {"values": values, "mask": np.ones_like(values)}


def test_it_says_what_it_takes_and_gives(session: Session) -> None:
    assert [describe(spec) for spec in session.inputs] == ["values FP32[?,4,3]", "mask FP32[?,4,3]"]
    assert [describe(spec) for spec in session.outputs] == [
        "forecast FP32[?,2,3]",
        "score FP32[?]",
        "contribution FP32[?,3]",
    ]
    assert session.provider == CPU


@pytest.mark.parametrize("batch", [1, 2, 17])
def test_it_computes(session: Session, batch: int) -> None:
    given_feeds = feeds(batch)
    result = session.run(given_feeds)
    squared = (given_feeds["values"] ** 2).mean(axis=1)
    assert list(result) == ["forecast", "score", "contribution"]
    np.testing.assert_allclose(result["contribution"], squared, rtol=1e-6)
    np.testing.assert_allclose(result["score"], squared.sum(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(result["forecast"][:, 0], given_feeds["values"][:, -1])


def test_it_takes_views_as_they_are(session: Session) -> None:
    """Windows are views of a ring and seldom contiguous."""
    base = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    view = base[:, :, ::2]
    result = session.run({"values": view, "mask": np.ones((1, 4, 3), np.float32)})
    np.testing.assert_array_equal(result["forecast"][0, 0], view[0, -1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f.pop("mask"), "inputs .*values.* are not those"),
        (lambda f: f.update(extra=f["mask"]), "extra.* are not those"),
        (lambda f: f.update(values=f["values"].astype(np.float64)), "is FP64 .* expected FP32"),
        (lambda f: f.update(values=f["values"][:, :3]), r"\[1, 3, 3\], expected"),
        (lambda f: f.update(values=f["values"][0]), r"\[4, 3\], expected"),
        (lambda f: f.update(values=f["values"][:0], mask=f["mask"][:0]), "empty batch"),
        (lambda f: f.update(values=feeds(2)["values"]), "values has 2, mask has 1"),
    ],
    ids=["missing", "unknown", "type", "length", "rank", "empty", "batches"],
)
def test_wrong_inputs_say_what_is_expected(
    session: Session, change: Callable[[Feeds], object], told: str
) -> None:
    wrong = feeds()
    change(wrong)
    with pytest.raises(BadTensorError, match=told):
        session.run(wrong)
    assert session.run(feeds())["score"].shape == (1,)


def test_threads_share_it(session: Session) -> None:
    barrier = threading.Barrier(4)

    def work(batch: int) -> bool:
        barrier.wait()
        expected = (feeds(batch)["values"] ** 2).mean(axis=1).sum(axis=1)
        return all(np.allclose(session.run(feeds(batch))["score"], expected) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, [1, 2, 3, 4]))


def test_a_closed_session_says_so(board: BoardSettings) -> None:
    session = open_session(DATA / "monitor.onnx", board)
    session.close()
    session.close()
    with pytest.raises(NoActiveModelError, match="closed"):
        session.run(feeds())


def test_a_failure_inside_the_model_is_not_blamed_on_the_caller(board: BoardSettings) -> None:
    session = open_session(DATA / "fails.onnx", board)
    assert session.run({"x": np.ones(7, np.float32)})["y"].shape == (7,)
    with pytest.raises(ModelError, match=r"fails\.onnx failed"):
        session.run({"x": np.ones(6, np.float32)})


def test_a_missing_file_is_named(board: BoardSettings, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailedError, match=r"nothing\.onnx"):
        open_session(tmp_path / "nothing.onnx", board)


def test_a_model_of_strings_is_refused(board: BoardSettings) -> None:
    with pytest.raises(ModelLoadFailedError, match="not numeric"):
        open_session(DATA / "text.onnx", board)


@pytest.mark.parametrize("raw", [b"", b"\x00", b"not a model" * 100], ids=["empty", "nul", "text"])
def test_something_else_is_refused(board: BoardSettings, tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(raw)
    with pytest.raises(ModelLoadFailedError):
        open_session(tmp_path / "model.onnx", board)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = (DATA / "monitor.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelLoadFailedError):
            open_session(path, PLAIN)


def test_flipped_bytes_never_escape_as_a_foreign_error(tmp_path: Path) -> None:
    """A damaged file either loads (a name changed) or is refused, whatever byte was hit."""
    whole = (DATA / "monitor.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    refused = 0
    for index in range(0, len(whole), 3):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x55]) + whole[index + 1 :])
        try:
            open_session(path, PLAIN).close()
        except ModelLoadFailedError:
            refused += 1
    assert refused > len(whole) // 10


def test_a_provider_that_is_not_there_falls_back_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert usable_providers(("TensorrtExecutionProvider", CPU)) == (CPU,)
    assert "TensorrtExecutionProvider" in caplog.text
    session = open_session(
        DATA / "monitor.onnx", BoardSettings(providers=("TensorrtExecutionProvider",))
    )
    assert session.provider == CPU


def test_pacing_stretches_by_the_factor() -> None:
    ticks = iter([10.0, 10.004])
    slept: list[float] = []
    inner = open_session(DATA / "monitor.onnx", PLAIN)
    paced = PacedSession(inner, 6.0, clock=lambda: next(ticks), sleep=slept.append)
    paced.run(feeds())
    assert slept == [pytest.approx(0.020)]


def test_a_board_faster_than_the_reference_never_sleeps() -> None:
    ticks = iter([10.0, 10.004])
    slept: list[float] = []
    inner = open_session(DATA / "monitor.onnx", PLAIN)
    PacedSession(inner, 0.5, clock=lambda: next(ticks), sleep=slept.append).run(feeds())
    assert slept == []


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@given(want=shapes, have=shapes)
def test_shapes_are_compared_axis_by_axis(want: tuple[int, ...], have: tuple[int, ...]) -> None:
    specs = (TensorSpec("x", "FP32", want),)
    array = {"x": np.zeros(have, np.float32)}
    if want == have:
        check_feeds(specs, array)
    else:
        with pytest.raises(BadTensorError):
            check_feeds(specs, array)
