"""Tables are read as people and programs write them, and what is wrong is named with its place."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_cloud.datasets import tables
from aimass_cloud.datasets.tables import Form, form_of, read
from aimass_shared.errors import DataError


def written(folder: Path, name: str, content: str | bytes) -> str:
    file = folder / name
    raw = content.encode() if isinstance(content, str) else content
    file.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return str(file)


@pytest.mark.parametrize(
    ("lines", "form"),
    [
        (["a,b", "1,2"], Form(",", header=True)),
        (["a;b", "1,5;2"], Form(";", header=True, decimal=",")),
        (["time;b", "2026-01-02 03:04:05;2.5"], Form(";", header=True)),
        (["a\tb", "It is, so to say; good\t2"], Form("\t", header=True)),
        (["0.5,1.5", "2,3"], Form(",", header=False)),
        (["  1.5e+00   2.5e+00 ", "1 2"], Form(" ", header=False)),
        (["user item", "1 2"], Form(" ", header=True)),
        (["773869,767541", "64.375,67.5"], Form(",", header=True)),
        (["1,0", "0.5,1"], Form(",", header=False)),
        (["1,1", "0.5,0.25"], Form(",", header=False)),
        (["1 6393", "1 7"], Form(" ", header=False)),
        (["value", "1"], Form(",", header=True)),
        (["one sentence of some words", "another one"], Form(",", header=True)),
        (['"a, b",c', '"x, y",1'], Form(",", header=True)),
        (["1,,nan", "2,3,4"], Form(",", header=False)),
    ],
)
def test_the_form_of_a_text_is_found(lines: list[str], form: Form) -> None:
    assert form_of(lines) == form


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.txt", "x.dat.gz"])
def test_columns_keep_their_order_and_kind(tmp_path: Path, name: str) -> None:
    text = "time,b,a,note\n2026-01-02 03:04:05,1,0.5,on\n2026-01-02 03:04:06,,nan,\n"
    table = read(written(tmp_path, name, text))
    assert list(table) == ["time", "b", "a", "note"]
    assert table["time"].dtype.kind == "M"
    assert table["note"].tolist() == ["on", ""]
    rows = tables.numbers(table, ["b", "a"], name)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, [[1, 0.5], [np.nan, np.nan]])


@pytest.mark.parametrize(
    "text", ["2026/1/2 3:04", "02.01.2026 03:04:00", "2026-01-02T03:04:00Z", "2026-01-02 03:04"]
)
def test_usual_times_are_understood(tmp_path: Path, text: str) -> None:
    table = read(written(tmp_path, "x.csv", f"date;a\n{text};1\n"))
    assert table["date"].astype("M8[m]").tolist()[0].isoformat() == "2026-01-02T03:04:00"


def test_white_space_and_windows_lines_and_latin_letters(tmp_path: Path) -> None:
    table = read(written(tmp_path, "x.dat", "   1.5e0   2\r\n\r\n 3   4 \r\n"))
    assert {name: column.tolist() for name, column in table.items()} == {
        "c0": [1.5, 3],
        "c1": [2, 4],
    }
    assert list(read(written(tmp_path, "y.csv", "T in °C,p\n1,2\n".encode("latin-1")))) == [
        "T in °C",
        "p",
    ]
    assert list(read(written(tmp_path, "z.csv", "\ufeffa, b\n 1, 2\n"))) == ["a", "b"]


def test_text_columns_stay_text(tmp_path: Path) -> None:
    path = written(tmp_path, "x.tsv", 'a\tb\n007\t"so\n1\t2\n')
    table = read(path, text=("a", "b", "c"))
    assert table["a"].tolist() == ["007", "1"]
    assert table["b"].tolist() == ['"so', "2"]


def test_what_data_frames_add_is_no_data(tmp_path: Path) -> None:
    assert list(read(written(tmp_path, "x.csv", ",a\n0,5\n1,6\n"))) == ["a"]
    table = read(written(tmp_path, "y.csv", ",a\n2026-01-02,5\n2026-01-03,6\n2026-01-04,7\n"))
    assert list(table) == ["time", "a"]


def test_parquet_of_many_types(tmp_path: Path) -> None:
    columns = {
        "int": pa.array([1, None], pa.int32()),
        "bool": pa.array([True, None]),
        "none": pa.nulls(2),
        "half": pa.array(np.array([1, 2], np.float16)),
        "word": pa.array(["on", None]).dictionary_encode(),
        "clock": pa.array([1, None], pa.time64("us")),
        "time": pa.array([0, 1], pa.timestamp("ns", "UTC")),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    table = read(str(tmp_path / "x.parquet"))
    assert [column.dtype.kind for column in table.values()] == list("ffffOmM")
    assert table["word"].tolist() == ["on", ""]
    np.testing.assert_array_equal(table["int"], [1, np.nan])
    np.testing.assert_array_equal(table["bool"], [1, np.nan])
    assert np.isnat(table["clock"]).tolist() == [False, True]


def test_a_folder_is_joined_in_name_order_by_number(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        written(tmp_path, f"part-{number}.csv", f"a,b\n{number},0\n")
    written(tmp_path, "README.md", "not data")
    written(tmp_path, ".hidden.csv", "z\n1\n")
    pq.write_table(pa.table({"b": [0.5], "a": [11]}), tmp_path / "part-11.parquet")
    assert read(str(tmp_path))["a"].tolist() == [1, 9, 10, 11]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", "a,b\n\n1,2\n\n3\n", ("line 5", "1 columns where 2")),
        ("x.csv", "a,a\n1,2\n", ("two columns 'a'",)),
        ("x.csv", "\n", ("empty",)),
        ("x.csv", ",a\n0.5,1\n", ("no name",)),
        ("x.md", "a\n1\n", ("no table that is known",)),
        ("x.parquet", "a\n1\n", ("damaged",)),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, name: str, content: str, words: tuple[str, ...]
) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert path in caught.value.detail
    for word in words:
        assert word in caught.value.detail


def test_files_that_are_not_there_or_broken(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        read(str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match="holds no table"):
        read(str(tmp_path))
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n" * 99)[:-9])
    with pytest.raises(DataError, match="does not unpack"):
        read(str(tmp_path / "x.csv.gz"))
    pq.write_table(pa.table({"a": [[1, 2]]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="'a' is nested"):
        read(str(tmp_path / "x.parquet"))


def test_folders_of_different_columns_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "1.csv", "a,b\n1,2\n")
    written(tmp_path, "2.csv", "a,c\n1,2\n")
    with pytest.raises(DataError, match=r"2\.csv and .*1\.csv differ: .*'b'"):
        read(str(tmp_path))


def test_a_word_among_numbers_is_named_with_its_row(tmp_path: Path) -> None:
    table = read(written(tmp_path, "x.csv", "a,b\n1,2\nNA,Bad\n"))
    with pytest.raises(DataError, match=r"x, column 'b', row 2: 'Bad' is no number.*remove"):
        tables.numbers(table, ["a", "b"], "x")


def test_what_is_no_finite_float32_is_missing() -> None:
    table = {"a": np.array([1e300, -np.inf, 3.0]), "b": np.array([1 << 60, 2, 3])}
    rows = tables.numbers(table, ["a", "b"], "x")
    assert np.isnan(rows[:, 0]).tolist() == [True, True, False]
    assert rows[0, 1] == np.float32(1 << 60)


def test_limits_hold_for_what_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "x.csv.gz", "a\n" + "1\n" * 3_000_000)
    monkeypatch.setattr(tables, "MOST_BYTES", 2 << 20)
    with pytest.raises(DataError, match=r"x\.csv\.gz has more than 2 MiB"):
        read(path)
    monkeypatch.setattr(tables, "MOST_COLUMNS", 1)
    with pytest.raises(DataError, match="2 columns, the limit is 1"):
        read(written(tmp_path, "y.csv", "a,b\n1,2\n"))


@given(
    st.lists(
        st.lists(st.floats(width=32, allow_infinity=False), min_size=2, max_size=2),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from([",", ";", "\t", " "]),
)
def test_numbers_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[float]], separator: str
) -> None:
    folder = tmp_path_factory.mktemp("text")
    lines = [separator.join("ab"), *(separator.join(map(repr, row)) for row in rows)]
    table = read(written(folder, "x.txt", "\n".join(lines)))
    read_back = tables.numbers(table, ["a", "b"], "x")
    np.testing.assert_array_equal(read_back, np.array(rows, np.float32))
