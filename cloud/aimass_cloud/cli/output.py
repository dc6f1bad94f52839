"""How answers look on a terminal: tables for lists, key and value for one thing, or JSON."""

import sys
from typing import Any, Self

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

MAX_CELL = 60
MAX_COLUMNS = 8


def as_json(answer: object) -> str:
    """Indented JSON of an answer."""
    return msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()


def show(answer: Any, *, json: bool) -> None:  # noqa: ANN401  JSON of any shape
    """Print an answer for a person, or as JSON for a program."""
    console = Console(soft_wrap=json)
    if json:
        console.print(as_json(answer), highlight=False, markup=False)
    elif isinstance(answer, list):
        console.print(_list_table(answer) if answer else "nothing there yet")
    elif len(answer) == 1:
        (value,) = answer.values()  # alone, so that a script can take it
        console.print(_plain(value), highlight=False, markup=False, soft_wrap=True)
    else:
        console.print(_lines(dict(answer)), highlight=False, markup=False, soft_wrap=True)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = _plain(value)
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _list_table(rows: list[dict[str, Any]]) -> Table:
    plain = [name for name, value in rows[0].items() if not isinstance(value, dict | list)]
    columns = plain[:MAX_COLUMNS]
    table = Table()
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0, overflow="fold")  # ids are typed elsewhere
    for row in rows:
        table.add_row(*(_cell(row.get(name, "")) for name in columns))
    return table


def _lines(answer: dict[str, Any]) -> str:
    """One line a value, text whole: a key or a token is shown once and must be copied."""
    width = max(map(len, answer), default=0)
    cells = {
        name: value if isinstance(value, str) else _cell(value) for name, value in answer.items()
    }
    return "\n".join(f"{name:<{width}}  {cell}" for name, cell in cells.items())


class ProgressLine:
    """One line on standard error that follows a job; a `with` block is its lifetime."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=Console(file=sys.stderr),
            disable=quiet,
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
