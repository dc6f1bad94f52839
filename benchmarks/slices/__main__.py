"""`python -m benchmarks.slices`: what slices must hold, measured, beside their bars."""

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.models import command

DESCRIPTION = """\
Cuts, plans and traces of slices, measured beside their bars. Needs no data sets.

examples:
  python -m benchmarks.slices                      all of them
  python -m benchmarks.slices cuts --quick
  python -m benchmarks.slices cuts --json cuts.json
  python -m benchmarks.slices --list
"""

BENCHMARKS: Final[Mapping[str, str]] = {
    "cuts": "head and tail are the whole, on every cut of many graphs; bytes of the hand-off",
    "precision": "int8, half precision: times smaller and faster, points lost, TensorRT's verdict",
    "planner": "the plan from predictions beside the best of all measured; latency over sockets",
    "scatter": "layers of PyTorch Geometric as exported and as slices: times, TensorRT's verdict",
    "streaming": "windows that follow each other, whole and row by row, on real telemetry",
    "traces": "policies under load on a changing link, beside an offline bound and static plans",
    "widths": "what a quarter saves, and what one joint training costs each width",
}
"""By the name of its module in this package: what it measures. Each has `measure(quick)`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for; see `command.main`."""
    return command.main("benchmarks.slices", DESCRIPTION, BENCHMARKS, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
