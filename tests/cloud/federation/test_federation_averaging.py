"""Coverage-weighted averaging against its definition, and what the guard refuses."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimass_cloud.federation.averaging import Contribution, average, cut
from aimass_cloud.federation.guard import check_arrays, check_examples
from aimass_cloud.federation.plans import Nesting
from aimass_cloud.federation.statistics import sum_moments
from aimass_shared.errors import BadUpdateError
from aimass_shared.moments import moments

Arrays = dict[str, NDArray[Any]]


def leading(_name: str, full_shape: tuple[int, ...], width: float) -> tuple[slice, ...]:
    return tuple(slice(0, round(size * width)) for size in full_shape)


def test_three_widths_by_hand(model: Arrays, nesting: Nesting) -> None:
    parts = [
        Contribution({k: v + 1 for k, v in cut(model, nesting, 1.0).items()}, 1.0, 10),
        Contribution({k: v + 4 for k, v in cut(model, nesting, 0.5).items()}, 0.5, 20),
        Contribution({k: v + 10 for k, v in cut(model, nesting, 0.25).items()}, 0.25, 30),
    ]
    new = average(model, nesting, parts)
    inner = (10 * 1 + 20 * 4 + 30 * 10) / 60  # all three hold it
    middle = (10 * 1 + 20 * 4) / 30  # the half and the full
    moved = np.full((4, 4), 1.0)
    moved[:2, :2] = middle
    moved[:1, :1] = inner
    np.testing.assert_allclose(new["w"], model["w"] + moved, rtol=1e-6)
    np.testing.assert_allclose(new["b"], [inner, middle, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(new["fixed"], np.full(3, 1 + inner), rtol=1e-6)
    assert {array.dtype for array in new.values()} == {np.dtype(np.float32)}


def test_what_nobody_holds_keeps_its_value_bit_by_bit(model: Arrays, nesting: Nesting) -> None:
    part = Contribution({k: v * 2 for k, v in cut(model, nesting, 0.5).items()}, 0.5, 3)
    new = average(model, nesting, [part])
    np.testing.assert_array_equal(new["w"][2:], model["w"][2:])
    np.testing.assert_array_equal(new["w"][:2, :2], model["w"][:2, :2] * 2)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.25, 0.5, 1.0]), st.integers(1, 1000), st.floats(-10, 10)),
        max_size=6,
    )
)
def test_every_entry_is_the_weighted_mean_of_who_holds_it(
    clients: list[tuple[float, int, float]],
) -> None:
    full: Arrays = {"w": np.arange(32.0).reshape(4, 8)}
    parts = [
        Contribution({"w": np.full((round(4 * w), round(8 * w)), value)}, w, n)
        for w, n, value in clients
    ]
    got = average(full, leading, parts)["w"]
    for row in range(4):
        for column in range(8):
            held = [(n, v) for w, n, v in clients if row < 4 * w and column < 8 * w]
            total = sum(n for n, _ in held)
            expected = sum(n * v for n, v in held) / total if held else full["w"][row, column]
            assert got[row, column] == pytest.approx(expected, rel=1e-12, abs=1e-12)


SHAPES = {"w": (2, 2), "b": (2,)}
GOOD = {"w": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"extra": np.zeros(1, np.float32)}, "no parameter 'extra'"),
        ({"w": np.zeros((2, 3), np.float32)}, "shape"),
        ({"w": np.zeros((), np.float32)}, "shape"),
        ({"b": np.array([0, np.nan], np.float32)}, "finite"),
        ({"b": np.array([0, np.inf], np.float32)}, "finite"),
        ({"b": np.zeros(2, np.int64)}, "finite numbers"),
    ],
)
def test_the_guard_refuses(change: Arrays, why: str) -> None:
    check_arrays(GOOD, SHAPES, whole=True)
    for whole in (True, False):
        with pytest.raises(BadUpdateError, match=why):
            check_arrays({**GOOD, **change}, SHAPES, whole=whole)


def test_the_guard_wants_all_arrays_or_some() -> None:
    part = {"b": GOOD["b"]}
    check_arrays(part, SHAPES, whole=False)
    with pytest.raises(BadUpdateError, match="lacks"):
        check_arrays(part, SHAPES, whole=True)
    for whole in (True, False):
        with pytest.raises(BadUpdateError, match="lacks"):
            check_arrays({}, SHAPES, whole=whole)


@pytest.mark.parametrize("examples", [0, -1, 1e12, 0.5, float("nan"), float("inf"), "9", None, [1]])
def test_absurd_examples_are_refused(examples: object) -> None:
    with pytest.raises(BadUpdateError, match="num-examples"):
        check_examples(examples)


def test_examples_are_a_whole_number() -> None:
    assert check_examples(7.0) == 7
    assert check_examples(1_000_000) == 1_000_000


def test_moments_of_bad_sites_are_left_out() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    site = moments([(values, np.ones_like(values))], sensors=("a", "b"), lags=1)
    huge = {**site.arrays(), "yy": np.full((2, 2), 1e308)}
    answers: dict[str, Arrays] = {
        "one": dict(site.arrays()),
        "other": dict(site.arrays()),
        "liar": {**site.arrays(), "n": np.array([5.0])},
        "empty": {},
        "huge": huge,
    }
    total, rows, refused = sum_moments(answers, sensors=("a", "b"), lags=1)
    assert refused.keys() == {"liar", "empty", "huge"}
    assert rows == {"one": 29, "other": 29}
    assert total.n == 58
    np.testing.assert_allclose(total.zz, 2 * site.zz)
