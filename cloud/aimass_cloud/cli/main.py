"""Run one command line: parse, call, show, and turn errors into one line and an exit code."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aimass_cloud.admin import Admin
from aimass_cloud.cli import checking, cutting, planning
from aimass_cloud.cli.arguments import parsed
from aimass_cloud.cli.commands import COLUMNS, COMMANDS
from aimass_cloud.cli.learning import learn
from aimass_cloud.cli.output import ProgressLine, show
from aimass_cloud.cli.training import carry_out, is_local
from aimass_cloud.config import CloudSettings
from aimass_shared.errors import AimassError, MissingExtraError, UnauthenticatedError
from aimass_shared.settings import load

FAILED = 1
INTERRUPTED = 130
DEFAULT_URL = "http://127.0.0.1:8080"
CALLER = {"AIMASS_URL", "AIMASS_KEY"}
"""Variables of whoever calls the API; `serve` may be started from the same shell."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `aimass`; returns the exit code."""
    args = parsed(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(args)
    except AimassError as error:
        sys.stderr.write(f"aimass: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # who read this has seen enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _dispatch(args: argparse.Namespace) -> int:
    if args.call == "serve":
        return _serve(args)
    if args.call == "demo":
        return _demo(args)
    if args.call == "learn":
        return _learn(args)
    if args.call in FILES:
        return FILES[args.call](args)
    if is_local(args):
        return carry_out(args)
    answer = asyncio.run(_call(args))
    show(answer, json=args.json, columns=COLUMNS.get(args.call, ()))
    return FAILED if isinstance(answer, dict) and answer.get("state") == "failed" else 0


def _learn(args: argparse.Namespace) -> int:
    def register(directory: Path) -> str:
        named = argparse.Namespace(**{**vars(args), "call": "model-import"})
        named.directory = str(directory)
        return str(dict(asyncio.run(_call(named)))["id"])

    try:
        return learn(args, register if args.register else None)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'this needs {error.name}: pip install "aimass[cloud,train]"'
        ) from error


async def _call(args: argparse.Namespace) -> Any:  # noqa: ANN401  JSON of any shape
    url = args.url or os.environ.get("AIMASS_URL", DEFAULT_URL)
    async with Admin.connect(url, _key(args), ca_file=args.ca) as admin:
        with ProgressLine(args.call, quiet=args.json) as line:
            return await COMMANDS[args.call](admin, args, line.watch)


def _plan(args: argparse.Namespace) -> int:
    """From a file, or what a release of a coordinator carries."""
    fetched = asyncio.run(_call(args)) if args.release and not args.profiles else None
    return planning.carry_out(args, fetched)


FILES = {
    **dict.fromkeys(cutting.CALLS, cutting.carry_out),
    planning.CALL: _plan,
    checking.CALL: checking.carry_out,
}
"""Commands about files of this machine, most of which need no coordinator."""


def _key(args: argparse.Namespace) -> str:
    """The API key: option, environment, or the file that `aimass serve` wrote."""
    given = args.key or os.environ.get("AIMASS_KEY")
    if given:
        return str(given)
    path = Path(args.data_dir or CloudSettings().data_dir) / "admin.key"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise UnauthenticatedError(
            f"no API key: give --key, set AIMASS_KEY, or point --data-dir at the coordinator's"
            f" directory ({path} cannot be read)"
        ) from error


def serve_settings(args: argparse.Namespace) -> CloudSettings:
    """Settings of `aimass serve`: defaults, file, environment, then options."""
    options = {
        "data_dir": args.data_dir,
        "http.host": args.host,
        "http.port": args.port,
        "http.names": args.name,
        "mqtt.url": args.mqtt,
        "mqtt.broker": args.broker,
    }
    return load(
        CloudSettings,
        prefix="AIMASS_",
        files=[Path(args.config)] if args.config else [],
        environ={name: text for name, text in os.environ.items() if name not in CALLER},
        overrides={name: value for name, value in options.items() if value is not None},
    )


def _serve(args: argparse.Namespace) -> int:
    from aimass_cloud.app import serve  # noqa: PLC0415  the other commands start without it

    return serve(serve_settings(args))


def _demo(args: argparse.Namespace) -> int:
    from aimass_cloud.demo import DemoOptions, run  # noqa: PLC0415  the others start without it

    options = DemoOptions(
        report=args.report,
        seed=args.seed,
        fault=args.fault,
        broker=args.broker,
        keep=args.keep,
        json=args.json,
    )
    return run(options)
