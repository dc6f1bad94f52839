"""What the docs list is what there is: error codes, settings, commands, topics."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from aimass_cloud.cli.arguments import parser as cloud_parser
from aimass_cloud.config import CloudSettings
from aimass_cloud.recipes.run import RunSettings, chosen
from aimass_edge.config import EdgeSettings
from aimass_shared import topics
from aimass_shared.errors import AimassError

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def _tree(kind: type[AimassError]) -> Iterator[type[AimassError]]:
    if kind.__module__ == "aimass_shared.errors":
        yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def _settings(settings: msgspec.Struct, prefix: str = "") -> Iterator[str]:
    """Every key with its default, as a row of docs/settings.md."""
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, msgspec.Struct):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"| `{prefix}{name}` | `{msgspec.json.encode(value).decode()}` |"


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every command line that the parser knows, such as `release create`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                below = list(_commands(child))
                yield from below or [child.prog]


@pytest.mark.parametrize("kind", list(_tree(AimassError)), ids=lambda kind: kind.code)
def test_every_error_code_is_documented(kind: type[AimassError]) -> None:
    assert f"`{kind.code}`" in (DOCS / "errors.md").read_text()


def test_every_error_has_its_own_code() -> None:
    codes = [kind.code for kind in _tree(AimassError)]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("settings", [CloudSettings(), EdgeSettings()])
def test_every_setting_is_documented_with_its_default(settings: msgspec.Struct) -> None:
    rows = (DOCS / "settings.md").read_text().splitlines()
    assert [row for row in _settings(settings) if row not in rows] == []


def test_every_setting_of_a_training_is_documented_with_its_default() -> None:
    lines = (DOCS / "training.md").read_text().splitlines()
    rows = list(_settings(RunSettings()))
    assert [row for row in rows if not any(line.startswith(row) for line in lines)] == []


def test_the_example_of_a_training_can_be_used(tmp_path: Path) -> None:
    _, _, text = (DOCS / "training.md").read_text().partition("```toml\n")
    file = tmp_path / "run.toml"
    file.write_text(text.partition("```")[0])
    run = chosen(RunSettings(), files=[file])
    assert (run.steps, run.precision, run.options) == (2000, "bf16", {"hidden": 128})


def test_every_command_is_documented() -> None:
    text = (DOCS / "commands.md").read_text()
    commands = list(_commands(cloud_parser()))
    assert len(commands) > 15
    assert [command for command in commands if f"`{command}" not in text] == []


def test_every_topic_is_documented() -> None:
    text = (DOCS / "mqtt.md").read_text()
    shapes = [
        topics.state("{device}"),
        topics.reported("{device}"),
        topics.desired("{device}"),
        topics.stream("{device}", "{stream}"),
        topics.ack("{device}", "{stream}"),
        topics.round_task("{device}", "{task}"),
        topics.round_reply("{device}", "{task}"),
    ]
    assert [shape for shape in shapes if f"`{shape}`" not in text] == []
