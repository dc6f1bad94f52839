"""How the demo speaks: numbered chapters, one line for each thing that happened, a moving bar."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from aimass_cloud.admin import Watch

PIPE_WIDTH = 120
"""Columns of an output that is no terminal."""


class Voice:
    """The demo's words, on standard error, so that `--json` keeps standard output for itself."""

    def __init__(self) -> None:
        wide = None if sys.stderr.isatty() else PIPE_WIDTH
        self.console = Console(stderr=True, width=wide)
        self._start = time.monotonic()
        self._chapter = 0

    @property
    def seconds(self) -> float:
        """Since the story began."""
        return time.monotonic() - self._start

    def chapter(self, title: str) -> None:
        """Begin the next chapter."""
        self._chapter += 1
        self.console.print(f"\n[bold]{self._chapter}. {title}[/bold]  [dim]{self.seconds:.0f} s[/]")

    def say(self, line: str, style: str = "") -> None:
        """One thing that happened, word for word: brackets in it are no markup."""
        self.console.print(
            f"   {line}", style=style, markup=False, emoji=False, highlight=False, soft_wrap=True
        )

    @contextmanager
    def following(self, title: str) -> Iterator[Watch]:
        """A bar for a job; the yielded function moves it."""
        columns = (TextColumn("   {task.description}"), BarColumn(), TimeElapsedColumn())
        with self._progress(*columns) as progress:
            task = progress.add_task(title, total=1.0)

            def watch(fraction: float, message: str) -> None:
                words = f"{title}: {message}" if message else title
                progress.update(task, completed=fraction, description=words)

            yield watch

    @contextmanager
    def counting(self, title: str, total: int) -> Iterator["Counter"]:
        """A bar for so many things; calling the counter adds to it."""
        columns = (TextColumn("   {task.description}"), BarColumn(), MofNCompleteColumn())
        with self._progress(*columns) as progress:
            yield Counter(progress, title, total)

    def _progress(self, *columns: ProgressColumn) -> Progress:
        """A bar that goes away when it is full; none where nobody would see it move."""
        seen = self.console.is_terminal
        return Progress(*columns, console=self.console, transient=True, disable=not seen)


class Counter:
    """Counts on a bar."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total)

    def __call__(self, more: int) -> None:
        """Add to the bar."""
        self._progress.advance(self._task, more)
