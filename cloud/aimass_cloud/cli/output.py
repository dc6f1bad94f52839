"""How answers look on a terminal: tables for lists, key and value for one thing, or JSON."""

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Self

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

MAX_CELL = 60
MAX_COLUMNS = 8
PIPE_WIDTH = 4096
"""Columns of an output that is no terminal: nobody reads lines there that were folded."""

TIMES = {"created", "finished", "enrolled", "last_seen"}
"""Fields in UTC milliseconds since 1970, which a person wants as a local time."""

Row = dict[str, Any]


def as_json(answer: object) -> str:
    """Indented JSON of an answer."""
    return msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()


def show(answer: Any, *, json: bool, columns: Sequence[str] = ()) -> None:  # noqa: ANN401  JSON of any shape
    """Print an answer for a person, or as JSON for a program.

    Args:
        answer: decoded JSON.
        json: for a program; all of it, as it is.
        columns: dotted names of what a list shows; by default what is not nested.
    """
    if json:
        sys.stdout.write(f"{as_json(answer)}\n")
    elif isinstance(answer, list):
        _print_table([_picked(row, columns) for row in answer] if columns else answer)
    elif answer:
        _print_one(dict(answer))
    else:
        sys.stdout.write("done\n")


def _picked(row: Row, columns: Sequence[str]) -> Row:
    """Values by the last part of their dotted names; "" where there is none."""
    picked: Row = {}
    for dotted in columns:
        value: Any = row
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        picked[dotted.rsplit(".", 1)[-1]] = "" if value is None else value
    return picked


def _print_one(answer: Row) -> None:
    """One line a value, text whole: a key or a token is shown once and must be copied.

    A value that is alone stands without its name, so that a script can take it; lists of things
    follow as tables.
    """
    lines = dict(_leaves(answer))
    width = max(map(len, lines), default=0)
    for name, value in lines.items():
        sys.stdout.write(f"{value if len(answer) == 1 else f'{name:<{width}}  {value}'}\n")
    for name, value in answer.items():
        if _is_table(value):
            sys.stdout.write(f"\n{name}\n")
            _print_table(value)


def _leaves(answer: Row, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Values by dotted name, without what is shown as a table."""
    for name, value in answer.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        elif prefix or not _is_table(value):
            yield f"{prefix}{name}", _text(name, value)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _print_table(rows: list[Row]) -> None:
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(_table(rows) if rows else "nothing there yet")


def _table(rows: list[Row]) -> Table:
    plain = [name for name, value in rows[0].items() if not isinstance(value, dict | list)]
    columns = plain[:MAX_COLUMNS]
    table = Table()
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0, overflow="fold")  # ids are typed elsewhere
    for row in rows:
        # As `Text`: in a plain string rich would take "[code]" for a style and swallow it.
        table.add_row(*(Text(_cell(name, row.get(name, ""))) for name in columns))
    return table


def _cell(name: str, value: object) -> str:
    """Text of a cell: JSON is cut, text is whole."""
    text = _text(name, value)
    return text if isinstance(value, str) or len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"


def _text(name: str, value: object) -> str:
    if name in TIMES and isinstance(value, int):
        return f"{datetime.fromtimestamp(value / 1000):%Y-%m-%d %H:%M:%S}" if value else "-"  # noqa: DTZ006  local on purpose
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class ProgressLine:
    """One line on standard error that follows a job; a `with` block is its lifetime."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=Console(file=sys.stderr),
            # Where nobody watches, standard error is for errors: one line each.
            disable=quiet or not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._progress.add_task(title, total=1.0)

    def __enter__(self) -> Self:
        """Show the line."""
        self._progress.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        """Take the line away."""
        self._progress.stop()

    def watch(self, fraction: float, message: str) -> None:
        """Move the bar; the `watch` argument of `Admin.wait`."""
        self._progress.update(self._task, completed=fraction, description=message or "working")
