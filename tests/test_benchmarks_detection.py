"""The detection benchmarks: the bars hold on the plant that ships; other folders can be read."""

import gzip
from importlib import resources
from pathlib import Path

import numpy as np
from benchmarks.models import site, skab, tep
from benchmarks.models.table import Row, at_least, at_most, failed, table, write_json


def test_the_bars_hold_on_the_plant_that_ships() -> None:
    with resources.as_file(resources.files("aimass_cloud.recipes.tep")) as folder:
        rows = tep.measure(folder, seeds=(0,))
    assert failed(rows) == []
    judged = {row.measure for row in rows if row.ok}
    assert judged == {"FAR %", *(f"FDR % fault {fault}" for fault in tep.VISIBLE)}
    assert {"PCA T2|Q", "random", "always alarm"} <= {row.candidate for row in rows}


def _experiment(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = np.cumsum(random.normal(0, 0.01, (600, 3)), axis=0) + random.normal(0, 1, (600, 3))
    faulty = np.arange(600) >= 500
    rows[faulty, 1] += 4.0
    lines = ["datetime;a;b;c;anomaly;changepoint"]
    lines += [
        ";".join(["2020-03-01 00:00:00", *map(str, row), str(float(bad)), "0.0"])
        for row, bad in zip(rows, faulty, strict=True)
    ]
    text = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def test_experiments_of_any_names_and_columns_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "pumps"
    folder.mkdir()
    for seed, name in enumerate(("0.csv", "1.csv.gz", "2.csv")):
        _experiment(folder / name, seed)
    (folder / "free.csv").write_text("datetime;a;b;c\n2020-03-01;1;2;3\n")
    rows = skab.measure(tmp_path, seeds=(0, 1))
    ours = {row.measure: row.value for row in rows if row.candidate == skab.OURS[0]}
    assert ours["AUROC"] > 0.9
    assert ours["F1"] > 0.9
    assert {row.set for row in rows} == {"SKAB pumps"}
    assert all(row.ok is None for row in rows)
    assert skab.measure(folder, seeds=(0, 1)) == rows


def test_a_device_is_measured_against_its_release_and_against_itself_alone(tmp_path: Path) -> None:
    folder = tmp_path / "pumps"
    folder.mkdir()
    for seed in range(4):
        _experiment(folder / f"{seed}.csv", seed)
    rows = site.measure(tmp_path)
    found = {(one.candidate, one.measure): one.value for one in rows if "pumps" in one.set}
    plant = {(one.candidate, one.measure): one.value for one in rows if "TEP" in one.set}
    assert plant["site to fleet", "FDR %"] > 99
    assert {name for name, _ in found} == {"release", "site alone", "site to fleet"}
    assert found["site to fleet", "AUROC"] > 0.9
    assert found["site to fleet", "FAR %"] <= found["site alone", "FAR %"]
    assert found["site to fleet", "fit ms"] > 0 < found["site to fleet", "window us"]


def test_a_table_says_who_missed_what(tmp_path: Path) -> None:
    good = at_least(Row("set", "ours", "F1", 0.9), 0.8)
    bad = at_most(Row("set", "ours", "FAR %", 13.0), 12.0)
    lines = table([good, bad, Row("set", "theirs", "F1", 0.5)]).splitlines()
    assert lines[1].split()[-3:] == [">=", "0.8", "ok"]
    assert lines[2].split()[-3:] == ["<=", "12", "MISSED"]
    assert lines[3].split()[-1] == "0.5"
    assert failed([good, bad]) == [bad]
    write_json([good], tmp_path / "rows.json")
    assert '"measure": "F1"' in (tmp_path / "rows.json").read_text()
