"""Recordings with conditions: every layout, parts that share no row, errors that say where."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aimass_cloud.datasets.conditions import Conditions, Segment, cut, open  # noqa: A004
from aimass_shared.errors import DataError


def write(path: Path, rows: int, first: int = 0, **columns: Sequence[object]) -> Path:
    """A table whose sensor `flow` numbers its rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"flow": list(range(first, first + rows)), "level": [1.5] * rows, **columns}
    lines = [
        ",".join(table),
        *(",".join(map(str, row)) for row in zip(*table.values(), strict=True)),
    ]
    path.write_text("\n".join(lines))
    return path


def told(data: Conditions) -> list[tuple[str, str, int]]:
    return [(one.run, one.condition, len(one.rows)) for one in data.segments]


def long(run: str, condition: str, rows: int) -> Segment:
    return Segment(run, condition, np.arange(rows, dtype=np.float32)[:, None])


def test_a_table_says_the_condition_of_each_row(tmp_path: Path) -> None:
    states = ["ok"] * 3 + ["worn"] * 2 + [""] + ["ok"]
    times = [f"2026-01-01 00:00:{second:02d}" for second in range(7)]
    data = open(str(write(tmp_path / "a.csv", 7, time=times, Condition=states)))
    assert (data.sensors, data.names) == (("flow", "level"), ("ok", "worn"))
    assert told(data) == [("a", "ok", 3), ("a", "worn", 2), ("a", "ok", 1)]


def test_numbers_are_conditions_too_and_runs_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {"x": [1.0, None, 3, 4], "label": [10.0, 10, 2, 2], "run": [1, 1, 1, 2]}
    pq.write_table(pa.table(columns), path)
    data = open(str(path))
    assert data.names == ("2", "10")
    assert told(data) == [("a/1", "10", 2), ("a/1", "2", 1), ("a/2", "2", 1)]
    assert np.isnan(data.segments[0].rows[1, 0])


def test_folders_name_conditions_and_files_are_runs(tmp_path: Path) -> None:
    for condition in ("normal", "leak"):
        for run in (1, 2):
            write(tmp_path / "train" / condition / f"{run}.csv", 5)
    write(tmp_path / "test" / "leak" / "9.csv", 4)
    data = open(str(tmp_path))
    assert ("normal/2", "normal", 5) in told(data)
    assert [one.run for one in data.test] == ["leak/9"]


def test_parts_are_in_time_order_and_share_no_row() -> None:
    data = Conditions(("x",), (long("a", "ok", 100), long("a", "worn", 50), long("b", "ok", 12)))
    parts = cut(data, 5)
    ends = [[(one.run, one.condition, len(one.rows)) for one in part] for part in parts]
    assert ends[0] == [("a", "ok", 70), ("a", "worn", 35), ("b", "ok", 12)]
    assert ends[1:] == [[("a", "ok", 10), ("a", "worn", 5)], [("a", "ok", 20), ("a", "worn", 10)]]
    assert [float(part[0].rows[0, 0]) for part in parts] == [0.0, 70.0, 80.0]


def test_short_segments_stay_whole() -> None:
    segments = (long("a", "ok", 100), *(long(run, "worn", 12) for run in "abcd"))
    parts = cut(Conditions(("x",), segments), 8)
    worn = [[one.run for one in part if one.condition == "worn"] for part in parts]
    assert worn == [["a", "b"], ["c"], ["d"]]


def test_whole_runs_are_the_test_where_there_are_enough() -> None:
    segments = [long(f"{kind}{run}", kind, 20) for kind in ("ok", "worn") for run in range(6)]
    data = Conditions(("x",), tuple(segments))
    parts = cut(data, 5)
    runs = [{one.run for one in part} for part in parts]
    assert [len(one) for one in runs] == [8, 2, 2]
    assert not runs[0] & runs[1] | runs[1] & runs[2] | runs[0] & runs[2]
    assert {one.condition for one in parts.test} == {"ok", "worn"}
    assert cut(data, 5, seed=1).test != parts.test
    by_time = cut(data, 5, way="time")
    assert len({one.run for one in by_time.test}) == 12


def test_a_test_of_ones_own_is_the_test() -> None:
    segments = (long("a", "ok", 40), long("b", "worn", 40))
    parts = cut(Conditions(("x",), segments, (long("c", "ok", 9),)), 5)
    assert [one.run for one in parts.test] == ["c"]
    assert sum(len(one.rows) for one in (*parts.train, *parts.held_back)) == 80


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"a\.csv does not say the condition: add a column 'condition'"),
        ({"condition": ["ok"] * 6}, "1 condition; at least 2"),
        ({"condition": ["ok", "no"] * 3, "word": ["x"] * 6}, r"column 'word', row 1: 'x'"),
        ({"condition": ["ok", "no"] * 3, "gone": [""] * 6}, "column 'gone' is empty"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, columns: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open(str(write(tmp_path / "a.csv", 6, 0, **columns)))


def test_a_column_that_a_later_file_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path / "ok" / "a.csv", 4, speed=[1] * 4)
    write(tmp_path / "worn" / "b.csv", 4)
    with pytest.raises(DataError, match=r"b\.csv has no column 'speed'"):
        open(str(tmp_path))


def test_a_condition_of_the_test_alone_is_refused(tmp_path: Path) -> None:
    for name in ("train/ok", "train/worn", "test/lost"):
        write(tmp_path / name / "a.csv", 4)
    with pytest.raises(DataError, match="condition 'lost', which has no training rows"):
        open(str(tmp_path))


def test_a_condition_with_too_few_rows_is_named() -> None:
    data = Conditions(("x",), (long("a", "ok", 100), long("b", "worn", 12)))
    with pytest.raises(DataError, match="'worn' has no window of 8 rows for the part held-back"):
        cut(data, 8)
