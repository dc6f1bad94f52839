"""What can be typed: commands, options, help and examples. No behaviour is here."""

import argparse

DESCRIPTION = """\
The aimass agent: telemetry in, predictions out, with or without the cloud.

examples:
  aimass-edge enroll --cloud http://127.0.0.1:8080 --token TOKEN --data-dir ./edge
  aimass-edge run --profile raspberry-pi-5 --config site.toml --data-dir ./edge
  aimass-edge check --config site.toml --data-dir ./edge
  aimass-edge status
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
    return top
