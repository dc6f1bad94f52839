"""`aimass train --out`: a run on this machine, without a coordinator, by one process or several."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aimass_cloud.cli import main
from aimass_cloud.cli.arguments import parser
from aimass_cloud.cli.training import train_request

SMALL = "--set steps=20 --set check=10 --set options.hidden=8 --set options.steps=1"


def test_a_run_prints_its_figures_beside_its_baselines_and_can_be_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["train", "--out", out, "--seed", "5", *SMALL.split()]) == 0
    said = capsys.readouterr()
    assert all(word in said.out for word in ("width 0.25", "persistence", "val_mse", "loss.png"))
    assert "step 20/20: loss" in said.err
    assert main(["train", "--out", out, "--resume", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["metrics"]["by_width"].keys() == {"1.00", "0.50", "0.25"}
    assert all(Path(path).is_file() for path in answer["plots"])
    assert main(["train", "--out", out]) == 1
    assert capsys.readouterr().err.endswith("[conflict]\n")


def test_several_processes_make_one_run_and_one_answer(tmp_path: Path) -> None:
    """The line that docs/training.md shows, on the flagship recipe."""
    torchrun = "torch.distributed.run --nproc-per-node 2 -m aimass_cloud train --json --out"
    command = [sys.executable, "-m", *torchrun.split(), str(tmp_path / "run"), *SMALL.split()]
    result = subprocess.run(
        [*command, "--set", "distributed=fsdp"],
        timeout=110,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    answer = json.loads(result.stdout)
    assert answer["metrics"]["training"]["processes"] == 2
    assert answer["metrics"]["val_mse"] < answer["metrics"]["baselines"]["persistence"]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--resume", r"--out DIRECTORY \[invalid-setting\]"),
        ("--out x --base stat-1", r"leave --out out \[invalid-setting\]"),
        ("--out x --set steps", r"is not KEY=VALUE.*\[invalid-setting\]"),
        ("--out x --set stps=3", r"did you mean `steps`\? \[unknown-setting\]"),
        ("--out x --set options.hiden=3", r"unknown options .* \[invalid-setting\]"),
        ("bread --out x", r"no recipe 'bread'.*\[not-found\]"),
        ("--out x --data nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_no_run(
    line: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *line.split()]) == 1
    assert re.search(hint, capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "x").exists()


def test_a_coordinator_is_asked_for_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text("steps = 9\n[optimizer]\nname = 'sgd'\n")
    line = "train image --config run.toml --seed 3 --data pictures --set optimizer.rate=1e-3"
    assert train_request(parser().parse_args([*line.split(), "--set", "loss=focal"])) == {
        "recipe": "image",
        "seed": 3,
        "base": "",
        "data": str(tmp_path / "pictures"),
        "size": "",
        "config": {
            "steps": 9,
            "optimizer": {"name": "sgd"},
            "optimizer.rate": 1e-3,
            "loss": "focal",
        },
    }
    request = train_request(parser().parse_args(["train", "--data", "s3://bucket/x"]))
    assert (request["recipe"], request["data"]) == ("sensor-graph", "s3://bucket/x")


def test_all_recipes_are_listed_with_their_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "list", "--json"]) == 0
    listed = {one["recipe"]: one for one in json.loads(capsys.readouterr().out)}
    assert "sensor" in listed["sensor-graph"]["data"]
    assert listed["sensor-graph"]["sizes"] == "tiny, base, large, xl"
