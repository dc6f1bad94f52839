"""Moments: sums over sites equal the pooled rows, gaps break regression rows, bad peers refused."""

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import aimass_shared.moments as module
from aimass_shared.errors import BadUpdateError
from aimass_shared.moments import Moments, Segment, from_arrays, moments, regression_rows

SENSORS = ("a", "b", "c")


def segment(rows: int, seed: int = 0) -> Segment:
    draw = np.random.default_rng(seed)
    values = draw.normal(100.0, 5.0, (rows, 3)).astype(np.float32)
    return values, np.ones_like(values)


def by_hand(segments: list[Segment], lags: int) -> tuple[Any, Any]:
    """Regression rows written out one by one, straight from the definition."""
    z, y = [], []
    for values, mask in segments:
        for t in range(lags, len(values)):
            if mask[t - lags : t + 1].all():
                past = [values[t - lag].astype(np.float64) for lag in range(1, lags + 1)]
                z.append(np.concatenate([[1.0], *past]))
                y.append(values[t].astype(np.float64))
    return np.array(z), np.array(y)


@given(
    hnp.arrays(np.bool_, st.tuples(st.integers(0, 12), st.just(3)), elements=st.booleans()),
    st.integers(1, 3),
)
def test_moments_are_those_of_the_complete_rows(mask: NDArray[np.bool_], lags: int) -> None:
    values, _ = segment(len(mask))
    part = (np.where(mask, values, np.nan).astype(np.float32), mask.astype(np.float32))
    whole = segment(7, seed=1)
    got = moments([part, whole], sensors=SENSORS, lags=lags)
    z, y = by_hand([part, whole], lags)
    assert got.n == len(z)
    np.testing.assert_allclose(got.zz, z.T @ z, rtol=1e-12)
    np.testing.assert_allclose(got.zy, z.T @ y, rtol=1e-12)
    np.testing.assert_allclose(got.yy, y.T @ y, rtol=1e-12)


def test_the_sum_over_sites_solves_to_the_pooled_regression() -> None:
    sites = [segment(40, seed) for seed in range(3)]
    total = Moments.empty(SENSORS, 2)
    for site in sites:
        total = total.add(moments([site], sensors=SENSORS, lags=2))
    z, y = by_hand(sites, 2)
    pooled = np.linalg.lstsq(z, y, rcond=None)[0]
    np.testing.assert_allclose(np.linalg.solve(total.zz, total.zy), pooled, rtol=1e-6, atol=1e-7)


def test_chunks_do_not_change_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    site = segment(50)
    whole = moments([site], sensors=SENSORS, lags=2)
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    pieces = moments([site], sensors=SENSORS, lags=2)
    assert pieces.n == whole.n == 48
    np.testing.assert_allclose(pieces.zz, whole.zz, rtol=1e-12)
    np.testing.assert_allclose(pieces.zy, whole.zy, rtol=1e-12)


def test_a_value_that_is_not_finite_is_missing_even_if_the_mask_says_otherwise() -> None:
    values, mask = segment(10)
    values[4, 1] = np.inf
    z, _ = regression_rows(values, mask, 2)
    assert len(z) == 8 - 3
    assert np.isfinite(z).all()


def test_arrays_round_trip() -> None:
    there = moments([segment(20)], sensors=SENSORS, lags=2)
    back = from_arrays(there.arrays(), sensors=SENSORS, lags=2)
    assert (back.n, back.sensors, back.lags) == (18, SENSORS, 2)
    np.testing.assert_array_equal(back.zz, there.zz)
    np.testing.assert_array_equal(back.zy, there.zy)
    np.testing.assert_array_equal(back.yy, there.yy)


def test_other_sensors_or_lags_do_not_add() -> None:
    with pytest.raises(BadUpdateError):
        Moments.empty(SENSORS, 2).add(Moments.empty(SENSORS, 1))
    with pytest.raises(BadUpdateError):
        Moments.empty(SENSORS, 2).add(Moments.empty(("b", "a", "c"), 2))


@pytest.mark.parametrize(
    ("sensors", "lags"), [(SENSORS, 0), (SENSORS, 65), ((), 2)], ids=["none", "many", "no-sensors"]
)
def test_bad_questions_are_refused(sensors: tuple[str, ...], lags: int) -> None:
    with pytest.raises(BadUpdateError):
        moments([], sensors=sensors, lags=lags)
    with pytest.raises(BadUpdateError):
        from_arrays({}, sensors=sensors, lags=lags)


def test_a_segment_of_other_channels_is_refused() -> None:
    values, mask = segment(10)
    with pytest.raises(BadUpdateError, match="channels"):
        moments([(values[:, :2], mask[:, :2])], sensors=SENSORS, lags=1)


def change(name: str, value: object) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, Any] = dict(moments([segment(20)], sensors=SENSORS, lags=1).arrays())
    arrays[name] = value
    return arrays


ZZ = np.array(moments([segment(20)], sensors=SENSORS, lags=1).zz)
LOPSIDED = ZZ + np.triu(np.ones_like(ZZ), 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("extra", np.zeros(1)),
        ("zy", np.zeros((4, 2))),
        ("yy", np.zeros((3, 3), np.float32)),
        ("yy", np.full((3, 3), np.nan)),
        ("yy", -np.eye(3)),
        ("zz", LOPSIDED),
        ("n", np.array([12.0])),
        ("n", np.array([-1.0])),
        ("n", np.array([1e300])),
        ("n", np.array([0.5])),
    ],
)
def test_contradictory_moments_are_refused(name: str, value: object) -> None:
    with pytest.raises(BadUpdateError):
        from_arrays(change(name, value), sensors=SENSORS, lags=1)


def test_fewer_lags_are_a_corner_of_more() -> None:
    values, mask = segment(40)
    long = moments([(values, mask)], sensors=SENSORS, lags=4)
    short = long.shortened(2)
    assert (short.lags, short.n) == (2, long.n)
    expected = moments([(values[2:], mask[2:])], sensors=SENSORS, lags=2)
    assert np.allclose(short.zz, expected.zz)
    assert np.allclose(short.zy, expected.zy)
    assert np.allclose(short.yy, expected.yy)
    with pytest.raises(BadUpdateError, match="cannot be shortened"):
        long.shortened(5)
