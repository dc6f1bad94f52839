"""`python -m benchmarks.edge`: what the agent must hold, measured, beside its bars."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final

from benchmarks.models.running import reported
from benchmarks.models.table import Row

DESCRIPTION = """\
The agent under faults and load, measured beside its bars. Needs no data sets.

examples:
  python -m benchmarks.edge                     all of them
  python -m benchmarks.edge faults --quick
  python -m benchmarks.edge faults --json faults.json
  python -m benchmarks.edge --list
"""

BENCHMARKS: Final[Mapping[str, str]] = {
    "faults": "a cloud that refuses, hangs, drips, resets or is slow: what its callers wait",
    "cascade": "second opinions on a quarter-wide slice: accuracy by share, beside other gates",
}
"""By the name of its module in this package: what it measures. Each has `measure(quick)`."""

Measure = Callable[[bool], list[Row]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.edge",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="*", help="benchmarks (all)", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="less of everything, in less time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--list", action="store_true", help="say which there are")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for; the exit code is 1 if a bar was missed or one failed."""
    arguments = parser().parse_args(argv)
    if arguments.list:
        for name, about in BENCHMARKS.items():
            print(f"{name:<10} {about}")
        return 0
    if unknown := set(arguments.name) - set(BENCHMARKS):
        parser().error(f"no {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
    names = arguments.name or list(BENCHMARKS)
    measures = {name: partial(_measure, name, quick=arguments.quick) for name in names}
    return reported(measures, arguments.json)


def _measure(name: str, *, quick: bool) -> list[Row]:
    measure: Measure = import_module(f"benchmarks.edge.{name}").measure
    return measure(quick)


if __name__ == "__main__":
    sys.exit(main())
