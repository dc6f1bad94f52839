"""The command line of a package of judged benchmarks: each module has `measure(quick)`."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from benchmarks.models.running import reported
from benchmarks.models.table import Row

Measure = Callable[[bool], list[Row]]


def main(
    package: str, about: str, benchmarks: Mapping[str, str], *, argv: Sequence[str] | None
) -> int:
    """Measure what was asked for; the exit code is 1 if a bar was missed or one failed.

    Args:
        package: that the modules are in.
        about: for `--help`, with examples.
        benchmarks: by the name of a module, what it measures.
        argv: what was typed.
    """
    parser = _parser(package, about)
    arguments = parser.parse_args(argv)
    if arguments.list:
        for name, text in benchmarks.items():
            print(f"{name:<10} {text}")
        return 0
    if unknown := set(arguments.name) - set(benchmarks):
        parser.error(f"no {', '.join(sorted(unknown))}; there are: {', '.join(benchmarks)}")
    names = arguments.name or list(benchmarks)
    measures = {
        name: partial(_measure, f"{package}.{name}", quick=arguments.quick) for name in names
    }
    return reported(measures, arguments.json)


def _parser(package: str, about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="*", help="benchmarks (all)", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="less of everything, in less time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--list", action="store_true", help="say which there are")
    return parser


def _measure(module: str, *, quick: bool) -> list[Row]:
    measure: Measure = import_module(module).measure
    return measure(quick)
