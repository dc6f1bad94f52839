"""The benchmarks can be found and run, and say what they promise; no figure is judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
SERIES = {"case", "measure", "who", "ours", "values", "min", "median", "max"}
RATIO = {"case", "measure", "ours", "other", "min", "median", "max"}


def typed(*words: object) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "benchmarks", *map(str, words)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_every_file_is_listed_with_what_it_compares() -> None:
    done = typed("--list")
    assert done.returncode == 0, done.stderr
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(listed) == {path.stem for path in FOLDER.glob("*.py") if path.stem[0] != "_"}
    assert {"agent", "endpoint", "grid", "learning", "outbox", "sparkplug"} <= set(listed)
    assert all("against" in about for about in listed.values())


def test_a_benchmark_runs_and_its_json_has_the_documented_fields(tmp_path: Path) -> None:
    file = tmp_path / "grid.json"
    done = typed("grid", "--quick", "--rounds", 2, "--json", file)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    documented = (ROOT / "docs" / "benchmarks.md").read_text()
    assert [name for name in report if f"`{name}`" not in documented] == []
    assert (report["quick"], report["rounds"]) == (True, 2)
    assert report["machine"]["cores"] >= 1
    assert len(report["machine"]["load"]) == 2
    assert {"python", "aimass", "onnxruntime", "torch"} <= set(report["versions"])
    (result,) = report["results"]
    assert (result["name"], result["seconds"] > 0, len(result["notes"])) == ("grid", True, 1)
    for one in result["series"]:
        assert set(one) == SERIES
        assert len(one["values"]) == 2
        assert 0 < one["min"] <= one["median"] <= one["max"]
    for ratio in result["ratios"]:
        assert set(ratio) == RATIO
    compared = {(one["case"], one["ours"], one["other"]) for one in result["ratios"]}
    cases = {one["case"] for one in result["series"]}
    assert compared == {(case, "aimass", "dict per row") for case in cases}
    assert all(case in done.stdout for case in cases)


def test_a_ratio_is_ours_divided_by_the_other_within_a_round(tmp_path: Path) -> None:
    file = tmp_path / "grid.json"
    assert typed("grid", "--quick", "--rounds", 1, "--json", file).returncode == 0
    (result,) = json.loads(file.read_text())["results"]
    costs = {(one["case"], one["who"]): one["median"] for one in result["series"]}
    for ratio in result["ratios"]:
        expected = costs[ratio["case"], "aimass"] / costs[ratio["case"], "dict per row"]
        assert ratio["median"] == pytest.approx(expected)


def test_an_unknown_name_is_refused_and_told_what_there_is() -> None:
    done = typed("sparkplugs")
    assert done.returncode == 2
    assert "no benchmark sparkplugs; there are: agent, endpoint" in done.stderr
    assert "--quick" in typed("--help").stdout
