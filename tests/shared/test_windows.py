import math
import random
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from aimass_shared.errors import BadTensorError, InvalidSettingError
from aimass_shared.windows import (
    MAX_TICK_MS,
    GridOptions,
    Row,
    RowGrid,
    WindowBuffer,
    merge_overlaps,
    window_starts,
    windows_of,
)

NOW = 1_800_000_000_000  # far later than the times of a replay
Plain = tuple[int, list[float | None]]


def plain(rows: Iterable[Row]) -> list[Plain]:
    """Rows as (time, values), None where missing; checks that missing values are 0."""
    result: list[Plain] = []
    for row in rows:
        assert row.values.dtype == row.mask.dtype == np.float32
        assert not row.values[row.mask == 0].any()
        pairs = zip(row.values.tolist(), row.mask.tolist(), strict=True)
        result.append((row.time_ms, [value if known else None for value, known in pairs]))
    return result


def test_one_tag_at_a_time_makes_no_row_before_the_last_tag() -> None:
    grid = RowGrid(3, GridOptions(step_ms=180_000))
    for step in range(3):
        time = 1000 + step * 180_000
        for index in range(3):
            assert plain(grid.rows()) == []
            grid.add(index, time, step + index / 4, now_ms=NOW + step * 20 + index)
            grid.tick(NOW + step * 20 + index)
        assert plain(grid.rows()) == [(time, [step, step + 0.25, step + 0.5])]


def test_a_row_with_a_lost_tag_comes_with_the_next_time_and_holds() -> None:
    grid = RowGrid(2, GridOptions(step_ms=1000))
    grid.add(0, 1000, 1.0, now_ms=NOW)
    grid.add(1, 1000, 2.0, now_ms=NOW)
    grid.add(0, 2000, 3.0, now_ms=NOW)
    assert plain(grid.rows()) == [(1000, [1.0, 2.0])]
    grid.add(0, 3000, 4.0, now_ms=NOW)
    assert plain(grid.rows()) == [(2000, [3.0, 2.0])]


def test_wall_time_does_not_flood_a_replay_of_the_past_with_held_rows() -> None:
    grid = RowGrid(1, GridOptions(step_ms=1000, steady=True))
    grid.add(0, 5000, 1.0, now_ms=NOW)
    grid.tick(NOW)
    assert plain(grid.rows()) == [(5000, [1.0])]
    for wall in range(NOW, NOW + 1999, 250):
        grid.tick(wall)
    assert plain(grid.rows()) == []
    grid.tick(NOW + 2000)
    assert plain(grid.rows()) == [(6000, [1.0])]


def test_a_jump_of_the_wall_clock_counts_for_little() -> None:
    grid = RowGrid(1, GridOptions(step_ms=1000, steady=True))
    grid.add(0, 5000, 1.0, now_ms=0)
    grid.tick(NOW)
    grid.tick(0)
    assert len(plain(grid.rows())) == MAX_TICK_MS // 1000


def test_silence_makes_no_rows_of_a_source_that_does_not_report_by_exception() -> None:
    grid = RowGrid(2, GridOptions(step_ms=1000))
    grid.add(0, 5000, 1.0, now_ms=NOW)
    for wall in range(NOW, NOW + 60_000, 500):
        grid.tick(wall)
    assert plain(grid.rows()) == [(5000, [1.0, None])]


def test_values_hold_for_their_time_then_are_missing() -> None:
    grid = RowGrid(2, GridOptions(step_ms=1000, hold_ms=1500, steady=True))
    grid.add(0, 1000, 1.0, now_ms=NOW)
    grid.add(1, 1000, 2.0, now_ms=NOW)
    grid.add(0, 3500, 3.0, now_ms=NOW)
    assert plain(grid.rows()) == [(1000, [1, 2]), (2000, [1, 2]), (3000, [None, None])]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 1e300, -1e39])
def test_what_is_no_number_masks_its_channel(value: float | None) -> None:
    grid = RowGrid(1, GridOptions(step_ms=1000))
    grid.add(0, 1000, 1.0, now_ms=NOW)
    grid.add(0, 2000, value, now_ms=NOW)
    grid.add(0, 3000, 2.0, now_ms=NOW)
    assert plain(grid.rows()) == [(1000, [1.0]), (2000, [None]), (3000, [2.0])]
    assert grid.counts.bad == 1


def test_readings_from_the_future_are_counted_and_dropped() -> None:
    grid = RowGrid(1, GridOptions(step_ms=1000, future_ms=500))
    grid.add(0, NOW + 501, 1.0, now_ms=NOW)
    assert plain(grid.rows()) == []
    grid.add(0, NOW + 500, 2.0, now_ms=NOW)
    assert plain(grid.rows()) == [(NOW + 500, [2.0])]
    assert (grid.counts.future, grid.counts.readings) == (1, 1)


def test_a_late_reading_changes_no_row_that_is_out_but_holds_from_then_on() -> None:
    grid = RowGrid(2, GridOptions(step_ms=1000))
    for index in (0, 1):
        grid.add(index, 1000, 1.0, now_ms=NOW)
    grid.add(0, 2500, 2.0, now_ms=NOW)
    assert plain(grid.rows()) == [(1000, [1, 1]), (2000, [1, 1])]
    grid.add(1, 1900, 9.0, now_ms=NOW)
    grid.add(1, 900, 7.0, now_ms=NOW)
    grid.add(0, 3500, 3.0, now_ms=NOW)
    assert plain(grid.rows()) == [(3000, [2.0, 9.0])]
    assert grid.counts.late == 2


def test_a_lost_source_is_missing_until_it_is_renewed() -> None:
    grid = RowGrid(2, GridOptions(step_ms=1000, steady=True))
    for index in (0, 1):
        grid.add(index, 1000, 1.0 + index, now_ms=NOW)
    assert plain(grid.rows()) == [(1000, [1, 2])]
    grid.lose([1], now_ms=NOW)
    grid.tick(NOW + 2000)
    assert plain(grid.rows()) == [(2000, [1, None])]
    grid.renew([(1, 5.0)], 17, now_ms=NOW + 2100)
    grid.tick(NOW + 4000)
    assert plain(grid.rows()) == [(3000, [1, None]), (4000, [1, 5])]


def test_a_birth_then_silence_starts_the_grid_of_a_steady_source() -> None:
    grid = RowGrid(2, GridOptions(step_ms=1000, steady=True))
    grid.renew([(0, 1.0), (1, None)], 7000, now_ms=NOW)
    assert plain(grid.rows()) == []
    for wall in range(NOW, NOW + 4000, 250):
        grid.tick(wall)
    assert plain(grid.rows())[:2] == [(7000, [1.0, None]), (8000, [1.0, None])]


def test_a_birth_stamped_by_another_clock_does_not_outlive_the_data() -> None:
    grid = RowGrid(1, GridOptions(step_ms=1000, steady=True))
    grid.renew([(0, 1.0)], NOW, now_ms=NOW)
    grid.add(0, 5000, 2.0, now_ms=NOW)
    grid.renew([(0, 2.5)], NOW, now_ms=NOW + 1)
    grid.add(0, 6000, 3.0, now_ms=NOW + 2)
    assert plain(grid.rows()) == [(5000, [2.0]), (6000, [3.0])]


def test_a_source_that_stays_away_makes_a_bounded_number_of_empty_rows() -> None:
    grid = RowGrid(1, GridOptions(step_ms=1000, steady=True, gap_rows=5))
    grid.add(0, 1000, 1.0, now_ms=NOW)
    grid.lose(now_ms=NOW)
    for wall in range(NOW, NOW + 100_000, 500):
        grid.tick(wall)
    assert [values for _, values in plain(grid.rows())] == [[1.0]] + [[None]] * 5
    grid.add(0, 100_000, 2.0, now_ms=NOW + 100_000)
    assert plain(grid.rows()) == [(100_000, [2.0])]
    assert grid.counts.gaps == 1


@pytest.mark.parametrize("steady", [True, False])
def test_an_outage_makes_no_rows_and_only_report_by_exception_holds_over_it(steady: bool) -> None:  # noqa: FBT001 - a pytest parameter
    grid = RowGrid(2, GridOptions(step_ms=1000, steady=steady))
    for index in (0, 1):
        grid.add(index, 1000, 1.0, now_ms=NOW)
    grid.add(0, 1_000_000_000, 2.0, now_ms=NOW)
    grid.add(0, 1_000_001_000, 3.0, now_ms=NOW)
    held = 1.0 if steady else None
    assert plain(grid.rows()) == [(1000, [1, 1]), (1_000_000_000, [2, held])]


def test_one_wrong_time_stamp_does_not_make_the_grid_deaf_for_ever() -> None:
    grid = RowGrid(1, GridOptions(step_ms=1000))
    rows: list[Row] = []
    for time in (1000, 2000, NOW, *range(3000, 9000, 1000)):
        grid.add(0, time, 1.0, now_ms=NOW)
        rows += grid.rows()
    assert [row.time_ms for row in rows] == [1000, 2000, NOW, 6000, 7000, 8000]
    assert grid.counts.restarts == 1


def test_jitter_within_the_snap_gives_one_row_per_sample() -> None:
    grid = RowGrid(1, GridOptions(step_ms=1000, snap_ms=100))
    rows: list[Row] = []
    for step, jitter in enumerate([0, 60, -40, 99, -99, 0]):
        grid.add(0, step * 1000 + jitter, step, now_ms=NOW)
        rows += grid.rows()
    assert plain(rows) == [(step * 1000, [step]) for step in range(6)]


def test_options_without_a_grid_are_refused() -> None:
    for size, options in [
        (0, GridOptions(step_ms=1)),
        (1, GridOptions(step_ms=0)),
        (1, GridOptions(step_ms=10, snap_ms=5)),
    ]:
        with pytest.raises(InvalidSettingError):
            RowGrid(size, options)


LATENESS = 1500
Event = tuple[int, int, float]
events = st.lists(
    st.tuples(
        st.integers(0, 30_000),
        st.integers(0, 2),
        st.floats(-1e6, 1e6, width=32) | st.just(math.nan),
    ),
    min_size=1,
    max_size=60,
    unique_by=lambda event: event[:2],
)


def rows_of(arrivals: list[Event]) -> list[Plain]:
    grid = RowGrid(3, GridOptions(step_ms=1000, lateness_ms=LATENESS, steady=True))
    out: list[Row] = []
    for time, index, value in [(0, 0, 0.0), *arrivals, (60_000, 0, 0.0)]:
        grid.add(index, time, value, now_ms=NOW)
        out += grid.rows()
    assert grid.counts.late == 0
    return plain(out)


@given(events, st.randoms(use_true_random=False))
def test_any_order_of_arrival_within_the_lateness_gives_the_same_rows(
    readings: list[Event], rng: random.Random
) -> None:
    ordered = sorted(event for event in readings if event[0] > 0)
    delayed = sorted(ordered, key=lambda event: event[0] + rng.uniform(0, LATENESS))
    rows = rows_of(delayed)
    assert rows == rows_of(ordered)
    for time, values in rows:
        for index, value in enumerate(values):
            past = [event for event in ordered if event[1] == index and event[0] <= time]
            newest = past[-1][2] if past else (0.0 if index == 0 else None)
            assert value == (None if newest is None or math.isnan(newest) else newest)


def row(time_ms: int, *values: float) -> Row:
    array = np.array(values, np.float32)
    return Row(time_ms, np.nan_to_num(array), np.isfinite(array).astype(np.float32))


def test_windows_come_every_stride_and_know_their_coverage() -> None:
    buffer = WindowBuffer(3, 2)
    windows = [buffer.add(row(time, time, math.nan)) for time in range(1, 8)]
    assert [window is not None for window in windows] == [0, 0, 1, 0, 1, 0, 1]
    last = windows[-1]
    assert last is not None
    assert (last.sequence, last.end_ms, last.coverage) == (2, 7, 0.5)
    assert last.values.tolist() == [[5, 0], [6, 0], [7, 0]]
    assert last.mask.tolist() == [[1, 0]] * 3


@pytest.mark.parametrize(
    ("step_ms", "times", "ends"),
    [
        (10, [10, 20, 40, 50, 60], [20, 50, 60]),
        (0, [10, 20, 40, 50, 60], [20, 40, 50, 60]),
        (0, [10, 20, 20, 30, 5, 6], [20, 30, 6]),
    ],
)
def test_a_window_never_spans_a_gap(step_ms: int, times: list[int], ends: list[int]) -> None:
    buffer = WindowBuffer(2, step_ms=step_ms)
    windows = [buffer.add(row(time, 1.0)) for time in times]
    assert [window.end_ms for window in windows if window is not None] == ends


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5), st.data())
def test_windows_of_a_recording_merge_to_the_recording(
    total: int, length: int, stride: int, data: st.DataObject
) -> None:
    length = min(length, total)
    seed = data.draw(st.integers(0, 1000))
    values = np.random.default_rng(seed).normal(size=(total, 2)).astype(np.float32)
    starts = window_starts(total, length, stride)
    windows = np.stack([values[start : start + length] for start in starts])
    regular = windows_of(values, length, stride)
    assert_array_equal(regular, windows[: len(regular)])
    assert len(windows) - len(regular) <= 1
    merged = merge_overlaps(windows, starts.tolist(), total)
    assert merged.dtype == np.float32
    covered = {start + offset for start in starts.tolist() for offset in range(length)}
    assert stride > length or len(covered) == total
    for index in range(total):
        assert_array_equal(merged[index], values[index] if index in covered else [np.nan, np.nan])


def test_the_buffer_and_the_cut_of_a_recording_agree() -> None:
    values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    buffer = WindowBuffer(5, 2)
    pushed = [buffer.add(Row(time, line, np.ones_like(line))) for time, line in enumerate(values)]
    online = np.stack([window.values for window in pushed if window is not None])
    assert_array_equal(online, windows_of(values, 5, 2))


def test_overlaps_take_the_mean() -> None:
    outputs = np.array([[[1.0], [2.0]], [[4.0], [6.0]]])
    assert merge_overlaps(outputs, [0, 1], 3).ravel().tolist() == [1.0, 3.0, 6.0]


def test_shapes_that_do_not_fit_are_refused() -> None:
    flat = np.zeros((4, 2), np.float32)
    for length, stride in ((0, 1), (2, 0)):
        with pytest.raises(BadTensorError):
            windows_of(flat, length, stride)
    with pytest.raises(BadTensorError):
        windows_of(flat.ravel(), 1)
    with pytest.raises(BadTensorError):
        merge_overlaps(flat[None], [0, 1], 4)
    with pytest.raises(BadTensorError):
        merge_overlaps(flat[None], [1], 4)
    with pytest.raises(BadTensorError):
        window_starts(3, 4, 1)
    with pytest.raises(InvalidSettingError):
        WindowBuffer(0)
    assert windows_of(flat, 5).shape == (0, 5, 2)
