"""The fit of a site's monitor: parts of rows, gaps, files that are whole or none."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests import site_release as plant
from tests.site_release import LAGS, QUIET

from aimass_edge.history import Segment
from aimass_edge.predict.site_fit import (
    MIN_ROWS,
    Fitted,
    Origin,
    check_normal,
    fitted,
    read,
    write,
)
from aimass_shared.errors import TrainingFailedError
from aimass_shared.monitoring import LONGEST

ROWS = 400
FLEET = plant.fleet()
ORIGIN = Origin("f" * 64, ROWS)
Floats = NDArray[np.float64]


def _segment(rows: Floats) -> Segment:
    values = rows.astype(np.float32)
    return np.nan_to_num(values), np.isfinite(values).astype(np.float32)


@cache
def _monitor() -> Fitted:
    return fitted([_segment(QUIET.rows(ROWS, 1))], FLEET)


def test_the_newest_rows_calibrate_and_no_row_of_the_fit_is_in_their_averages() -> None:
    rows = QUIET.rows(ROWS, 1)
    found = _monitor()
    cut = round(0.8 * ROWS)
    var = FLEET.shrunk(plant.moments_of(rows[:cut]))
    assert np.allclose(found.monitor.var.coefficients, var.coefficients)
    assert (found.rows, found.calibration) == (cut - LAGS, ROWS - cut)

    def calibrated_from(first: int) -> tuple[float, ...]:
        plain = found.monitor
        return plain.calibrated(plain.calibration(rows[first:])).limits.levels

    levels = found.monitor.limits.levels
    assert np.allclose(calibrated_from(cut - LAGS), levels, rtol=1e-4)
    assert not np.allclose(calibrated_from(cut - LAGS - 1), levels, rtol=1e-4)


def test_the_fewest_rows_are_enough() -> None:
    found = fitted([_segment(QUIET.rows(MIN_ROWS, 3))], FLEET)
    assert found.calibration - LONGEST + 1 >= 2 * LONGEST
    check_normal(found)
    with pytest.raises(TrainingFailedError, match="too few"):
        fitted([_segment(QUIET.rows(100, 3))], FLEET)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 1199), max_size=12), st.integers(0, 2**32 - 1))
def test_gaps_and_missing_values_give_a_monitor_that_is_nearly_the_same(
    cuts: list[int], seed: int
) -> None:
    rows = QUIET.rows(1200, 2)
    rows[np.random.default_rng(seed).random(rows.shape) < 0.01] = np.nan
    parts = np.split(rows, sorted(set(cuts)))
    found = fitted([_segment(part) for part in parts], FLEET)
    whole = fitted([_segment(QUIET.rows(1200, 2))], FLEET)
    assert np.allclose(found.monitor.var.mean, whole.monitor.var.mean, atol=0.2)
    assert np.allclose(found.monitor.limits.levels, whole.monitor.limits.levels, rtol=0.5)


def test_a_sensor_that_is_never_there_has_no_monitor_and_says_so() -> None:
    rows = QUIET.rows(ROWS, 1)
    rows[:, 2] = np.nan
    with pytest.raises(TrainingFailedError, match="check missing sensors"):
        fitted([_segment(rows)], FLEET)
    for few in ([], [_segment(row[None]) for row in QUIET.rows(ROWS, 1)]):
        with pytest.raises(TrainingFailedError, match="complete ones in a row"):
            fitted(few, FLEET)


def test_noisy_calibration_rows_are_refused() -> None:
    rows = QUIET.rows(ROWS, 1)
    check_normal(_monitor())
    rows[330:] += np.random.default_rng(0).normal(0, 5, rows[330:].shape)
    with pytest.raises(TrainingFailedError, match="normal operation"):
        check_normal(fitted([_segment(rows)], FLEET))


def test_what_is_read_scores_as_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    write(path, ORIGIN, _monitor())
    found = read(path, ORIGIN, len(plant.SENSORS))
    assert found is not None
    rows = QUIET.rows(60, 9)
    assert np.array_equal(found.monitor.explained(rows), _monitor().monitor.explained(rows))
    assert (found.rows, found.calibration) == (_monitor().rows, _monitor().calibration)
    assert read(path, Origin("e" * 64, ROWS), len(plant.SENSORS)) is None
    assert read(path, Origin(ORIGIN.fleet, 500), len(plant.SENSORS)) is None
    assert read(path, ORIGIN, 5) is None
    assert [one.name for one in tmp_path.iterdir()] == ["m.bin"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_none(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    write(path, ORIGIN, _monitor())
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:place]
    else:
        raw[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(raw))
    assert read(path, ORIGIN, len(plant.SENSORS)) is None
