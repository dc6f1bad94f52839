"""A plant's recordings in every documented layout, and what is refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aimass_cloud.datasets import series, shards
from aimass_cloud.datasets.runs import Run, Split
from aimass_shared.errors import DataError

HEADER = "time,flow,level"


def lines(count: int, first: int = 0, extra: Sequence[object] = ()) -> list[str]:
    """Rows whose first sensor tells their number, one each ten seconds."""
    more = [f",{value}" for value in extra] or [""] * count
    return [
        f"2026-01-01 00:{row // 6:02}:{row % 6 * 10:02},{row},0.5{more[row - first]}"
        for row in range(first, first + count)
    ]


def written(file: Path, rows: Sequence[str], header: str = HEADER) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([header, *rows, ""]))
    return file


def spans(runs: Sequence[Run]) -> list[tuple[str, int, int]]:
    """Name, first and last row of each run."""
    return [(run.name, int(run.rows[0, 0]), int(run.rows[-1, 0])) for run in runs]


def test_one_file_is_cut_in_time(tmp_path: Path) -> None:
    file = written(tmp_path / "plant.csv", lines(100))
    data = series.open(str(file))
    assert data.names == ("flow", "level")
    assert {(one.unit, one.kind, one.entity) for one in data.sensors} == {("", "continuous", "")}
    assert (data.step_ms, data.window, data.horizon, data.faults) == (10_000, 0, 0, ())
    assert (data.graph, data.shards) == (None, None)
    assert spans(data.train) == [("plant", 0, 71)]
    assert spans(data.calibration) == [("plant", 72, 79)]
    assert spans(data.test) == [("plant", 80, 99)]
    assert data.test[0].labels is None
    assert data.train[0].rows.dtype == np.float32
    halves = series.open(str(file), split=Split(0.5, 0.25, 0.25))
    assert spans(halves.calibration) == [("plant", 50, 74)]


def test_parts_with_their_own_files(tmp_path: Path) -> None:
    written(tmp_path / "train.csv", lines(90))
    labels = [0] * 5 + [1] * 5
    written(tmp_path / "test.csv", lines(10, 200, labels), f"{HEADER},Anomaly")
    data = series.open(str(tmp_path))
    assert spans(data.train) == [("train", 0, 80)]
    assert spans(data.calibration) == [("train", 81, 89)]
    assert spans(data.test) == [("test", 200, 209)]
    assert data.test[0].labels is not None
    assert data.test[0].labels.tolist() == [bool(label) for label in labels]
    # Columns are found by name, and others than those of the training rows are left out.
    calibration = [f"{row},1,0.5,7" for row in range(300, 305)]
    written(tmp_path / "calibration.csv", calibration, "flow,level,more,changepoint")
    data = series.open(str(tmp_path))
    assert spans(data.train) == [("train", 0, 89)]
    assert spans(data.calibration) == [("calibration", 300, 304)]


def test_a_train_folder_is_one_series(tmp_path: Path) -> None:
    written(tmp_path / "train" / "2.csv", lines(40, 60))
    written(tmp_path / "train" / "1.csv", lines(60))
    assert spans(series.open(str(tmp_path)).train) == [("train", 0, 71)]


def test_each_file_of_a_bare_folder_is_an_experiment_with_a_lead(tmp_path: Path) -> None:
    for number in (2, 10):
        labels = [*[0] * 50, *[1] * 20, *[0] * 30]
        rows = lines(100, 0, labels)
        semicolons = [row.replace(",", ";") for row in rows]
        written(tmp_path / f"{number}.csv", semicolons, "datetime;flow;level;anomaly")
    data = series.open(str(tmp_path), lead_rows=40)
    assert spans(data.train) == [("2", 0, 31), ("10", 0, 31)]
    assert spans(data.calibration) == [("2", 32, 39), ("10", 32, 39)]
    assert spans(data.test) == [("2", 40, 99), ("10", 40, 99)]
    # Without a lead, the split is of the rows before the first fault.
    data = series.open(str(tmp_path))
    assert spans(data.train)[0] == ("2", 0, 35)
    assert spans(data.calibration)[0] == ("2", 36, 39)
    assert spans(data.test)[0] == ("2", 40, 99)
    assert data.test[0].labels is not None
    assert data.test[0].labels.argmax() == 10


def test_sites_are_runs_of_their_own(tmp_path: Path) -> None:
    by_file, by_column = tmp_path / "a", tmp_path / "b"
    written(by_file / "sites" / "north.csv", lines(50))
    written(by_file / "sites" / "south.csv", lines(100))
    mixed = [row for pair in zip(lines(50), lines(50, 100), strict=True) for row in pair]
    sites = [f"{row},{name}" for row, name in zip(mixed, ["north", "south"] * 50, strict=True)]
    written(by_column / "train.csv", sites, f"{HEADER},site")
    assert spans(series.open(str(by_file)).train) == [("north", 0, 35), ("south", 0, 71)]
    data = series.open(str(by_column))
    assert spans(data.train) == [("north", 0, 35), ("south", 100, 135)]
    assert data.step_ms == 10_000


def test_faults_are_marked_by_a_column_or_a_row(tmp_path: Path) -> None:
    written(tmp_path / "train.csv", lines(50))
    written(tmp_path / "faults" / "leak.csv", lines(10))
    written(tmp_path / "faults" / "stuck.csv", lines(4, 0, [0, 0, 0, 1]), f"{HEADER},label")
    (tmp_path / "meta.json").write_text('{"fault_start": 7, "window": 8, "step_ms": 5}')
    data = series.open(str(tmp_path))
    assert [run.name for run in data.faults] == ["leak", "stuck"]
    first = [int(run.labels.argmax()) for run in data.faults if run.labels is not None]
    assert first == [7, 3]
    assert (data.window, data.step_ms) == (8, 5)


def test_sensors_and_graph_are_described_beside_the_data(tmp_path: Path) -> None:
    written(tmp_path / "train.csv", [f"{row},1,2" for row in range(50)], "7,08,pump")
    written(
        tmp_path / "sensors.csv",
        ["pump,rpm,actuator,Feed pump,line 1", "08,,vibration,,"],
        "name,unit,kind,label,entity",
    )
    written(tmp_path / "graph.csv", ["7,pump,0.5", "pump,08,2"], "source,target,weight")
    data = series.open(str(tmp_path))
    assert data.names == ("7", "08", "pump")
    assert [one.kind for one in data.sensors] == ["continuous", "vibration", "actuator"]
    assert (data.sensors[2].unit, data.sensors[2].entity) == ("rpm", "line 1")
    np.testing.assert_array_equal(data.graph, [[0, 0, 0.5], [0, 0, 0], [0, 2, 0]])


@pytest.mark.parametrize(
    ("times", "step_ms"),
    [
        (["0.0", "0.25", "0.5"], 250),
        (["1700000000", "1700000060", ""], 60_000),
        (["1700000000000", "1700000000020", "1700000000040"], 20),
        (["10:00:00", "10:00:05", "10:00:10"], 5000),
        (["2026-01-01", "2026-01-02", "2026-01-03"], 86_400_000),
        (["5", "5", "5"], series.DEFAULT_STEP_MS),
    ],
)
def test_the_time_between_rows_is_read(tmp_path: Path, times: list[str], step_ms: int) -> None:
    written(tmp_path / "x.csv", [f"{time},1" for time in times], "Time,a")
    assert series.open(str(tmp_path / "x.csv")).step_ms == step_ms


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("level,flow", ["0,3", "2,0"]),
        ("", ["0,2", "3,0"]),
        (",flow,level", ["flow,0,2", "level,3,0"]),
    ],
)
def test_a_graph_may_be_a_matrix(tmp_path: Path, header: str, rows: list[str]) -> None:
    train = written(tmp_path / "plant.csv", lines(50))
    graph = tmp_path / "graph.csv"
    graph.write_text("\n".join([header, *rows] if header else rows))
    data = series.open(str(train), graph=str(graph))
    np.testing.assert_array_equal(data.graph, [[0, 2], [3, 0]])


def test_training_rows_over_the_limit_are_streamed(tmp_path: Path) -> None:
    rows = np.arange(2000, dtype=np.float32).repeat(2).reshape(-1, 2)
    shards.write(str(tmp_path / "train"), rows, ["flow", "level"], shard_rows=300)
    small = series.open(str(tmp_path))
    assert small.shards is None
    large = series.open(str(tmp_path), memory_bytes=15_999)
    assert large.train == ()
    assert large.shards is not None
    (part,) = large.shards.stretches
    assert (part.first, part.stop, small.train[0].rows[-1, 0]) == (0, 1440, 1439)
    windows = np.concatenate(list(large.shards.windows(9, stride=1, batch=1, seed=0)))
    assert windows.max() == 1439
    for streamed, loaded in ((large.calibration, small.calibration), (large.test, small.test)):
        np.testing.assert_array_equal(streamed[0].rows, loaded[0].rows[: len(streamed[0].rows)])
        assert streamed[0].rows.nbytes <= 15_999 // 4


def test_a_bare_folder_of_parquet_is_one_series_with_times(tmp_path: Path) -> None:
    for number in range(2):
        times = pa.array(range(number * 50, number * 50 + 50), pa.timestamp("s"))
        table = {"Timestamp": times, "flow": np.arange(50.0) + number * 50}
        pq.write_table(pa.table(table), tmp_path / f"part-{number}.parquet")
    written(tmp_path / "sensors.csv", ["flow,m3/h"], "name,unit")
    for limit in (series.MEMORY_BYTES, 100):
        data = series.open(str(tmp_path), memory_bytes=limit)
        assert (data.names, data.step_ms, data.sensors[0].unit) == (("flow",), 1000, "m3/h")
    assert data.shards is not None
    assert data.shards.rows == 72


GOOD = {"train.csv": "a\n1\n2\n3\n"}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train.csv": "a,b\n1,on\n"}, r"train\.csv, column 'b', row 1: 'on' is no number"),
        ({"train.csv": "time,b\nlater,1\nsoon,1\n"}, "'time' is no time"),
        ({"train.csv": "a,b\n1,\n2,\n"}, "'b' is empty"),
        ({"train.csv": "time,site\n1,a\n"}, "no column of a sensor"),
        ({"train.csv": "a,b\n"}, "no row of normal operation"),
        ({"test.csv": "a\n1\n"}, "has test, but neither train nor sites"),
        ({"train.csv": "a,label\n1,0\n1,1\n", "test.csv": "a\n1\n"}, "row 2: a training row is"),
        ({**GOOD, "test.csv": "b\n1\n"}, r"test\.csv has no column 'a'"),
        ({**GOOD, "test.csv": "a,label\n1,3\n"}, r"labels are 0 .* or 1"),
        ({**GOOD, "sensors.csv": "name\nb\n"}, "the data have no column 'b'"),
        ({**GOOD, "sensors.csv": "unit\nb\n"}, "no column 'name'"),
        ({**GOOD, "graph.csv": "source,target\na,b\n"}, "row 1: 'b' is no sensor"),
        ({**GOOD, "graph.csv": "a,b\n1,0\n0,1\n"}, "no graph of these 1 sensors"),
        ({**GOOD, "meta.json": '{"steps": 1}'}, r"unknown field `steps`.*step_ms"),
        ({**GOOD, "meta.json": '{"window": -1}'}, "window"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, files: Mapping[str, str], words: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        series.open(str(tmp_path))


def test_streamed_training_rows_have_no_labels(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.0] * 9, "label": [0] * 9}), tmp_path / "1.parquet")
    with pytest.raises(DataError, match="remove the column 'label'"):
        series.open(str(tmp_path), memory_bytes=9)
