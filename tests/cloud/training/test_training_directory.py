"""The directory of a run: settings that can be used again, metrics, plots, and who may take it."""

import json
import tomllib
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from aimass_cloud.recipes.run import RunSettings, chosen
from aimass_cloud.training.plots import plotted
from aimass_cloud.training.run_directory import RunDirectory, as_toml
from aimass_shared.errors import (
    ConflictError,
    InvalidSettingError,
    StateCorruptError,
    UnknownSettingError,
)

ODD = {
    "text": 'a "b"\n\\ü€',
    "number": 1e-07,
    "whole": 3.0,
    "flag": True,
    "list": [1, [2.5, "x"]],
    "table": {"a key": {"deep": -1}},
}


def test_settings_are_written_as_they_are_read(tmp_path: Path) -> None:
    run = RunSettings(data="s3://bucket/a b", widths=(1.0, 0.5), options=ODD)
    file = tmp_path / "run.toml"
    file.write_text(as_toml(to_builtins(run)))
    assert chosen(RunSettings(), files=[file]) == run
    assert tomllib.loads(file.read_text())["options"] == ODD


def test_a_file_changes_what_it_names_and_leaves_what_the_recipe_says(tmp_path: Path) -> None:
    own = RunSettings(steps=7, options={"window": 96, "horizon": 24})
    file = tmp_path / "run.toml"
    file.write_text("batch = 8\n[optimizer]\nrate = 0.5\n[options]\nhorizon = 336\n")
    run = chosen(own, files=[file], given={"seed": 4, "data": None, "optimizer.decay": 0})
    assert (run.steps, run.batch, run.seed) == (7, 8, 4)
    assert (run.optimizer.rate, run.optimizer.decay, run.optimizer.name) == (0.5, 0.0, "adamw")
    assert run.options == {"window": 96, "horizon": 336}


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        ("step = 3", UnknownSettingError, "did you mean `steps`"),
        ("rate = 0.1", UnknownSettingError, "did you mean `optimizer.rate`"),
        ("[optimizer]\nname = 'lion'", InvalidSettingError, "one of 'adamw', 'adam', 'sgd'"),
        ("steps = 0", InvalidSettingError, ">= 1"),
    ],
)
def test_a_wrong_setting_is_one_line_that_helps(
    tmp_path: Path, text: str, kind: type[Exception], hint: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(kind, match=hint):
        chosen(RunSettings(), files=[file])


def test_a_directory_with_a_run_is_not_taken_by_another(tmp_path: Path) -> None:
    place, run = RunDirectory(tmp_path), RunSettings(seed=1)
    assert place.found() is None
    place.check("tiny", run, resume=False)
    place.begin("tiny", run)
    with pytest.raises(ConflictError, match="--resume goes on with it"):
        place.check("tiny", run, resume=False)
    with pytest.raises(ConflictError, match="not of other"):
        place.check("other", run, resume=True)
    with pytest.raises(ConflictError, match="another seed, steps"):
        place.check("tiny", replace(run, seed=2, steps=9), resume=True)


def test_a_resumed_run_may_compute_elsewhere(tmp_path: Path) -> None:
    place, run = RunDirectory(tmp_path), RunSettings(seed=1)
    place.begin("tiny", run)
    moved = replace(run, distributed="fsdp", device="cpu", data="elsewhere")
    place.check("tiny", moved, resume=True)
    place.begin("tiny", moved)
    found = place.found()
    assert found is not None
    assert found.settings == moved
    assert found.versions.keys() > {"python", "torch", "aimass"}


def test_a_damaged_description_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(StateCorruptError, match=r"run\.json"):
        RunDirectory(tmp_path).found()


def test_metrics_are_there_for_people_and_for_programs(child: ModuleType, tmp_path: Path) -> None:
    rows = child.trained(child.RUN, tmp_path).rows
    table = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert table == [to_builtins(row) for row in rows]
    assert table == json.loads((tmp_path / "metrics.json").read_text())["looks"]
    assert [row["step"] for row in table] == [0, 10, 20, 30, 40]
    assert table[0]["loss"] is None
    assert table[4]["loss"] < table[1]["loss"]
    assert all(row["samples_per_second"] > 0 for row in table[1:])
    assert all(50 < row["peak_rss_mib"] < 4000 for row in table)


def test_plots_are_pictures(child: ModuleType) -> None:
    pictures = plotted(child.trained(replace(child.RUN, steps=20)).rows)
    assert pictures.keys() == {"loss.png", "held-back.png"}
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())


def test_data_of_ones_own_have_settings_of_their_own_under_what_is_given() -> None:
    base, own = RunSettings(steps=5), RunSettings(steps=7, batch=9)
    assert chosen(base, own=own) == base
    assert chosen(base, own=own, given={"data": "x"}) == RunSettings(steps=7, batch=9, data="x")
    assert chosen(base, own=own, given={"data": "x", "steps": 3}).steps == 3
