"""The table for a device: small, without what is beaten, and exactly what was written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared.errors import (
    InvalidSettingError,
    MalformedMessageError,
    UnfitReleaseError,
)
from aimass_shared.planning import Candidate, Device, PlanTable, Profile, pareto, tabled
from aimass_shared.planning.table import decode, encode

ms = st.floats(0, 1e4, allow_nan=False)
costs = st.tuples(ms, st.integers(0, 10**7), ms, st.floats(0, 1), ms)


def profiles(drawn: list[tuple[float, int, float, float, float]]) -> list[Profile]:
    return [
        Profile(
            candidate=Candidate(1.0, "fp32", "split", f"c{number}"),
            edge_ms=edge_ms,
            bytes_up=sent,
            cloud_ms=cloud_ms,
            loss=loss,
            memory_mib=memory,
        )
        for number, (edge_ms, sent, cloud_ms, loss, memory) in enumerate(drawn)
    ]


def beats(one: Profile, other: Profile) -> bool:
    mine = (one.loss, one.edge_ms, one.bytes_up, one.cloud_ms, one.memory_mib)
    theirs = (other.loss, other.edge_ms, other.bytes_up, other.cloud_ms, other.memory_mib)
    return all(a <= b for a, b in zip(mine, theirs, strict=True))


@given(st.lists(costs, min_size=1, max_size=12))
def test_what_is_kept_is_not_beaten_and_what_is_not_kept_is(
    drawn: list[tuple[float, int, float, float, float]],
) -> None:
    everything = profiles(drawn)
    kept = pareto(everything)
    assert kept
    for one in kept:
        assert not any(beats(other, one) for other in kept if other is not one)
    for one in everything:
        assert one in kept or any(beats(other, one) for other in kept)


@given(st.lists(costs, min_size=1, max_size=12))
def test_a_table_is_read_as_it_was_written(
    drawn: list[tuple[float, int, float, float, float]],
) -> None:
    table = tabled("m", profiles(drawn), Device(memory_mib=1e9))
    assert decode(encode(table)) == table


def test_forty_plans_are_a_few_kilobytes() -> None:
    drawn = [(float(number), 40 - number, 1.5, 0.01, 30.0) for number in range(40)]
    table = tabled("m", profiles(drawn), Device())
    assert len(table.profiles) == 40
    assert len(encode(table)) < 10_000


def test_a_table_that_no_device_takes_is_not_written() -> None:
    drawn = [(float(number), 400 - number, 1.5, 0.01, 30.0) for number in range(400)]
    with pytest.raises(InvalidSettingError, match=r"400 plans has \d+ bytes, the limit is 65536"):
        encode(tabled("m", profiles(drawn), Device()))


def test_a_device_gets_only_what_it_can_hold() -> None:
    found = profiles([(1, 1, 1, 0, 100), (2, 0, 0, 0, 10)])
    assert len(tabled("m", found, Device(memory_mib=50)).profiles) == 1
    with pytest.raises(UnfitReleaseError, match="needs 10 MiB, the device gives 5"):
        tabled("m", found, Device(memory_mib=5))


def test_foreign_bytes_are_refused() -> None:
    with pytest.raises(MalformedMessageError, match="does not decode"):
        decode(b"[]")
    with pytest.raises(MalformedMessageError, match="limit"):
        decode(b" " * (1 << 17))
    with pytest.raises(MalformedMessageError, match="schema 9"):
        decode(encode(PlanTable(model="m", profiles=(), schema=9)))


def test_what_waits_for_nobody_here_is_not_beaten_by_what_does() -> None:
    away = Profile(candidate=Candidate(1.0, "fp32", "cloud"), edge_ms=1, bytes_up=9, cloud_ms=9)
    here = Profile(candidate=Candidate(1.0, "fp32", "edge"), edge_ms=1)
    half = Profile(candidate=Candidate(1.0, "fp32", "split", "c1"), edge_ms=1, bytes_up=9)
    assert pareto([away, here]) == [away, here]
    assert pareto([half, here]) == [here]
