"""`python -m benchmarks.models`: train on public data sets, and print figures beside their bars."""

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
How well models do on public data sets: mean of the seeds, baselines in the same table, nothing
chosen on test rows. The sets are not shipped: FOLDER holds one folder for each (see --list).

examples:
  python -m benchmarks.models --data FOLDER
  python -m benchmarks.models tep skab --data FOLDER --seeds 0
  python -m benchmarks.models --list
"""

# Name, module, folder of the set below --data.
SETS: Final[Mapping[str, tuple[str, str]]] = {
    "tep": ("tep", "tep"),
    "skab": ("skab", "skab"),
    "site": ("site", "skab"),
    "los": ("los", "los_loop"),
    "ett": ("ett", "ett"),
    "neu": ("neu", "neu_det64"),
    "cifar": ("cifar", "cifar10_jpg"),
    "sick": ("sick", "text_sim/sick2014"),
    "amazon": ("amazon", "amazon_video"),
    "exchange": ("exchange", "exchange_rate"),
}

Measure = Callable[[Path, Sequence[int]], list[Row]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="*", help="sets (all that are there)", metavar="SET")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the sets are")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--list", action="store_true", help="say which sets there are")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for; the exit code is 1 if a bar was missed or a set failed."""
    arguments = parser().parse_args(argv)
    if arguments.list:
        for name, (_, folder) in SETS.items():
            print(f"{name:<10} FOLDER/{folder}")
        return 0
    if unknown := set(arguments.name) - set(SETS):
        parser().error(f"no set {', '.join(sorted(unknown))}; there are: {', '.join(SETS)}")
    if arguments.data is None:
        parser().error("--data FOLDER is needed: the sets are not shipped")
    names = arguments.name or [name for name in SETS if (arguments.data / SETS[name][1]).is_dir()]
    measures = {name: partial(_measure, name, arguments.data, arguments.seeds) for name in names}
    return reported(measures, arguments.json)


def _measure(name: str, data: Path, seeds: Sequence[int]) -> list[Row]:
    module, folder = SETS[name]
    measure: Measure = import_module(f"benchmarks.models.{module}").measure
    return measure(data / folder, seeds)


if __name__ == "__main__":
    sys.exit(main())
