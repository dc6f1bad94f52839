"""Streaming gives the windows of the whole series, in an order that can be taken up anywhere."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from aimass_cloud.datasets import shards
from aimass_cloud.datasets.shards import Shards
from aimass_shared.errors import ConflictError, DataError

Rows = NDArray[np.float32]
NAMES = ("a", "b", "c")
LENGTH, STRIDE, BATCH = 20, 3, 16


def ramp(count: int, width: int = 3) -> Rows:
    """Rows that tell their own number."""
    rows = np.arange(count)[:, None] + np.arange(width) / 10
    return rows.astype(np.float32)


@pytest.fixture
def series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    """700 rows in shards of 150, row groups of 64, blocks of at least 100, two open at once."""
    monkeypatch.setattr(shards, "BLOCK_ROWS", 64)
    shards.write(str(tmp_path / "s"), ramp(700), NAMES, shard_rows=150)
    monkeypatch.setattr(shards, "BLOCK_ROWS", 100)
    monkeypatch.setattr(shards, "MOST_OPEN", 2)
    return Shards.open(str(tmp_path / "s"))


def batches(series: Shards, **options: int) -> list[Rows]:
    given = {"stride": STRIDE, "batch": BATCH, "seed": 5, **options}
    return list(series.windows(LENGTH, **given))


def test_shards_are_written_as_asked_and_told(series: Shards) -> None:
    assert series.names == NAMES
    assert series.shard_rows == (150, 150, 150, 150, 100)
    assert (series.rows, len(series.files), series.files[0].name) == (700, 5, "part-00000.parquet")
    assert np.diff(series.edges).tolist() == [*([64, 64, 22] * 4), 64, 36]
    assert list(series.head()) == list(NAMES)
    with pytest.raises(ConflictError, match="holds Parquet files"):
        shards.write(series.files[0].shown.rsplit("/", 1)[0], ramp(5), NAMES, shard_rows=5)


@pytest.mark.parametrize(("start", "stop"), [(0, None), (63, None), (64, 151), (149, 150)])
def test_rows_come_in_order_from_any_row(series: Shards, start: int, stop: int | None) -> None:
    blocks = list(series.rows_from(start, 90, stop=stop))
    assert {len(block) for block in blocks[:-1]} <= {90}
    np.testing.assert_array_equal(np.concatenate(blocks), ramp(700)[start:stop])


def test_an_epoch_has_every_window_once_also_across_files(series: Shards) -> None:
    total = series.order(LENGTH, STRIDE).total
    assert total == (700 - LENGTH) // STRIDE + 1
    windows = np.concatenate(batches(series))
    assert len(windows) == total // BATCH * BATCH
    firsts = windows[:, 0, 0].astype(int)
    assert len(set(firsts.tolist())) == len(firsts)
    assert (firsts % STRIDE == 0).all()
    whole = ramp(700)
    expected = np.stack([whole[first : first + LENGTH] for first in firsts])
    np.testing.assert_array_equal(windows, expected)
    assert not (np.diff(firsts) > 0).all()


def test_a_batch_of_another_size_is_the_same_sequence(series: Shards) -> None:
    one = np.concatenate(batches(series, batch=1))
    many = np.concatenate(batches(series, batch=50))
    np.testing.assert_array_equal(one[: len(many)], many)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_see_the_batches_of_one(series: Shards, world: int) -> None:
    whole = batches(series)
    parts = [batches(series, rank=rank, world=world) for rank in range(world)]
    for rank, part in enumerate(parts):
        assert len(part) == len(whole)
        for mine, all_of in zip(part, whole, strict=True):
            np.testing.assert_array_equal(mine, all_of[rank::world])


def test_a_run_goes_on_where_it_was(series: Shards) -> None:
    whole = batches(series, epoch=1)
    for start in (1, 9):
        later = batches(series, epoch=1, start=start)
        assert len(later) == len(whole) - start
        for before, after in zip(whole[start:], later, strict=True):
            np.testing.assert_array_equal(before, after)


def test_what_was_taken_is_not_read_again(series: Shards) -> None:
    start = len(batches(series)) - 1
    (last,) = batches(series, start=start)
    order, ends = series.order(LENGTH, STRIDE), np.cumsum(series.shard_rows)
    needed = {
        int(np.searchsorted(ends, row, "right"))
        for blocks, _ in order.rounds(5, 0, start * BATCH)
        for block in blocks
        for row in range(order.bounds[block], min(order.bounds[block + 1] + LENGTH, 700))
    }
    others = [file for number, file in enumerate(series.files) if number not in needed]
    assert others
    for file in others:
        Path(file.path).unlink()
    np.testing.assert_array_equal(batches(series, start=start)[0], last)


def test_epochs_and_seeds_differ(series: Shards) -> None:
    first = batches(series)[0]
    assert not np.array_equal(first, batches(series, epoch=1)[0])
    assert not np.array_equal(first, batches(series, seed=6)[0])


def peak(series: Shards) -> int:
    """Bytes of numpy and Python at most while an epoch is streamed."""
    tracemalloc.start()
    try:
        for _ in series.windows(40, stride=20, batch=8, seed=1):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_depends_on_open_blocks_not_on_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BLOCK_ROWS", 1000)
    monkeypatch.setattr(shards, "MOST_OPEN", 3)
    peaks = []
    for count in (6_000, 60_000):
        folder = str(tmp_path / str(count))
        shards.write(folder, ramp(count, 50), [f"s{i}" for i in range(50)], shard_rows=5_000)
        peaks.append(peak(Shards.open(folder)))
    block = 1040 * 50 * 4
    assert 3 * block < peaks[0] < 6 * block
    assert peaks[1] < 1.1 * peaks[0]


def test_missing_values_stay_missing_and_types_are_mixed(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    one = {
        "time": pa.array(range(3), pa.timestamp("s")),
        "a": pa.array([1, None, 3], pa.int16()),
        "b": pa.array([True, False, None]),
        "Label": [0, 0, 0],
    }
    other = {"b": [0.5, float("inf"), float("nan")], "Label": [0, 0, 0], "a": [4.0, 5.0, None]}
    pq.write_table(pa.table(one), tmp_path / "s" / "1.parquet")
    pq.write_table(
        pa.table({**other, "time": pa.array(range(3), pa.timestamp("ms"))}),
        tmp_path / "s" / "2.parquet",
    )
    series = Shards.open(str(tmp_path / "s"))
    assert (series.names, series.others) == (("a", "b"), ("time", "Label"))
    (rows,) = series.rows_from(0, 9)
    nan = np.nan
    expected = [[1, 1], [nan, 0], [3, nan], [4, 0.5], [5, nan], [nan, nan]]
    np.testing.assert_array_equal(rows, np.array(expected, np.float32))


@pytest.mark.parametrize("as_category", [False, True])
def test_no_window_reaches_from_one_site_into_another(tmp_path: Path, *, as_category: bool) -> None:
    (tmp_path / "s").mkdir()
    sites = np.repeat(["north", "south", "east"], [70, 50, 5])
    for number, part in enumerate(np.split(np.arange(125), [40, 80])):
        column = pa.array(sites[part])
        site = column.dictionary_encode() if as_category else column
        table = pa.table({"site": site, "a": part.astype(float)})
        pq.write_table(table, tmp_path / "s" / f"{number}.parquet", row_group_size=16)
    series = Shards.open(str(tmp_path / "s"))
    assert [(one.site, one.rows) for one in series.stretches] == [
        ("north", 70),
        ("south", 50),
        ("east", 5),
    ]
    windows = np.concatenate(list(series.windows(10, stride=1, batch=2, seed=0)))[:, :, 0]
    assert len(windows) == 61 + 41
    ends = windows[:, [0, -1]].astype(int)
    assert (sites[ends[:, 0]] == sites[ends[:, 1]]).all()


def test_what_cannot_be_streamed_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s").mkdir()
    pq.write_table(pa.table({"a": [1.0]}), tmp_path / "s" / "1.parquet")
    with pytest.raises(DataError, match=r"no window of 2 rows fits.*has 1 rows"):
        next(Shards.open(str(tmp_path / "s")).windows(2, stride=1, batch=1, seed=0))
    pq.write_table(pa.table({"b": [1.0]}), tmp_path / "s" / "2.parquet")
    with pytest.raises(DataError, match=r"2\.parquet.*no column 'a'"):
        Shards.open(str(tmp_path / "s"))
    pq.write_table(pa.table({"a": ["on"]}), tmp_path / "s" / "2.parquet")
    with pytest.raises(DataError, match=r"2\.parquet, column 'a' holds no numbers \(string\)"):
        Shards.open(str(tmp_path / "s"))
    monkeypatch.setattr(shards, "MOST_BLOCK_BYTES", 3)
    with pytest.raises(DataError, match="row group has 1 rows"):
        Shards.open(str(tmp_path / "s" / "1.parquet"))
    (tmp_path / "s" / "3.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"3\.csv is no Parquet file"):
        Shards.open(str(tmp_path / "s" / "3.csv"))
