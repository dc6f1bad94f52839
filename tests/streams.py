"""Graphs that work much out of each row of a window: messages between sensors, a recurrence."""

import numpy as np
import onnx
from numpy.typing import NDArray
from tests.graphs import Builder


def per_row(  # noqa: PLR0913  by name, and each has a default
    *,
    sensors: int = 6,
    window: int = 8,
    hidden: int = 8,
    pooled: bool = False,
    changes: bool = False,
    mean: float = 0.0,
    scale: float = 1.0,
) -> onnx.ModelProto:
    """Takes values and a mask `[batch, window, sensors]`; gives `forecast` `[batch, 1, sensors]`.

    Args:
        sensors: how many. window: rows. hidden: channels.
        pooled: whether the sensors are averaged before the recurrence.
        changes: whether a row is seen beside the row before.
        mean: of a value. scale: its deviation.
    """
    b = Builder(3)
    shape: list[int | str | None] = ["batch", window, sensors]
    values, mask = b.input("values", shape), b.input("mask", shape)
    scaled = b.op("Div", b.op("Sub", values, b.constant(mean)), b.constant(scale))
    x = b.op("Mul", b.op("Clip", scaled, b.constant(-3.0), b.constant(3.0)), mask)
    seen = [x] if pooled else [x, mask]
    if changes:
        newer = [b.op("Slice", one, b.whole(1), b.whole(window), b.whole(1)) for one in seen]
        older = b.op("Slice", x, b.whole(0), b.whole(window - 1), b.whole(1))
        seen, window = [*newer, b.op("Sub", newer[0], older)], window - 1
    features = b.op("Concat", *(b.op("Unsqueeze", one, b.whole(3)) for one in seen), axis=3)
    state = b.op("Tanh", b.op("MatMul", features, b.weight(len(seen), hidden)))
    for _ in range(2):
        heard = b.op(
            "MatMul", b.weight(sensors, sensors), b.op("MatMul", state, b.weight(hidden, hidden))
        )
        state = b.op("Tanh", b.op("Add", b.op("Add", heard, state), b.weight(1, hidden)))
    if pooled:
        state = b.op("ReduceMean", state, b.whole(2), keepdims=1)
    nodes = 1 if pooled else sensors
    turned = b.op("Transpose", state, perm=[1, 0, 2, 3])
    rows = b.op("Reshape", turned, b.whole(window, -1, hidden))
    weights = (b.weight(1, 3 * hidden, hidden), b.weight(1, 3 * hidden, hidden))
    _, last = b.ops("GRU", 2, rows, *weights, b.weight(1, 6 * hidden), hidden_size=hidden)
    states = b.op("Reshape", last, b.whole(-1, nodes, hidden))
    answers = b.op("MatMul", states, b.weight(hidden, sensors if pooled else 1))
    laid = answers if pooled else b.op("Transpose", answers, perm=[0, 2, 1])
    forecast = b.op("Add", b.op("Mul", laid, b.constant(scale)), b.constant(mean))
    if changes:  # the rest takes a window as well
        forecast = b.op("Add", forecast, b.op("ReduceMean", mask, b.whole(1)))
    model = b.model((forecast, ["batch", 1, sensors]))
    model.graph.node[-1].output[0] = model.graph.output[0].name = "forecast"
    return model


def rows_of(count: int, sensors: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Rows `[1, count, sensors]` of which some values are missing."""
    random = np.random.default_rng(seed)
    mask = (random.random((1, count, sensors)) > 0.1).astype(np.float32)
    return {"values": random.normal(size=mask.shape).astype(np.float32) * mask, "mask": mask}
