"""Windows of complete recordings, and the error of forecasts after them. Numpy only."""

import numpy as np
from numpy.typing import NDArray


def cut(rows: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """All windows `[n, length, S]` of rows `[T, S]`, one after each row."""
    view = np.lib.stride_tricks.sliding_window_view(rows, length, axis=0)
    return np.ascontiguousarray(view.transpose(0, 2, 1))


def scaled_error(
    forecast: NDArray[np.floating], future: NDArray[np.floating], scale: NDArray[np.floating]
) -> float:
    """Mean squared error `[n, horizon, S]` in units of `scale` `[S]`, over what was measured."""
    return float(np.nanmean(((forecast - future) / scale) ** 2, dtype=np.float64))


def scaled_deviation(
    forecast: NDArray[np.floating], future: NDArray[np.floating], scale: NDArray[np.floating]
) -> float:
    """Mean absolute error, as `scaled_error` takes it."""
    return float(np.nanmean(np.abs((forecast - future) / scale), dtype=np.float64))
