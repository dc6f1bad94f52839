"""Long inputs: cut into overlapping windows, run in parallel, put together again. Numpy only.

A model takes windows of one length. A request that says `sliding_stride` may bring rows of any
length; what comes back is what asking for each window in turn and putting the answers together
would give. The coordinator and the agent both answer with this code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadTensorError
from aimass_shared.manifest import Contract
from aimass_shared.windows import merge_overlaps, window_starts

PARAMETER = "sliding_stride"
FORECAST = "forecast"
MAX_WINDOWS = 10_000

Arrays = dict[str, NDArray[Any]]


def stride_of(parameters: Mapping[str, object]) -> int | None:
    """The stride that a request asks for; None if its inputs are windows already.

    Raises:
        BadTensorError: it is no whole number of rows.
    """
    stride = parameters.get(PARAMETER)
    if stride is None:
        return None
    if not isinstance(stride, int) or isinstance(stride, bool) or stride < 1:
        raise BadTensorError(f"parameter {PARAMETER} is {stride!r}: give a whole number of rows")
    return stride


def starts_of(
    contract: Contract, inputs: Mapping[str, NDArray[Any]], stride: int
) -> NDArray[np.int64]:
    """First rows of the windows of one long input `[1, rows, S]`; the last ends with the last row.

    Raises:
        BadTensorError: the model takes no windows, the input is none of one long series, or there
            would be too many windows or rows without a forecast.
    """
    if not contract.telemetry:
        raise BadTensorError(f"model {contract.model} takes no windows: leave out {PARAMETER}")
    if stride > contract.horizon:
        raise BadTensorError(
            f"{PARAMETER} {stride} leaves rows without a forecast: at most {contract.horizon} here"
        )
    shapes = {array.shape for array in inputs.values()}
    if len(shapes) != 1 or not _one_series(next(iter(shapes)), contract):
        raise BadTensorError(
            f"with {PARAMETER} every input is [1, rows, {len(contract.sensors)}] with at least"
            f" {contract.window} rows, all of one shape; got {sorted(shapes)}"
        )
    starts = window_starts(next(iter(shapes))[1], contract.window, stride)
    if len(starts) > MAX_WINDOWS:
        raise BadTensorError(
            f"{len(starts)} windows are more than {MAX_WINDOWS}: raise {PARAMETER} or send less"
        )
    return starts


def windows_at(
    inputs: Mapping[str, NDArray[Any]], starts: NDArray[np.int64], length: int
) -> Arrays:
    """Windows `[n, length, S]` at some starts: a part at a time, since all may be too many."""
    rows = starts[:, None] + np.arange(length)
    return {name: array[0][rows] for name, array in inputs.items()}


def merged(outputs: Mapping[str, NDArray[Any]], starts: NDArray[np.int64]) -> Arrays:
    """Outputs of all windows as those of one series.

    `forecast` `[windows, horizon, S]` becomes `[1, rows, S]`, from the row after the first window
    on, the mean where forecasts overlap; every other output has one entry for each window,
    `[1, windows, ...]`.
    """
    return {name: _merged(name, array, starts)[None] for name, array in outputs.items()}


def _merged(name: str, array: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[Any]:
    if name != FORECAST:
        return array
    total = int(starts[-1]) + array.shape[1]
    return merge_overlaps(array, starts.tolist(), total)


def _one_series(shape: tuple[int, ...], contract: Contract) -> bool:
    wanted = (1, max(shape[1], contract.window) if len(shape) > 1 else 0, len(contract.sensors))
    return shape == wanted
