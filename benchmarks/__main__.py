"""`python -m benchmarks`: run benchmarks, print ratios, write JSON. It judges nothing."""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from aimass_shared.errors import AimassError
from benchmarks.harness import catalog
from benchmarks.harness.machine import load, machine, versions
from benchmarks.harness.measure import FULL, QUICK, Result, Scale
from benchmarks.harness.report import Report, machine_line, text_of

DESCRIPTION = """\
Speed and memory as ratios to a peer or a floor measured in the same run, in turns.

examples:
  python -m benchmarks                        all of them, about two minutes
  python -m benchmarks --quick                all of them, about a minute
  python -m benchmarks endpoint grid          two of them
  python -m benchmarks learning --rounds 3 --json learning.json
  python -m benchmarks --list                 what there is
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name", nargs="*", help="benchmarks to run (all if none is named)", metavar="NAME"
    )
    parser.add_argument("--list", action="store_true", help="say what each compares, run nothing")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes")
    parser.add_argument("--rounds", type=_positive, help="rounds of each case (7, quick: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; the exit code is 1 if a benchmark could not run."""
    arguments = parser().parse_args(argv)
    names = catalog.names()
    if unknown := set(arguments.name) - set(names):
        parser().error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    if arguments.list:
        for name in names:
            print(f"{name:10} {catalog.about(name)}")
        return 0
    scale = QUICK if arguments.quick else FULL
    if arguments.rounds:
        scale = msgspec.structs.replace(scale, rounds=arguments.rounds)
    return _run(arguments.name or names, scale, arguments.json)


def _run(names: Sequence[str], scale: Scale, file: Path | None) -> int:
    started, before = datetime.now(timezone.utc), load()
    results = [result for name in names if (result := _one(name, scale)) is not None]
    report = Report(
        command=" ".join(["python -m benchmarks", *sys.argv[1:]]),
        started=started.isoformat(timespec="seconds"),
        quick=scale.quick,
        rounds=scale.rounds,
        machine=machine(before, load()),
        versions=versions(),
        results=tuple(results),
    )
    print(machine_line(report.machine, report.versions))
    if file is not None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return 0 if len(results) == len(names) else 1


def _one(name: str, scale: Scale) -> Result | None:
    """One benchmark; what it lacks is told and stops none of the others."""
    try:
        result = catalog.run(name, scale)
    except AimassError as error:
        print(f"{name}: not run: {error}\n", file=sys.stderr)
        return None
    print(text_of(result), flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
