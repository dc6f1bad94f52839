"""Interactions of every layout, in the order of time, and a synthetic shop."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aimass_cloud.datasets.interactions import Interactions, numbered, read_interactions, synthetic
from aimass_shared.errors import DataError


def _named(data: Interactions) -> list[list[str]]:
    return [[data.items[item - 1] for item in history] for history in data.histories]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.txt", "7 007\n7 b\n8 007\n"),
        ("words.txt", "anna 007\nanna b\nbea 007\n"),
        ("plain.csv", "7,007\n7,b\n8,007\n"),
        ("header.csv", "user,item\n7,007\n7,b\n8,007\n"),
        ("named.tsv", "note\tuser_id\titem_id\nx\t7\t007\ny\t7\tb\nz\t8\t007\n"),
        ("timed.csv", "User,Item,Time\n7,b,20\n8,007,5\n7,007,10\n"),
        ("dated.csv", "user,item,date\n7,b,2026-01-31\n7,007,2026-01-30\n8,007,2026-02-01\n"),
    ],
)
def test_all_layouts_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    data = read_interactions(str(tmp_path / name))
    assert data.items == ("007", "b")
    assert sorted(_named(data)) == [["007"], ["007", "b"]]


def test_parquet_and_a_folder_are_read(tmp_path: Path) -> None:
    for part, (users, items) in enumerate([([1, 1], [5, 6]), ([1, 2], [7, 5])]):
        pq.write_table(pa.table({"user": users, "item": items}), tmp_path / f"{part}.parquet")
    data = read_interactions(str(tmp_path))
    assert _named(data) == [["5", "6", "7"], ["5"]]
    assert data.rows == 4


def test_an_item_counts_once_and_white_space_becomes_one_word(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item\nu,red shoe\nu,hat\nu,red  shoe\n")
    assert _named(read_interactions(str(tmp_path / "a.csv"))) == [["red_shoe", "hat"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user,thing\n1,2\n", "'item'"),
        ("user,item\n1,2\n,3\n", "row 2"),
        ("1 2 3 4\n1 2 3 4\n", "4 columns"),
        ("user,item,time\n1,2,soon\n", "'soon'"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_interactions(str(tmp_path / "a.csv"))


def test_numbers_go_by_frequency() -> None:
    data = numbered(np.array([1, 1, 2, 2, 3]), np.array(["a", "b", "b", "c", "b"], object))
    assert data.items[0] == "b"
    assert data.histories[0].tolist() == [data.items.index("a") + 1, 1]


def test_a_synthetic_shop_is_the_same_for_the_same_seed() -> None:
    one, again, other = (synthetic(seed, users=50, items=40) for seed in (1, 1, 2))
    assert _named(one) == _named(again) != _named(other)
    assert all(len(set(history)) == len(history) for history in one.histories)
