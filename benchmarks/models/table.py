"""The one table of all model benchmarks: who got what on which set, and the bar it had to reach."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

HEAD = ("set", "candidate", "measure", "value", "bar", "")
UNJUDGED = ""


@dataclass(frozen=True)
class Row:
    """One figure. A baseline has no bar: its `bar` is "" and its `ok` None.

    Attributes:
        set: data set and, where it matters, split or horizon: "SKAB valve1", "ETTh1 96".
        candidate: who is measured: "ours", "PCA", "persistence".
        measure: name of the field: "FAR %", "AUROC", "RMSE". Percent are written out.
        value: mean over the seeds where there are several.
        bar: what it had to reach, for people: ">= .86".
        ok: whether it did.
    """

    set: str
    candidate: str
    measure: str
    value: float
    bar: str = ""
    ok: bool | None = None


def at_least(row: Row, bar: float) -> Row:
    """The row judged: its value must not be under the bar."""
    return Row(row.set, row.candidate, row.measure, row.value, f">= {bar:g}", row.value >= bar)


def at_most(row: Row, bar: float) -> Row:
    """The row judged: its value must not be over the bar."""
    return Row(row.set, row.candidate, row.measure, row.value, f"<= {bar:g}", row.value <= bar)


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned text, one line each."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(_line(cell, widths) for cell in cells)


def failed(rows: Iterable[Row]) -> list[Row]:
    """The rows that missed their bar."""
    return [row for row in rows if row.ok is False]


def write_json(rows: Sequence[Row], file: Path) -> None:
    """Write the rows as a list of objects."""
    file.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")


def _cells(row: Row) -> tuple[str, ...]:
    verdict = UNJUDGED if row.ok is None else "ok" if row.ok else "MISSED"
    return (row.set, row.candidate, row.measure, f"{row.value:.4g}", row.bar, verdict)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()
