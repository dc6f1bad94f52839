"""What a device measured, as plans take it."""

import msgspec
import pytest

from aimass_shared.messages import SliceMeasured
from aimass_shared.planning.measured import device_of, slowdowns
from aimass_shared.slices import Board, SliceCost


def cost(reference_ms: float) -> SliceCost:
    return SliceCost(model_bytes=1, memory_mib=1, reference_ms=reference_ms, val_error=0)


COSTS = {"w1.00-fp32": cost(2.0), "w0.50-fp32": cost(0.5), "free": cost(0.0)}
BOARD = Board("pi", 512, 4, 20)
ONE = SliceMeasured(
    model="m",
    release="r1",
    slice="w1.00-fp32",
    board="pi",
    provider="CPUExecutionProvider",
    runtime="onnxruntime 1.32.0",
    batch=1,
    runs=10,
    p50_ms=8.0,
    p99_ms=9.0,
    thread_ms=8.0,
    per_s=120.0,
    load_s=0.1,
    rss_mib=100.0,
    model_mib=10.0,
    at=5,
)


def changed(**fields: object) -> SliceMeasured:
    return msgspec.structs.replace(ONE, **fields)


def test_each_slice_has_its_factor_and_the_others_the_mean() -> None:
    found = slowdowns([ONE, changed(slice="w0.50-fp32", p50_ms=0.5)], COSTS)
    assert found.of == {"w1.00-fp32": 4.0, "w0.50-fp32": 1.0}
    assert found.shared == pytest.approx(2.0)
    assert device_of(BOARD, found, "w1.00-fp32").slowdown == 4.0
    device = device_of(BOARD, found, "w0.25-int8")
    assert device.slowdown == pytest.approx(2.0)
    assert device.memory_mib == 512


def test_only_the_newest_run_of_one_window_of_the_release_counts() -> None:
    others = [
        changed(batch=8, p50_ms=1.0, at=9),
        changed(release="r0", p50_ms=100.0, at=9),
        changed(p50_ms=2.0, at=4),
        changed(slice="unknown"),
        changed(slice="free"),
    ]
    assert slowdowns([ONE, *others], COSTS, release="r1").of == {"w1.00-fp32": 4.0}


def test_without_measurements_nothing_is_said() -> None:
    assert slowdowns([], COSTS) == (1.0, {})
