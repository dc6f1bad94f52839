"""What README and docs tell people to type is what there is: targets, commands, options, files."""

import argparse
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from aimass_cloud.cli.arguments import parsed
from aimass_edge.cli.arguments import parser as edge_parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PARSERS: dict[str, Callable[[list[str]], argparse.Namespace]] = {
    "aimass": parsed,
    "aimass-edge": lambda words: edge_parser().parse_args(words),
}


def _blocks(page: Path) -> list[str]:
    """Lines of the page's code blocks, without comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&")]


COMMANDS = [
    (page.name, line)
    for page in PAGES
    for line in _blocks(page)
    if line.split(" ")[0].rpartition("/")[2] in PARSERS
]


def test_there_is_something_to_type() -> None:
    assert len(COMMANDS) > 15


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_line_in_the_docs_parses(page: str, line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])  # the rest is for the shell
    name = words[0].rpartition("/")[2]
    assert PARSERS[name](words[1:]), page


def test_every_make_target_in_the_docs_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    typed = "\n".join(line for page in PAGES for line in _blocks(page))
    pages = "\n".join(page.read_text() for page in PAGES)
    typed += "\n".join(re.findall(r"`[^`\n]+`", pages))
    named = set(re.findall(r"\bmake ([a-z]+)", typed))
    assert {"demo", "test", "check", "bench"} <= named
    assert [name for name in sorted(named) if f"\n{name}:" not in makefile] == []


def test_ci_runs_the_readmes_test_command_and_nothing_else_of_ours() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    ours = [line for line in lines if line.startswith(("make ", "pytest", "python"))]
    assert ours == ["make test"]
    assert "make test" in _blocks(ROOT / "README.md")


def test_every_file_that_the_docs_name_exists() -> None:
    pattern = r"`((?:docs|firmware_configs|tests|shared|edge|cloud)/[\w./-]+\.\w+)`"
    named = {name for page in PAGES for name in re.findall(pattern, page.read_text())}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
