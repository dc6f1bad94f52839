"""`python -m benchmarks.edge`: what the agent must hold, measured, beside its bars."""

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.models import command

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


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for; see `command.main`."""
    return command.main("benchmarks.edge", DESCRIPTION, BENCHMARKS, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
