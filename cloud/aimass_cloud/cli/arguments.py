"""What can be typed: commands, options, help and examples. No behaviour is here."""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from aimass_cloud.cli.slice_arguments import SLICE_VERBS, add_slice_verbs
from aimass_cloud.recipes import FLAGSHIP

DESCRIPTION = """\
Edge-cloud federated deployment of industrial AI: train, federate, slice, roll out, infer, hand off.

examples:
  aimass demo --report report.json     the whole loop on this machine
  aimass serve                         the coordinator on 127.0.0.1:8080
  aimass device token --site north     a one-time token for `aimass-edge enroll`
"""

TRAIN = """\
With --out the training runs here, needs no coordinator, and keeps all of it in that directory;
under `torchrun` several processes share it. Without, it is a job of the coordinator, which gets the
model. docs/training.md has all settings.

examples:
  aimass train --out runs/first                                the shipped data, here
  aimass train image --data pictures/ --config run.toml --out runs/steel
  aimass train --out runs/first --resume                       go on after an interruption
  aimass train sensor-graph --set steps=500 --set optimizer.rate=3e-3
  aimass round statistics                                      sites send their moment matrices
  aimass train --base RUN --seed 7                             train over that base
"""

RECIPE = """\
examples:
  aimass recipe list                   what can be trained, on which data, in which sizes
"""

LEARN = """\
examples:
  aimass learn runs/first --dir north           put NAME.parquet into north/inbox
  aimass learn runs/first --dir north --register --config policy.toml
"""

SLICE = """\
examples:
  aimass slice MODEL                   every width and number format that pays, checked
  aimass slice MODEL --cuts 3          heads for devices and tails for the coordinator, too
  aimass slice import model.onnx       a model of your own; see `slice import --help`
  aimass slice cuts model.onnx         where any ONNX file can be cut; see `slice cuts --help`
  aimass slice split model.onnx --cut CUT --out parts/
"""

RELEASE = """\
examples:
  aimass release create MODEL          sign the slices of a model
  aimass release list --json
  aimass release show RELEASE          its slices and what they cost
"""

ROLLOUT = """\
examples:
  aimass rollout start RELEASE         to every device of its channel
  aimass rollout start RELEASE --device north-1a2b3c --wait 300
  aimass rollout list
  aimass rollout show ROLLOUT
"""

DEVICE = """\
examples:
  aimass device token --site north     valid once, for 15 minutes
  aimass device list
  aimass device show north-1a2b3c --json
  aimass device revoke north-1a2b3c    it is stolen, or retired
"""

ROUND = """\
examples:
  aimass round statistics                      exact: one answer, no training
  aimass round train --model MODEL --rounds 3  FedAvg, each device at its own width
  aimass round list --run RUN
"""

MODEL = """\
examples:
  aimass model list
  aimass model show MODEL --json
  aimass model import runs/first       a model that `aimass train --out` made
  aimass model graph MODEL --out graph.png      or .graphml, .json
  aimass model explain MODEL --method integrated
  aimass model explain MODEL --method edges --sensor XMEAS_09 --json
"""

KEY = """\
examples:
  aimass key create dashboard --scope fleet:read --scope round:read
  aimass key list
  aimass key revoke ID
"""

VERBS = (RELEASE, ROLLOUT, DEVICE, ROUND, MODEL, KEY, RECIPE)


class _Commands(Protocol):
    def add_parser(self, name: str, **options: object) -> argparse.ArgumentParser: ...


def _command(
    commands: _Commands,
    name: str,
    *,
    about: str,
    examples: str = "",
    parents: Sequence[argparse.ArgumentParser] = (),
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=about,
        description=about,
        parents=list(parents),
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _connection() -> argparse.ArgumentParser:
    """Options of every command that speaks to a coordinator."""
    parent = argparse.ArgumentParser(add_help=False)
    group = parent.add_argument_group("coordinator")
    group.add_argument("--url", help="address of the API (AIMASS_URL; http://127.0.0.1:8080)")
    group.add_argument("--key", help="API key (AIMASS_KEY; else admin.key of --data-dir)")
    group.add_argument("--data-dir", help="the coordinator's data directory (.aimass)")
    group.add_argument("--ca", help="CA certificate of an https coordinator (PEM)")
    group.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parent


def _verb(commands: _Commands, name: str, about: str, *, verb: str = "") -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=about,
        description=about,
        parents=[_connection()],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.epilog = _examples_of(parser.prog)
    parser.set_defaults(call=verb or name)
    return parser


def _examples_of(command: str) -> str:
    lines = [line for text in VERBS for line in text.splitlines()]
    return "\n".join(
        ["examples:", *(one for one in lines if f"{one} ".startswith(f"  {command} "))]
    )


def _group(commands: _Commands, name: str, about: str, *, examples: str) -> _Commands:
    parser = _command(commands, name, about=about, examples=examples)
    verbs: _Commands = parser.add_subparsers(dest="verb", required=True, metavar="VERB")  # type: ignore[assignment]  # argparse's action class is private
    return verbs


def _add_serve(commands: _Commands) -> None:
    serve = _command(
        commands,
        "serve",
        about="Run the coordinator: API, registry, fleet, serving and a broker of its own.",
        examples="examples:\n  aimass serve\n  aimass serve --port 9000 --mqtt mqtts://broker:8883",
    )
    serve.add_argument("--config", help="TOML file with settings")
    serve.add_argument("--data-dir", help="where everything is kept (.aimass)")
    serve.add_argument("--host", help="address to listen on; TLS is on unless it is loopback")
    serve.add_argument("--port", type=int, help="port of the API (8080)")
    serve.add_argument(
        "--name", action="append", help="name or address that devices use (may be repeated)"
    )
    serve.add_argument("--mqtt", help="URL of a broker that is already there")
    serve.add_argument("--broker", choices=("auto", "mosquitto", "embedded"), help="own broker")
    serve.set_defaults(call="serve")


def _add_demo(commands: _Commands) -> None:
    demo = _command(
        commands,
        "demo",
        about="Run the whole loop on this machine: real processes, real plant data.",
        examples="examples:\n  aimass demo --report report.json --seed 7 --fault 4",
    )
    demo.add_argument("--report", help="write all figures to this JSON file")
    demo.add_argument("--seed", type=int, default=0, help="another seed gives other numbers")
    demo.add_argument("--fault", type=int, default=1, help="fault of the Tennessee Eastman data")
    demo.add_argument("--broker", choices=("auto", "mosquitto", "embedded"), default="auto")
    demo.add_argument("--keep", help="keep every file of the run in this directory")
    demo.add_argument("--json", action="store_true", help="print the report instead of the story")
    demo.set_defaults(call="demo")


def _add_training(commands: _Commands) -> None:
    train = commands.add_parser(
        "train",
        help="Train a recipe's model in the cloud.",
        description="Train a recipe's model in the cloud.",
        parents=[_connection()],
        epilog=TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("recipe", nargs="?", help="what to train (sensor-graph)")
    train.add_argument("--data", help="file, folder or s3://... with data; those that ship if none")
    train.add_argument("--config", help="TOML file with settings of the run")
    train.add_argument("--set", action="append", metavar="KEY=VALUE", help="one setting")
    train.add_argument("--seed", type=int, help="the same seed gives the same model (0)")
    train.add_argument("--size", choices=("tiny", "base", "large", "xl"), help="of the network")
    train.add_argument("--base", default="", help="statistics run whose moments give the base")
    train.add_argument("--out", metavar="DIRECTORY", help="train here, into this directory")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    train.set_defaults(call="train")
    learn = commands.add_parser(
        "learn",
        help="Let a model go on learning from a folder of arrivals.",
        description="Let a model go on learning from a folder of arrivals, until stopped.",
        parents=[_connection()],
        epilog=LEARN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    learn.add_argument("model", help="directory of a run, or of a model")
    learn.add_argument("--dir", required=True, help="shards and updates arrive in its inbox/")
    learn.add_argument("--config", help="TOML file with the policy (docs/training.md)")
    learn.add_argument("--register", action="store_true", help="tell the coordinator of candidates")
    learn.add_argument("--turns", type=int, default=0, help="stop after so many looks (no end)")
    learn.set_defaults(call="learn")
    cut = commands.add_parser(
        "slice",
        help="Export, quantize and check the slices of a model.",
        description="Export, quantize and check the slices of a model.",
        parents=[_connection()],
        epilog=SLICE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cut.add_argument("model")
    cut.add_argument("--cuts", type=int, default=0, help="cut slices, at most (0)")
    cut.add_argument(
        "--budget", type=float, help="error that a number format may add (0.005, or 2 %% if more)"
    )
    cut.add_argument(
        "--for",
        dest="classes",
        choices=("cpu", "tensorrt"),
        nargs="+",
        help="devices that slices are for (both)",
    )
    cut.set_defaults(call="slice")


def _add_slice_verbs(commands: _Commands) -> None:
    add_slice_verbs(partial(_command, commands), _connection())


def _add_release(commands: _Commands) -> None:
    verbs = _group(commands, "release", "Sign slices and list releases.", examples=RELEASE)
    create = _verb(verbs, "create", "Sign and publish the slices of a model.", verb="release")
    create.add_argument("model")
    create.add_argument("--channel", default="stable", help="who may take it (stable)")
    _verb(verbs, "list", "All releases.", verb="release-list")
    show = _verb(verbs, "show", "One release.", verb="release-show")
    show.add_argument("release")


def _add_rollout(commands: _Commands) -> None:
    verbs = _group(commands, "rollout", "Send releases to devices.", examples=ROLLOUT)
    start = _verb(verbs, "start", "Send a release and wait.", verb="rollout")
    start.add_argument("release")
    start.add_argument("--device", action="append", help="only this one (may be repeated)")
    start.add_argument("--wait", type=float, default=60.0, help="seconds to wait (60)")
    _verb(verbs, "list", "All rollouts.", verb="rollout-list")
    show = _verb(verbs, "show", "One rollout, device by device.", verb="rollout-show")
    show.add_argument("rollout")


def _add_device(commands: _Commands) -> None:
    verbs = _group(commands, "device", "Devices and the tokens to enrol them.", examples=DEVICE)
    token = _verb(verbs, "token", "A one-time join token.", verb="token")
    token.add_argument("--site", required=True)
    token.add_argument("--channel", default="stable")
    token.add_argument("--minutes", type=int, default=15)
    _verb(verbs, "list", "All devices.", verb="device-list")
    show = _verb(verbs, "show", "One device.", verb="device-show")
    show.add_argument("device")
    revoke = _verb(verbs, "revoke", "Refuse a device from now on.", verb="device-revoke")
    revoke.add_argument("device")


def _add_round(commands: _Commands) -> None:
    verbs = _group(commands, "round", "Federated rounds over the sites.", examples=ROUND)
    statistics = _verb(verbs, "statistics", "Sum the sites' moments.", verb="round-statistics")
    statistics.add_argument("--recipe", default=FLAGSHIP)
    statistics.add_argument("--deadline", type=float, default=60.0, help="seconds to wait (60)")
    train = _verb(verbs, "train", "Train a model on the sites' windows.", verb="round-train")
    train.add_argument("--model", required=True)
    train.add_argument("--rounds", type=int, default=3)
    train.add_argument("--epochs", type=int, default=1, help="local epochs a round (1)")
    train.add_argument("--learning-rate", type=float, default=3e-4, help="of the sites (3e-4)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--run", default="", help="go on with this run after an interruption")
    train.add_argument("--deadline", type=float, default=60.0, help="seconds a round (60)")
    train.add_argument("--inbox", default="", help="of a learner that gets the changes as well")
    listing = _verb(verbs, "list", "Finished rounds.", verb="round-list")
    listing.add_argument("--run", default="")


def _add_model(commands: _Commands) -> None:
    verbs = _group(commands, "model", "Trained models.", examples=MODEL)
    _verb(verbs, "list", "All models.", verb="model-list")
    show = _verb(verbs, "show", "One model with its metrics.", verb="model-show")
    show.add_argument("model")
    take = _verb(verbs, "import", "Register a model that was trained here.", verb="model-import")
    take.add_argument("directory", help="of a run, where the coordinator can read it")
    graph = _verb(verbs, "graph", "The graph that a model learned.", verb="model-graph")
    graph.add_argument("model")
    graph.add_argument("--out", help="file to write: .png, .graphml or .json")
    why = _verb(verbs, "explain", "What made an answer, and its cost.", verb="model-explain")
    why.add_argument("model")
    why.add_argument("--method", choices=("gradient", "integrated", "edges"), default="gradient")
    why.add_argument("--inputs", help="JSON file of one sample: nested lists by input name")
    why.add_argument("--sample", type=int, default=0, help="or number of a self-test sample (0)")
    why.add_argument("--output", default="", help="what is explained (the alarm's score)")
    why.add_argument("--sensor", default="", help="with edges: of this sensor's forecast")


def _add_recipe(commands: _Commands) -> None:
    verbs = _group(commands, "recipe", "What can be trained.", examples=RECIPE)
    listing = verbs.add_parser(
        "list",
        help="All recipes of this installation.",
        description="All recipes of this installation.",
        epilog=RECIPE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    listing.set_defaults(call="recipe-list")


def _add_key(commands: _Commands) -> None:
    verbs = _group(commands, "key", "API keys of people and programs.", examples=KEY)
    create = _verb(verbs, "create", "A new key; it is shown once.", verb="key-create")
    create.add_argument("name")
    create.add_argument("--scope", action="append", required=True)
    _verb(verbs, "list", "All keys, without their secrets.", verb="key-list")
    revoke = _verb(verbs, "revoke", "Refuse a key from now on.", verb="key-revoke")
    revoke.add_argument("id")


def parser() -> argparse.ArgumentParser:
    """The whole command line; `args.call` names what was asked for."""
    top = argparse.ArgumentParser(
        prog="aimass",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands: _Commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")  # type: ignore[assignment]  # argparse's action class is private
    for add in (
        _add_serve,
        _add_demo,
        _add_training,
        _add_slice_verbs,
        _add_release,
        _add_rollout,
        _add_device,
        _add_round,
        _add_model,
        _add_recipe,
        _add_key,
    ):
        add(commands)
    return top


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """What was typed; `slice` with one of its own second words is a command of two words."""
    words = list(argv)
    if words[:1] == ["slice"] and words[1:2] and words[1] in SLICE_VERBS:
        words[:2] = [f"slice {words[1]}"]
    return parser().parse_args(words)
