"""Results as text for people and as JSON for comparisons; the fields are in docs/benchmarks.md."""

from collections.abc import Sequence

import msgspec

from benchmarks.harness.machine import Machine
from benchmarks.harness.measure import Result

HEAD = ("min", "median", "max")


class Report(msgspec.Struct, frozen=True):
    """One run of benchmarks. `started`: UTC, ISO 8601."""

    command: str
    started: str
    quick: bool
    rounds: int
    machine: Machine
    versions: dict[str, str]
    results: tuple[Result, ...]


def text_of(result: Result) -> str:
    """Costs, then ratios, then notes, as aligned columns."""
    costs = [
        (one.case, one.measure, one.who, *_numbers((one.min, one.median, one.max)))
        for one in result.series
    ]
    ratios = [
        (
            one.case,
            one.measure,
            f"{one.ours} / {one.other}",
            *_numbers((one.min, one.median, one.max)),
        )
        for one in result.ratios
    ]
    parts = [
        f"{result.name}: {result.about} ({result.seconds:.0f} s)",
        _table(("case", "measure", "who", *HEAD), costs),
        "ratios of costs: below 1 ours is cheaper",
        _table(("case", "measure", "ours / other", *HEAD), ratios),
        *(f"note: {note}" for note in result.notes),
    ]
    return "\n".join(parts) + "\n"


def machine_line(machine: Machine, versions: dict[str, str]) -> str:
    """Machine and versions in two lines."""
    loads = " -> ".join(f"{load:.1f}" for load in machine.load)
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.memory_mib} MiB, {machine.kernel},"
        f" load {loads}\n{packages}"
    )


def _numbers(values: Sequence[float]) -> list[str]:
    return [f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in values]  # noqa: PLR2004  three digits


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    words = len(head) - len(HEAD)
    lines = []
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if index < words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
