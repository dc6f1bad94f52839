"""Which values come row by row: chains of operators drawn at random give what they gave."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.graphs import Builder
from tests.streams import rows_of

from aimass_cloud.slicing.export import folded
from aimass_cloud.slicing.streamed import Trial
from aimass_cloud.slicing.streaming import stream_of

WINDOW, SENSORS = 9, 4


class At(NamedTuple):
    """A value `[batch, rows, channels]` in a graph that is being built."""

    b: Builder
    x: str
    rows: int
    channels: int


def _product(at: At) -> At:
    return at._replace(x=at.b.op("MatMul", at.x, at.b.weight(at.channels, 5)), channels=5)


def _flat_product(at: At) -> At:
    """As ONNX Runtime folds a linear layer: all rows of a batch as one matrix."""
    flat = at.b.op("Reshape", at.x, at.b.whole(-1, at.channels))
    made = at.b.op("Gemm", flat, at.b.weight(3, at.channels), at.b.weight(3), transB=1)
    return at._replace(x=at.b.op("Reshape", made, at.b.whole(-1, at.rows, 3)), channels=3)


def _mixed_channels(at: At) -> At:
    turned = at.b.op("Transpose", at.x, perm=[0, 2, 1])
    mixed = at.b.op("MatMul", at.b.weight(at.channels, at.channels), turned)
    return at._replace(x=at.b.op("Transpose", mixed, perm=[0, 2, 1]))


def _moved(at: At) -> At:
    """Each row beside the row before."""
    if at.rows < 3:
        return at
    b, end = at.b, at.b.whole(1 << 40)
    newer = b.op("Slice", at.x, b.whole(1), end, b.whole(1))
    older = b.op("Slice", at.x, b.whole(0), b.whole(-1), b.whole(1))
    both = b.op("Concat", newer, b.op("Sub", newer, older), axis=2)
    return at._replace(x=both, rows=at.rows - 1, channels=2 * at.channels)


def _older(at: At) -> At:
    """Without the newest row."""
    if at.rows < 3:
        return at
    b = at.b
    return at._replace(x=b.op("Slice", at.x, b.whole(0), b.whole(-1), b.whole(1)), rows=at.rows - 1)


def _filtered(at: At) -> At:
    if at.rows < 4:
        return at
    b = at.b
    turned = b.op("Transpose", at.x, perm=[0, 2, 1])
    made = b.op("Conv", turned, b.weight(3, at.channels, 3), kernel_shape=[3])
    return At(b, b.op("Transpose", made, perm=[0, 2, 1]), at.rows - 2, 3)


def _shared(at: At) -> At:
    """Softmax over the channels, beside what they are in deviations."""
    b = at.b
    ones = b.constant(np.ones(at.channels))
    scaled = b.op("LayerNormalization", at.x, ones, axis=-1)
    return at._replace(x=b.op("Add", b.op("Softmax", at.x, axis=2), scaled))


def _apart(at: At) -> At:
    """The largest channel and the mean, spread over all; then half of them, in another order."""
    b = at.b
    most = b.op("ReduceMax", at.x, b.whole(2), keepdims=1)
    mean = b.op("Unsqueeze", b.op("ReduceMean", at.x, b.whole(2), keepdims=0), b.whole(2))
    spread = b.op("Add", b.op("Sub", at.x, most), mean)
    picked = b.op("Gather", spread, b.whole(at.channels - 1, 0), axis=2)
    return at._replace(x=picked, channels=2)


def _kept(at: At) -> At:
    """What is known, where it is large; all of it through an axis of its own."""
    b = at.b
    known = b.op("Where", b.op("Greater", at.x, b.constant(0.1)), at.x, b.constant([0.5]))
    wide = b.op("Expand", b.op("Unsqueeze", known, b.whole(2)), b.whole(1, 1, 2, 1))
    first, second = b.ops("Split", 2, wide, axis=2, num_outputs=2)
    mean = b.op("Mul", b.op("Add", first, second), b.constant(0.5))
    return at._replace(x=b.op("Squeeze", mean, b.whole(2)))


STEPS: dict[str, Callable[[At], At]] = {
    step.__name__: step
    for step in (
        *(_product, _flat_product, _mixed_channels, _moved, _older),
        *(_filtered, _shared, _apart, _kept),
    )
}


def chain(names: list[str]) -> onnx.ModelProto:
    """Those steps, then something that takes all rows."""
    b = Builder(4)
    at = At(b, b.input("values", ["batch", WINDOW, SENSORS]), WINDOW, SENSORS)
    for name in names:
        at = STEPS[name](at)
    flat = b.op("Reshape", at.x, b.whole(-1, at.rows * at.channels))
    mixed = b.op("MatMul", flat, b.weight(at.rows * at.channels, 3))
    return b.model((mixed, ["batch", 3]))


@settings(max_examples=60, deadline=None)
@given(names=st.lists(st.sampled_from(sorted(STEPS)), max_size=6))
def test_answers_from_rows_are_those_of_the_whole_graph(names: list[str]) -> None:
    graph = folded(chain(names))
    stream = stream_of(graph, WINDOW)
    has_product = {"_product", "_flat_product", "_mixed_channels"} & set(names)
    if stream is None:
        assert not has_product, "a product of single rows was not seen"
        return
    for part in (stream.step, stream.rest):
        onnx.checker.check_model(part, full_check=True)
    trial = Trial(graph, stream, {"values": rows_of(WINDOW + 12, SENSORS)["values"]})
    assert trial.largest_error <= 1e-4  # chains may enlarge numbers; a wrong row is off by 1


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda b, x: b.op("Add", x, b.weight(WINDOW, 1)), "a number for each row"),
        (lambda b, x: b.op("Softmax", x, axis=1), "over rows"),
        (lambda b, x: b.op("Sub", x, b.op("ReduceMean", x, b.whole(1), keepdims=1)), "all rows"),
        (lambda b, x: b.op("MatMul", b.weight(WINDOW, WINDOW), x), "rows are summed"),
        (lambda b, x: b.op("Pad", x, b.whole(0, 1, 0, 0, 0, 0)), "rows that are not there"),
        (lambda b, x: b.op("Slice", x, *(b.whole(n) for n in (0, 9, 1, 2))), "every other row"),
    ],
)
def test_what_differs_by_the_row_or_takes_all_of_them_is_in_the_rest(
    spoil: Callable[[Builder, str], str], why: str
) -> None:
    b = Builder(4)
    spoilt = spoil(b, b.input("values", [1, WINDOW, SENSORS]))
    last = b.op("ReduceMax", b.op("MatMul", spoilt, b.weight(SENSORS, 3)), b.whole(1), keepdims=0)
    assert stream_of(folded(b.model((last, [1, 3]))), WINDOW) is None, why
