"""What can be typed: commands, options, help and examples. No behaviour is here."""

import argparse

MOST_SECONDS, MOST_COUNT = 600, 4096
DESCRIPTION = """\
The aimass agent: telemetry in, predictions out, with or without the cloud.

examples:
  aimass-edge enroll --cloud http://127.0.0.1:8080 --token TOKEN --data-dir ./edge
  aimass-edge run --profile raspberry-pi-5 --config site.toml --data-dir ./edge
  aimass-edge check --config site.toml --data-dir ./edge
  aimass-edge status
  aimass-edge bench --config site.toml --data-dir ./edge --all
  aimass-edge bench model.onnx --profile jetson-orin-nano --seconds 5
"""


def _settings() -> argparse.ArgumentParser:
    """Options of every command that reads the settings."""
    parent = argparse.ArgumentParser(add_help=False)
    group = parent.add_argument_group("settings")
    group.add_argument("--profile", help="board: a name of firmware_configs, or a TOML file")
    group.add_argument("--config", help="the site's TOML file (/etc/aimass-edge/config.toml)")
    group.add_argument("--data-dir", help="identity, models, outbox (/var/lib/aimass-edge)")
    group.add_argument("--json", action="store_true", help="print JSON instead of lines")
    return parent


def parser() -> argparse.ArgumentParser:
    """The whole command line; `args.command` names what was asked for."""
    top = argparse.ArgumentParser(
        prog="aimass-edge",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = "Make this device's key and enrol it with a coordinator."
    enroll = commands.add_parser("enroll", help=about, description=about, parents=[_settings()])
    enroll.add_argument("--cloud", required=True, help="address of the coordinator's API")
    enroll.add_argument("--token", required=True, help="join token (`aimass device token`)")
    enroll.add_argument("--force", action="store_true", help="replace an identity that is there")
    about = "Run the agent until it is told to stop."
    commands.add_parser("run", help=about, description=about, parents=[_settings()])
    about = "Say whether settings, identity, model and links are in order."
    commands.add_parser("check", help=about, description=about, parents=[_settings()])
    about = "Ask the running agent what it does."
    commands.add_parser("status", help=about, description=about, parents=[_settings()])
    _add_bench(commands)
    return top


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """What `bench` takes besides the settings."""
    about = "Measure slices on this device, each in a process of its own, as production runs them."
    bench = commands.add_parser("bench", help=about, description=about, parents=[_settings()])
    bench.add_argument("file", nargs="?", help="any ONNX file, instead of the installed slices")
    every = "also those that the release offers and that fit here; they are fetched for a while"
    bench.add_argument("--all", action="store_true", help=every)
    bench.add_argument(
        "--seconds", type=_seconds, default=2.0, help="time for each slice and batch size (2)"
    )
    bench.add_argument(
        "--batch", type=_count, default=8, help="windows in a run, besides single ones (8)"
    )
    turns = "how often each has its turn, in a process of its own each time (3)"
    bench.add_argument("--turns", type=_count, default=3, help=turns)
    bench.add_argument(
        "--nodes", action="store_true", help="time of every node and operator, by ONNX Runtime"
    )
    tell = "tell the coordinator (where the device is enrolled)"
    bench.add_argument("--report", action=argparse.BooleanOptionalAction, help=tell)
    where = "where the kernel tells of power and heat (/sys)"
    bench.add_argument("--sysfs", default="/sys", help=where)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be over 0 and at most {MOST_SECONDS}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST_COUNT:
        raise argparse.ArgumentTypeError(f"must be from 1 to {MOST_COUNT}")
    return value
