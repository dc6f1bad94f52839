"""The bars of the house style that ruff and mypy do not hold."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for package in ("cloud/aimass_cloud", "edge/aimass_edge", "shared/aimass_shared")
    for path in (ROOT / package).rglob("*.py")
)
VAGUE = re.compile(r"(^|_)(utils?|helpers?|common|misc|tools?|manager)$")
MAX_FILE_LINES = 400
MAX_CLASS_LINES = 300
MAX_FUNCTION_LINES = 60
MAX_POSITIONAL = 3
CALLED_BY_OTHERS = {"configure_train", "create_message", "forward"}
"""Overrides that flwr and torch call with positional arguments."""


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _positional(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return len([name for name in names if name not in {"self", "cls"}])


def _names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 20


def test_no_file_is_longer_than_one_can_read() -> None:
    long = [path for path in SOURCES if len(path.read_text().splitlines()) > MAX_FILE_LINES]
    assert _names(long) == []


def test_no_module_has_a_vague_name() -> None:
    assert _names([path for path in SOURCES if VAGUE.search(path.stem)]) == []


@pytest.mark.parametrize("path", SOURCES, ids=_names(SOURCES))
def test_functions_and_classes_stay_small(path: Path) -> None:
    tree = ast.parse(path.read_text())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [node.name for node in classes if _lines(node) > MAX_CLASS_LINES] == []
    assert [node.name for node in _functions(tree) if _lines(node) > MAX_FUNCTION_LINES] == []


@pytest.mark.parametrize("path", SOURCES, ids=_names(SOURCES))
def test_more_than_three_arguments_are_named(path: Path) -> None:
    tree = ast.parse(path.read_text())
    long = [node.name for node in _functions(tree) if _positional(node) > MAX_POSITIONAL]
    assert [name for name in long if name not in CALLED_BY_OTHERS] == []


def test_the_layers_hold() -> None:
    tool = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
