"""The private ring: what goes in comes out, by name, in segments, and no more than its limit."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from aimass_edge.config import HistorySettings
from aimass_edge.history import History, Segment
from aimass_shared.errors import BadTensorError, NotFoundError, StorageFullError
from aimass_shared.windows import Row

SENSORS = ("a", "b", "c")
STEP = 1000


def history(folder: Path, max_rows: int = 100, sensors: Sequence[str] = SENSORS) -> History:
    limits = HistorySettings(max_rows=max_rows)
    return History(folder / "h.db", sensors, STEP, settings=limits)


def row(number: int, mask: Sequence[float] = (1, 1, 1)) -> Row:
    values = np.array([number, number + 0.25, -number], dtype=np.float32)
    held = np.array(mask, dtype=np.float32)
    return Row(number * STEP, values * held, held)


def shapes(segments: Sequence[Segment]) -> list[tuple[int, ...]]:
    return [values.shape for values, _ in segments]


async def test_rows_come_back_in_the_order_of_sensors_that_was_asked(tmp_path: Path) -> None:
    async with history(tmp_path) as kept:
        await kept.append([row(1), row(2, (1, 0, 1)), row(3)])
        (segment,) = await kept.segments(["c", "b"])
    values, mask = segment
    assert values.dtype == mask.dtype == np.float32
    assert values.tolist() == [[-1, 1.25], [-2, 0], [-3, 3.25]]
    assert mask.tolist() == [[1, 1], [1, 0], [1, 1]]


async def test_a_missing_row_splits_and_late_rows_join(tmp_path: Path) -> None:
    async with history(tmp_path) as kept:
        await kept.append([row(number) for number in (1, 2, 5, 6, 7)])
        assert shapes(await kept.segments(SENSORS)) == [(2, 3), (3, 3)]
        await kept.append([row(4), row(3), row(3)])
        assert shapes(await kept.segments(SENSORS)) == [(7, 3)]
        assert kept.count() == 7


async def test_suspect_rows_split_segments_but_stay_recorded(tmp_path: Path) -> None:
    async with history(tmp_path) as kept:
        await kept.append([row(number) for number in range(1, 8)])
        await kept.suspect(4 * STEP)
        await kept.suspect(4 * STEP)
        assert shapes(await kept.segments(SENSORS)) == [(3, 3), (3, 3)]
        assert kept.count() == 7
        assert [one.time_ms for one in await kept.before(6 * STEP, 3)] == [3000, 4000, 5000]
    async with history(tmp_path) as kept:
        assert shapes(await kept.segments(SENSORS)) == [(3, 3), (3, 3)]


async def test_the_first_rows_since_a_time_come_suspect_or_not(tmp_path: Path) -> None:
    async with history(tmp_path) as kept:
        await kept.append([row(number) for number in (1, 2, 3, 5, 6, 7)])
        await kept.suspect(3 * STEP)
        found = await kept.since(["b", "a"], 2 * STEP, 4)
        assert [values[:, 1].tolist() for values, _ in found] == [[2, 3], [5, 6]]
        assert await kept.since(SENSORS, 8 * STEP, 4) == []
        with pytest.raises(NotFoundError, match="'x'"):
            await kept.since(["x"], 0, 4)


async def test_suspects_go_with_the_rows_that_make_room(tmp_path: Path) -> None:
    async with history(tmp_path, max_rows=3) as kept:
        await kept.append([row(1), row(2), row(3)])
        await kept.suspect(1 * STEP)
        await kept.append([row(4)])
        await kept.append([row(5)])
        assert shapes(await kept.segments(SENSORS)) == [(3, 3)]


async def test_an_empty_history_has_no_segments(tmp_path: Path) -> None:
    async with history(tmp_path) as kept:
        assert await kept.segments(SENSORS) == []
        await kept.append([])
        assert kept.count() == 0


async def test_the_ring_keeps_the_newest_and_survives_a_restart(tmp_path: Path) -> None:
    async with history(tmp_path, max_rows=10) as kept:
        await kept.append([row(number) for number in range(25)])
        for number in range(25, 30):
            await kept.append([row(number)])
        assert kept.count() == 10
    async with history(tmp_path, max_rows=10) as again:
        assert again.count() == 10
        ((values, _),) = await again.segments(["a"])
        assert values[:, 0].tolist() == list(range(20, 30))


async def test_wrong_rows_and_unknown_sensors_are_clear_errors(tmp_path: Path) -> None:
    async with history(tmp_path) as kept:
        short = Row(0, np.zeros(2, np.float32), np.zeros(2, np.float32))
        with pytest.raises(BadTensorError, match="3 sensors"):
            await kept.append([row(1), short])
        assert kept.count() == 0
        with pytest.raises(NotFoundError, match="zz"):
            await kept.segments(["a", "zz"])
    with pytest.raises(StorageFullError):
        async with history(tmp_path / "none"):
            pass


async def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    async with history(tmp_path, max_rows=10_000) as kept:
        await kept.append([row(0)])
        await kept._in_thread(lambda: kept._db.execute("pragma max_page_count=3"))
        with pytest.raises(StorageFullError):
            await kept.append([row(number) for number in range(1, 5000)])
        assert kept.count() == 1
        assert shapes(await kept.segments(SENSORS)) == [(1, 3)]


async def fill_one(folder: Path, sensors: Sequence[str]) -> int:
    async with history(folder, sensors=sensors) as kept:
        before = kept.count()
        width = len(sensors)
        await kept.append([Row(0, np.ones(width, np.float32), np.ones(width, np.float32))])
        return before


def test_other_sensors_or_damage_begin_anew_and_delete_nothing(tmp_path: Path) -> None:
    assert asyncio.run(fill_one(tmp_path, SENSORS)) == 0
    assert asyncio.run(fill_one(tmp_path, ("a", "b"))) == 0
    assert (tmp_path / "h.db.before").exists()
    (tmp_path / "h.db").write_bytes(b"damaged" * 1000)
    assert asyncio.run(fill_one(tmp_path, SENSORS)) == 0
    assert (tmp_path / "h.db.before").read_bytes().startswith(b"damaged")


@given(
    numbers=st.lists(st.integers(0, 40), unique=True, min_size=1),
    masks=st.lists(st.tuples(*[st.sampled_from([0.0, 1.0])] * 3), min_size=41, max_size=41),
)
@settings(max_examples=30, deadline=None)
def test_any_rows_in_any_order_come_back(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], masks: list[tuple[float, ...]]
) -> None:
    async def round_trip() -> list[Segment]:
        async with history(tmp_path_factory.mktemp("h")) as kept:
            for start in range(0, len(numbers), 7):
                await kept.append([row(number, masks[number]) for number in numbers[start:][:7]])
            return await kept.segments(SENSORS)

    segments = asyncio.run(round_trip())
    expected = [row(number, masks[number]) for number in sorted(numbers)]
    assert np.array_equal(np.concatenate([v for v, _ in segments]), [r.values for r in expected])
    assert np.array_equal(np.concatenate([m for _, m in segments]), [r.mask for r in expected])
    gaps = np.flatnonzero(np.diff(sorted(numbers)) != 1)
    assert len(segments) == len(gaps) + 1


async def test_a_full_ring_of_52_sensors_is_quick(tmp_path: Path) -> None:
    sensors = [f"s{number}" for number in range(52)]
    ones = np.ones(52, np.float32)
    async with history(tmp_path, 20_000, sensors) as kept:
        await kept.append([Row(number * STEP, ones, ones) for number in range(20_000)])
        began = time.monotonic()
        for number in range(200):
            await kept.append([Row((20_000 + number) * STEP, ones, ones)])
        assert time.monotonic() - began < 2.0
        began = time.monotonic()
        assert shapes(await kept.segments(sensors)) == [(20_000, 52)]
        assert time.monotonic() - began < 2.0


async def test_the_last_rows_before_a_time_come_oldest_first(tmp_path: Path) -> None:
    async with history(tmp_path) as kept:
        assert await kept.before(5 * STEP, 3) == []
        await kept.append([row(number) for number in (1, 2, 3, 6)] + [row(4, (1, 0, 1))])
        found = await kept.before(6 * STEP, 3)
        assert await kept.before(9 * STEP, 0) == []
    assert [one.time_ms // STEP for one in found] == [2, 3, 4]
    assert [one.values.tolist() for one in found] == [[2, 2.25, -2], [3, 3.25, -3], [4, 0, -4]]
    assert [one.mask.tolist() for one in found] == [[1, 1, 1], [1, 1, 1], [1, 0, 1]]
