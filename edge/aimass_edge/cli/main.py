"""Run one command line: read the settings, do it, and turn errors into one line and a code."""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from aimass_edge.cli.arguments import parser
from aimass_edge.cli.check import check
from aimass_edge.cli.status import status
from aimass_edge.config import EdgeSettings, placed
from aimass_edge.enroll import enroll
from aimass_edge.inventory import take_inventory
from aimass_edge.profiles import profile_path
from aimass_shared.errors import AimassError
from aimass_shared.settings import load

FAILED = 1
INTERRUPTED = 130
DEFAULT_CONFIG = Path("/etc/aimass-edge/config.toml")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CHATTY = ("httpx", "uvicorn.error")
"""Loggers that tell of every request, or of their own start: of use only in a search for a bug."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `aimass-edge`; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        return _dispatch(args, settings_of(args))
    except AimassError as error:
        sys.stderr.write(f"aimass-edge: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def settings_of(args: argparse.Namespace) -> EdgeSettings:
    """Settings of a command: defaults, profile, site's file, environment, then options."""
    files = [profile_path(args.profile)] if args.profile else []
    if args.config:
        files.append(Path(args.config))
    elif DEFAULT_CONFIG.is_file():
        files.append(DEFAULT_CONFIG)
    return placed(
        load(
            EdgeSettings,
            prefix="AIMASS_EDGE_",
            files=files,
            environ=os.environ,
            overrides={"data_dir": args.data_dir} if args.data_dir else {},
        )
    )


def _dispatch(args: argparse.Namespace, settings: EdgeSettings) -> int:
    _log_as(settings.log_level)
    if args.command == "run":
        return _run(settings)
    if args.command == "bench":
        return _bench(args, settings)
    if args.command == "enroll":
        answer = asyncio.run(_enroll(args, settings))
    elif args.command == "check":
        answer = asyncio.run(check(settings))
    else:
        answer = asyncio.run(status(settings))
    sys.stdout.write(_text(answer, as_json=args.json))
    return 0 if answer.get("ok", True) else FAILED


def _log_as(level: str) -> None:
    logging.basicConfig(level=level.upper(), format=LOG_FORMAT)
    if level != "debug":
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)


async def _enroll(args: argparse.Namespace, settings: EdgeSettings) -> dict[str, object]:
    identity = await enroll(
        cloud_url=args.cloud,
        token=args.token,
        data_dir=Path(settings.data_dir),
        inventory=take_inventory(settings.board),
        force=args.force,
    )
    return {"device": identity.device, "site": identity.site, "channel": identity.channel}


def _run(settings: EdgeSettings) -> int:
    from aimass_edge.agent import run  # noqa: PLC0415  the other commands start without it

    return run(settings)


def _bench(args: argparse.Namespace, settings: EdgeSettings) -> int:
    from aimass_edge.bench import table  # noqa: PLC0415  the other commands start without it
    from aimass_edge.cli.bench import run_bench  # noqa: PLC0415

    answer = run_bench(args, settings)
    lines = f"{table(answer.benched)}report: {answer.report}\n"
    sys.stdout.write(f"{json.dumps(answer.document, indent=2)}\n" if args.json else lines)
    return FAILED if answer.benched.failed else 0


def _text(answer: dict[str, object], *, as_json: bool) -> str:
    if as_json:
        return f"{json.dumps(answer, indent=2)}\n"
    return "".join(f"{name}: {value}\n" for name, value in _flat(answer))


def _flat(table: dict[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value with its dotted name; text as it is, all else as JSON."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
