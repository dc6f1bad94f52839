"""What a release tells of its fleet: every number comes back, and nothing else is taken for it."""

import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimass_shared.errors import BadUpdateError
from aimass_shared.fleet import MAX_BYTES, Fleet, pack, unpack
from aimass_shared.moments import Moments, moments
from aimass_shared.updates import Meta, decode, encode
from aimass_shared.var import centred, shrunk


def _moments(seed: int, sensors: int, lags: int) -> Moments:
    random = np.random.default_rng(seed)
    level, spread = random.normal(0, 50, sensors), random.uniform(0.1, 9, sensors)
    rows: NDArray[np.float32] = random.normal(level, spread, (80, sensors)).astype(np.float32)
    names = tuple(f"s{number}" for number in range(sensors))
    return moments([(rows, np.ones_like(rows))], sensors=names, lags=lags)


SITE = _moments(1, 3, 3)
RAW = pack(Fleet(centred(SITE), 300.0, 20.0))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.integers(1, 4),
    st.one_of(st.floats(0, 1e9), st.just(math.inf)),
)
def test_the_same_numbers_come_back(seed: int, sensors: int, lags: int, weight: float) -> None:
    site = _moments(seed, sensors, lags)
    fleet = Fleet(centred(site), weight, 20.0)
    raw = pack(fleet)
    found = unpack(raw, site.sensors)
    assert found.weight == weight
    for name, array in fleet.moments.arrays().items():
        assert np.array_equal(found.moments.arrays()[name], array), name
    assert pack(found) == raw
    ours, theirs = shrunk(site, fleet.moments, weight, ridge=20.0), found.shrunk(site)
    assert np.array_equal(ours.coefficients, theirs.coefficients)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_a_changed_byte_is_an_error_of_ours_or_another_fleet(place: int, change: int) -> None:
    damaged = bytearray(RAW)
    damaged[place] ^= change
    with suppress(BadUpdateError):
        assert unpack(bytes(damaged), SITE.sensors).moments.sensors == SITE.sensors


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"schema": 2}, "schema 2"),
        ({"sensors": ["s0", "s2", "s1"]}, "other sensors"),
        ({"lags": 0}, "lags"),
        ({"lags": "3"}, "lags"),
        ({"lags": 2}, "triangle"),
        ({"weight": -1.0}, "weight"),
        ({"weight": "much"}, "weight"),
        ({"ridge": None}, "ridge"),
    ],
)
def test_what_it_says_of_itself_is_checked(meta: Meta, said: str) -> None:
    update = decode(RAW)
    raw = encode(update.arrays, {**update.meta, **meta})
    with pytest.raises(BadUpdateError, match=said):
        unpack(raw, SITE.sensors)


def test_a_fleet_of_too_many_sensors_ships_nowhere() -> None:
    names = tuple(f"s{number}" for number in range(400))
    with pytest.raises(BadUpdateError, match="the limit is"):
        pack(Fleet(Moments.empty(names, 3), 300.0, 20.0))
    assert len(pack(Fleet(Moments.empty(names[:350], 3), 300.0, 20.0))) < MAX_BYTES
