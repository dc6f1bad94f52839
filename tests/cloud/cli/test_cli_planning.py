"""`aimass slice plan` on files: the ranking with reasons, picture, table, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from aimass_cloud.cli import main
from aimass_shared.planning import table as tables

TYPED = ("--slowdown", "10", "--link", "4mbit,30ms,1%", "--rate", "20", "--memory-mib", "128")


@pytest.fixture
def profiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The example, as a file."""
    assert main(["slice", "plan", "--example"]) == 0
    file = tmp_path / "profiles.json"
    file.write_text(capsys.readouterr().out)
    return file


def planned(profiles: Path, *words: str) -> int:
    return main(["slice", "plan", "--profiles", str(profiles), *words])


def test_the_example_is_ranked_with_a_reason_for_each(
    profiles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(profiles, *TYPED, "--max-loss", "0.02", "--explain") == 0
    out = capsys.readouterr().out
    assert "wins: done in" in out
    assert "needs 206 MiB, the device gives 128" in out
    assert "loses 4.0% of accuracy, the budget is 2.0%" in out


def test_json_has_all_of_it_best_first(profiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(profiles, *TYPED, "--json") == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["model"] == "steel-surfaces"
    goodputs = [one["goodput"] for one in answer["ranked"]]
    assert len(goodputs) == 6
    assert goodputs == sorted(goodputs, reverse=True)
    assert all(one["why"] and one["name"] for one in answer["ranked"])


def test_without_a_link_it_stays_here(profiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(profiles, "--json") == 0
    ranked = json.loads(capsys.readouterr().out)["ranked"]
    assert ranked[0]["candidate"]["place"] == "edge"
    assert {one["why"] for one in ranked if one["bytes_up"]} == {"there is no link"}


def test_a_picture_and_the_table_of_a_device_are_written(profiles: Path, tmp_path: Path) -> None:
    picture, table = tmp_path / "plans.png", tmp_path / "table.json"
    assert planned(profiles, *TYPED, "--png", str(picture), "--table", str(table)) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    kept = tables.decode(table.read_bytes()).profiles
    assert {one.candidate.name for one in kept} == {
        "cloud w1.00-fp32",
        "cloud w1.00-fp32 int8+zlib",
        "edge w0.25-int8",
        "edge w0.50-int8",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--link", "fast"), "--link fast: write it as 4mbit,30ms"),
        (("--deadline-ms", "0"), "deadline_ms"),
        (("--precision", "fp8"), "precisions"),
        (("--memory-mib", "-1"), "memory_mib"),
        (("--edge-queue-ms=nan",), "edge_ms"),
        (("--uplink-queue-ms=-10",), "uplink_ms"),
    ],
)
def test_what_is_typed_wrong_is_named(
    profiles: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(profiles, *words) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.endswith("[invalid-setting]\n")


def test_a_file_that_is_not_there_or_not_given_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(tmp_path / "none.json") == 1
    assert "none.json: No such file" in capsys.readouterr().err
    assert main(["slice", "plan"]) == 1
    assert "--profiles FILE or --release RELEASE is needed" in capsys.readouterr().err


def test_a_table_for_a_device_that_can_hold_nothing_is_refused(
    profiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(profiles.read_text())
    found["profiles"] = found["profiles"][:1]
    profiles.write_text(json.dumps(found))
    assert planned(profiles, "--memory-mib", "10", "--table", str(tmp_path / "t.json")) == 1
    assert "[unfit-release]" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--png", "--table"])
def test_a_place_that_cannot_be_written_is_named(
    option: str, profiles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(profiles, option, str(profiles / "below")) == 1
    assert f"{profiles.name}/below" in capsys.readouterr().err


def test_what_no_link_can_carry_never_comes(
    profiles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(profiles) == 0
    cloud = [line for line in capsys.readouterr().out.splitlines() if " cloud " in line]
    assert cloud
    assert all("never" in line for line in cloud)
