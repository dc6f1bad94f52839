"""Long inputs: every window is there, and together they are what each alone would give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared.errors import BadTensorError
from aimass_shared.manifest import Contract, Sensor, TensorSpec
from aimass_shared.sliding import MAX_WINDOWS, merged, starts_of, stride_of, windows_at

SENSORS = tuple(Sensor(name, "%", "continuous") for name in "ab")
CONTRACT = Contract(
    model="m",
    inputs=(TensorSpec("values", "FP32", (-1, 4, 2)),),
    outputs=(TensorSpec("forecast", "FP32", (-1, 3, 2)), TensorSpec("score", "FP32", (-1,))),
    sensors=SENSORS,
    step_ms=1000,
    window=4,
    horizon=3,
)


@given(rows=st.integers(4, 40), stride=st.integers(1, 3))
def test_each_window_is_a_part_of_the_input_and_the_last_row_is_in_one(
    rows: int, stride: int
) -> None:
    values = np.random.default_rng(rows).normal(size=(1, rows, 2)).astype(np.float32)
    starts = starts_of(CONTRACT, {"values": values}, stride)
    windows = windows_at({"values": values}, starts, 4)["values"]
    assert windows.shape == (len(starts), 4, 2)
    for start, window in zip(starts, windows, strict=True):
        assert np.array_equal(window, values[0, start : start + 4])
    assert starts[0] == 0
    assert starts[-1] + 4 == rows


@given(rows=st.integers(4, 40), stride=st.integers(1, 3))
def test_overlapping_forecasts_are_averaged_and_every_row_has_one(rows: int, stride: int) -> None:
    values = np.zeros((1, rows, 2), np.float32)
    starts = starts_of(CONTRACT, {"values": values}, stride)
    forecast = np.random.default_rng(rows).normal(size=(len(starts), 3, 2)).astype(np.float32)
    score = np.arange(len(starts), dtype=np.float32)
    joined = merged({"forecast": forecast, "score": score}, starts)
    assert joined["forecast"].shape == (1, rows - 4 + 3, 2)
    for row in range(rows - 4 + 3):
        parts = [
            forecast[at, row - start] for at, start in enumerate(starts) if 0 <= row - start < 3
        ]
        assert np.allclose(joined["forecast"][0, row], np.mean(parts, axis=0), atol=1e-6)
    assert np.array_equal(joined["score"], score[None])


def test_a_request_without_the_parameter_slides_nothing() -> None:
    assert stride_of({}) is None
    assert stride_of({"sliding_stride": 2}) == 2


@pytest.mark.parametrize("stride", [0, -1, True, 1.5, "2"])
def test_a_stride_that_is_no_number_of_rows_is_refused(stride: object) -> None:
    with pytest.raises(BadTensorError, match="whole number of rows"):
        stride_of({"sliding_stride": stride})


@pytest.mark.parametrize("shape", [(2, 9, 2), (1, 3, 2), (1, 9, 3), (9, 2), (1, 9, 2, 1), (1,)])
def test_an_input_that_is_no_long_series_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadTensorError, match="at least 4 rows"):
        starts_of(CONTRACT, {"values": np.zeros(shape, np.float32)}, 1)


def test_too_many_windows_and_rows_without_forecast_are_refused() -> None:
    long = {"values": np.zeros((1, MAX_WINDOWS + 4, 2), np.float32)}
    with pytest.raises(BadTensorError, match="more than"):
        starts_of(CONTRACT, long, 1)
    with pytest.raises(BadTensorError, match="without a forecast"):
        starts_of(CONTRACT, long, 4)


def test_a_model_without_sensors_has_no_windows() -> None:
    image = Contract(model="i", inputs=(), outputs=(), task="classify")
    with pytest.raises(BadTensorError, match="takes no windows"):
        starts_of(image, {}, 1)
