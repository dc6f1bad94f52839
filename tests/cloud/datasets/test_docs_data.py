"""The example of docs/data.md runs, and the page names every column and file that has a meaning."""

import re
from pathlib import Path

import pytest

from aimass_cloud.datasets import columns, descriptions
from aimass_cloud.datasets.places import PARQUET, TEXT
from aimass_shared.manifest import Sensor

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(example, {})  # noqa: S102  our own page
    assert capsys.readouterr().out.strip() == example.rsplit("# ", 1)[1].strip()


@pytest.mark.parametrize(
    "name", [*columns.ROLES, *descriptions.Notes.__struct_fields__, *TEXT, PARQUET]
)
def test_names_with_a_meaning_are_documented(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_columns_of_a_description_are_documented() -> None:
    assert f"`{','.join(Sensor.__struct_fields__)}`" in PAGE
