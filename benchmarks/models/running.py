"""Running benchmarks one after the other, and what their figures come to."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from aimass_shared.errors import AimassError
from benchmarks.models.table import Row, failed, table, write_json

Measure = Callable[[], list[Row]]


def reported(measures: Mapping[str, Measure], file: Path | None) -> int:
    """Measure all, print their table, write it to a file if there is one; 1 if anything is wrong.

    One that fails stops no other. What is wrong is a bar that was missed, or one that failed.
    """
    rows: list[Row] = []
    broken = 0
    for name, measure in measures.items():
        started = time.perf_counter()
        try:
            rows += measure()
        except AimassError as error:
            broken += 1
            print(f"{name}: {error}", file=sys.stderr)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    print(table(rows))
    if file:
        write_json(rows, file)
    missed = len(failed(rows))
    print(f"\n{missed} bars missed, {broken} failed")
    return 1 if missed or broken else 0
