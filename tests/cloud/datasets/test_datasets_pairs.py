"""Pairs of texts: every layout that docs/data.md names, and what is refused."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aimass_cloud.datasets.pairs import read, scale_of
from aimass_shared.errors import DataError

COUNT = 120


def lines(form: str, *, header: str = "", start: int = 0) -> str:
    rows = [
        form.format(a=f"pump {i} leaks", b=f'a "leak", pump {i}', score=i % 5 + 0.5, i=i)
        for i in range(start, start + COUNT)
    ]
    return "\n".join([*([header] if header else []), *rows]) + "\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.tsv", lines("{a}\t{b}\t{score}", header="a\tb\tscore")),
        ("x.tsv", lines("{score}\t{a}\t{b}")),
        ("x.txt", lines("{a}\t{b}\t{score}")),
        (
            "x.txt",
            lines(
                "{i}\t{a}\t{b}\t{score}\tNEUTRAL",
                header="pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment",
            ),
        ),
        (
            "x.tsv",
            lines(
                "{score}\t{i}\t{i}\t{a}\t{b}", header="Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
            ),
        ),
        ("x.tsv", lines("{score}\t{i}\t9{i}\t{a}\t{b}")),
        ("x.tsv", lines("news\tMSR\t2012\t{i}\t{score}\t{a}\t{b}")),
    ],
)
def test_a_file_of_any_layout_gives_the_same_pairs(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    parts = read(str(tmp_path / name), seed=0)
    assert [len(part) for part in parts] == [84, 12, 24]
    for part in parts:
        for a, b, score in zip(part.a, part.b, part.score, strict=True):
            number = a.split()[1]
            assert (a, b) == (f"pump {number} leaks", f'a "leak", pump {number}')
            assert score == int(number) % 5 + 0.5
    assert len({a for part in parts for a in part.a}) == COUNT


def test_commas_quotes_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(
        lines('{score},"{a}, and oil","it leaks"', header="Score,Sentence1,Sentence2")
    )
    assert read(str(tmp_path / "x.csv"), seed=0).test.a[0].endswith("leaks, and oil")
    table = {"text1": ["one"] * COUNT, "text2": ["1"] * COUNT, "label": [0, 1] * (COUNT // 2)}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    parts = read(str(tmp_path / "x.parquet"), seed=0)
    assert parts.train.b[0] == "1"
    assert scale_of(parts.train.score, "x").labels


def test_files_of_a_folder_are_parts_by_their_names(tmp_path: Path) -> None:
    for name, start in (("S_train", 0), ("b.train", 200), ("S_trial", 400), ("S_test_gold", 600)):
        packed = gzip.compress(lines("{score}\t{a}\t{b}", start=start).encode())
        (tmp_path / f"{name}.txt.gz").write_bytes(packed)
    (tmp_path / "readme.txt").write_text("no pairs in here")
    parts = read(str(tmp_path), seed=0)
    assert [len(part) for part in parts] == [2 * COUNT, COUNT, COUNT]
    assert (parts.calibration.a[0], parts.test.a[0]) == ("pump 400 leaks", "pump 600 leaks")


def test_a_held_back_part_is_drawn_from_the_training_rows_alone(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(lines("{score}\t{a}\t{b}") + lines("{score}\t{a}\t{b}"))
    (tmp_path / "test.tsv").write_text(lines("{score}\t{a}\t{b}", start=500))
    parts = read(str(tmp_path), seed=0)
    assert [len(part) for part in parts] == [216, 24, COUNT]
    assert all(int(a.split()[1]) >= 500 for a in parts.test.a)


def test_rows_without_a_score_are_left_out(tmp_path: Path) -> None:
    text = lines("{a}\t{b}\t{score}", header="a\tb\tscore") + "x\ty\t\n" * 5
    (tmp_path / "x.tsv").write_text(text)
    assert sum(map(len, read(str(tmp_path / "x.tsv"), seed=0))) == COUNT


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a\tb\tscore\nx\ty\t1\n", "fewer than"),
        ("a\tb\tmark\n" + "x\ty\t1\n" * 30, "columns a, b, mark"),
        ("x\t1\n" * 30, "header"),
        ("a\tb\tscore\n" + "x\ty\tgood\n" * 30, "no number"),
    ],
)
def test_what_is_no_table_of_pairs_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(DataError, match=complaint):
        read(str(tmp_path / "x.tsv"), seed=0)


def test_a_scale_is_between_whole_numbers() -> None:
    scale = scale_of(np.array([0.2, 4.8, 3.0]), "x")
    assert scale == (0.0, 5.0, False)
    assert scale.share(np.array([-1.0, 2.5, 7.0])).tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(DataError, match="nothing to learn"):
        scale_of(np.ones(5), "x")
