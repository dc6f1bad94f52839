"""Trainers on the device: the gradient step against torch, windows, refusals."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimass_edge.config import BoardSettings
from aimass_edge.federated import ActiveSlice, GradientTrainer, Job, StatisticsTrainer
from aimass_edge.federated.trainers import Adam, Windows
from aimass_shared.errors import (
    AimassError,
    BadTensorError,
    BadUpdateError,
    ConflictError,
    DeadlineExceededError,
    ModelLoadFailedError,
    NoActiveModelError,
    TrainingFailedError,
)
from aimass_shared.messages import RoundTask
from aimass_shared.moments import Segment

Board = Callable[[], BoardSettings]
TASK = RoundTask(
    task="t",
    run="r",
    number=1,
    kind="train",
    deadline=0,
    slice="w1.00-fp32",
    sensors=("a", "b"),
    step_ms=1000,
    epochs=3,
    learning_rate=0.1,
    seed=7,
)
ARRAYS = {"level.weight": np.array([1.0, 2.0], np.float32), "scale": np.ones(2, np.float32)}


def never() -> None:
    pass


def site(rows: int, level: float = 5.0) -> list[Segment]:
    draw = np.random.default_rng(3)
    values = draw.normal(level, 1.0, (rows, 2)).astype(np.float32)
    return [(values, np.ones_like(values))]


def job(
    segments: list[Segment], task: RoundTask = TASK, arrays: Mapping[str, NDArray[Any]] = ARRAYS
) -> Job:
    return Job(task=task, arrays=arrays, segments=segments, check=never)


def by_torch(windows: NDArray[np.float32], task: RoundTask, chosen: int) -> NDArray[np.float32]:
    """The same training, written for torch: same windows in the same order, autograd, its Adam."""
    torch = pytest.importorskip("torch")  # a device has none, a developer does
    draw = np.random.default_rng(task.seed)
    order = draw.permutation(len(windows))[:chosen]
    level = torch.tensor(ARRAYS["level.weight"], requires_grad=True)
    adam = torch.optim.Adam([level], lr=task.learning_rate)
    for _ in range(task.epochs):
        shuffled = draw.permutation(order)
        for first in range(0, len(shuffled), 32):
            batch = torch.tensor(windows[shuffled[first : first + 32]])
            adam.zero_grad()
            loss = ((batch - level) ** 2).sum((1, 2)).mean()
            torch.autograd.backward(loss)
            adam.step()
    change: NDArray[np.float32] = level.detach().numpy() - ARRAYS["level.weight"]
    return change


@pytest.mark.parametrize("rows", [4, 35, 36, 90], ids=["one", "batch", "batch+1", "more"])
def test_training_takes_the_steps_that_torch_takes(
    active: ActiveSlice, board: Board, rows: int
) -> None:
    segments = site(rows)
    windows = np.stack([segments[0][0][i : i + 4] for i in range(rows - 3)])
    trained = GradientTrainer(lambda: active, board()).train(job(segments))
    assert trained.examples == rows - 3
    assert set(trained.arrays) == {"level.weight"}, "scale has no gradient and must stay"
    expected = by_torch(windows, TASK, len(windows))
    np.testing.assert_allclose(trained.arrays["level.weight"], expected, rtol=2e-5, atol=1e-6)
    assert trained.metrics["loss"] <= trained.metrics["first_loss"]


def test_frozen_arrays_are_fed_to_the_graph(active: ActiveSlice, board: Board) -> None:
    trainer = GradientTrainer(lambda: active, board())
    scaled = trainer.train(job(site(40), arrays={**ARRAYS, "scale": np.full(2, -1.0, np.float32)}))
    plain = trainer.train(job(site(40)))
    assert (scaled.arrays["level.weight"] < 0).all()
    assert (plain.arrays["level.weight"] > 0).all()


def test_missing_values_do_not_count(active: ActiveSlice, board: Board) -> None:
    values, mask = site(40)[0]
    values[::2, 0], mask[::2, 0] = np.nan, 0.0
    trained = GradientTrainer(lambda: active, board()).train(job([(values, mask)]))
    assert np.isfinite(trained.arrays["level.weight"]).all()


def test_a_long_history_is_sampled(active: ActiveSlice, board: Board) -> None:
    segments = site(200)
    trainer = GradientTrainer(lambda: active, board(), max_windows=50)
    trained = trainer.train(job(segments))
    assert trained.examples == 50
    windows = np.stack([segments[0][0][i : i + 4] for i in range(197)])
    expected = by_torch(windows, TASK, 50)
    np.testing.assert_allclose(trained.arrays["level.weight"], expected, rtol=2e-5, atol=1e-6)


def test_a_seed_gives_the_same_update_bit_by_bit(active: ActiveSlice, board: Board) -> None:
    trainer = GradientTrainer(lambda: active, board())
    first, again = (trainer.train(job(site(50))).arrays["level.weight"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = trainer.train(job(site(50), msgspec.structs.replace(TASK, seed=8)))
    assert (other.arrays["level.weight"] != first).any()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"slice": "w0.50-int8"}, ConflictError),
        ({"sensors": ("b", "a")}, ConflictError),
        ({"step_ms": 5}, ConflictError),
        ({"learning_rate": 1e38}, TrainingFailedError),
    ],
)
def test_a_round_that_does_not_fit_is_refused(
    active: ActiveSlice, board: Board, change: dict[str, Any], error: type[AimassError]
) -> None:
    task = msgspec.structs.replace(TASK, **change)
    with pytest.raises(error), np.errstate(all="ignore"):
        GradientTrainer(lambda: active, board()).train(job(site(80), task))


def test_too_little_history_is_refused(active: ActiveSlice, board: Board) -> None:
    trainer = GradientTrainer(lambda: active, board())
    for segments in ([], site(3), [(np.ones((9, 2), np.float32), np.zeros((9, 2), np.float32))]):
        with pytest.raises(TrainingFailedError, match="rows in a row"):
            trainer.train(job(segments))


def test_bad_parameters_are_refused(active: ActiveSlice, board: Board) -> None:
    trainer = GradientTrainer(lambda: active, board())
    with pytest.raises(BadUpdateError, match="scale"):
        trainer.train(job(site(9), arrays={"level.weight": ARRAYS["level.weight"]}))
    with pytest.raises(BadTensorError):
        trainer.train(job(site(9), arrays={**ARRAYS, "level.weight": np.ones(3, np.float32)}))


def test_without_a_usable_slice_nothing_trains(
    active: ActiveSlice, board: Board, tmp_path: Path
) -> None:
    with pytest.raises(NoActiveModelError):
        GradientTrainer(lambda: None, board()).train(job(site(9)))
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    bad = msgspec.structs.replace(active, train=tmp_path / "bad.onnx")
    with pytest.raises(ModelLoadFailedError):
        GradientTrainer(lambda: bad, board()).train(job(site(9)))
    fixed = msgspec.structs.replace(active, train=None)
    with pytest.raises(ConflictError, match="toy was released without a gradient step"):
        GradientTrainer(lambda: fixed, board()).train(job(site(9)))


def test_training_stops_within_a_step_of_its_deadline(active: ActiveSlice, board: Board) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise DeadlineExceededError("stop")

    forever = msgspec.structs.replace(TASK, epochs=1000)
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        GradientTrainer(lambda: active, board()).train(
            Job(task=forever, arrays=ARRAYS, segments=site(500), check=check)
        )
    assert calls == 3
    assert time.monotonic() - start < 5


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=4),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 0.75, 1.0]),
)
def test_windows_are_those_with_enough_measured(
    measured: list[list[int]], rows: int, coverage: float
) -> None:
    masks = [np.array([[1, 0], [0, 0], [1, 1]], np.float32)[m] for m in measured if m]
    segments = [(np.full_like(m, 100 * i), m) for i, m in enumerate(masks)]
    windows = Windows(segments, rows, coverage)
    expected = [
        mask[start : start + rows]
        for mask in masks
        for start in range(len(mask) - rows + 1)
        if mask[start : start + rows].mean() >= coverage
    ]
    assert windows.count == len(expected)
    got = [b["mask"] for b in windows.batches(np.arange(windows.count), 1)]
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one[0], other)


def test_adam_is_torchs_adam() -> None:
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    start = draw.normal(size=(3, 4)).astype(np.float32)
    ours = {"w": start.copy()}
    theirs = torch.tensor(start, requires_grad=True)
    mine, torchs = Adam(0.01), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(50):
        gradient = draw.normal(size=(3, 4)).astype(np.float32) * 1e-6
        mine.step(ours, {"w": gradient})
        theirs.grad = torch.tensor(gradient)
        torchs.step()
    np.testing.assert_allclose(ours["w"], theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_statistics_count_every_complete_row() -> None:
    task = msgspec.structs.replace(TASK, kind="statistics", lags=2)
    trained = StatisticsTrainer().train(job([*site(10), *site(5)], task))
    assert trained.examples == 8 + 3
    assert trained.arrays["zz"].shape == (5, 5)
    assert trained.arrays["zz"].dtype == np.float64
    with pytest.raises(TrainingFailedError, match="wait"):
        StatisticsTrainer().train(job(site(2), task))
