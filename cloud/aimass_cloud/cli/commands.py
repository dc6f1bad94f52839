"""What each admin command does: one call or two of the API, and how its answer is shown."""

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from aimass_cloud.admin import Admin, Watch, segment
from aimass_cloud.cli import comparing, looking
from aimass_cloud.cli.importing import import_onnx
from aimass_cloud.cli.training import import_request, train_request

Command = Callable[[Admin, argparse.Namespace, Watch], Awaitable[Any]]


async def _train(admin: Admin, args: argparse.Namespace, watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    return await admin.wait(await admin.start("train", train_request(args)), watch)


async def _slice(admin: Admin, args: argparse.Namespace, watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    asked = {"budget": args.budget, "classes": args.classes}
    body = {"model": args.model, "cuts": args.cuts}
    body |= {name: value for name, value in asked.items() if value is not None}
    return await admin.wait(await admin.start("slice", body), watch)


async def _plans(admin: Admin, args: argparse.Namespace, _watch: Watch) -> bytes:
    return await admin.fetch(f"/api/v1/releases/{segment(args.release)}/plans")


async def _release(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    return await admin.release(args.model, args.channel)


async def _rollout(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    started = await admin.rollout(args.release, args.device)
    return await admin.wait_rollout(started["id"], args.wait)


async def _token(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    return {"token": await admin.join_token(args.site, args.channel, args.minutes)}


async def _statistics(admin: Admin, args: argparse.Namespace, watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    body = {"kind": "statistics", "recipe": args.recipe, "deadline_s": args.deadline}
    return await admin.wait(await admin.start("rounds", body), watch)


async def _round_train(admin: Admin, args: argparse.Namespace, watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    body = {
        "kind": "train",
        "model": args.model,
        "rounds": args.rounds,
        "epochs": args.epochs,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "run": args.run,
        "deadline_s": args.deadline,
        "inbox": str(Path(args.inbox).absolute()) if args.inbox else "",  # noqa: ASYNC240  no I/O
    }
    return await admin.wait(await admin.start("rounds", body), watch)


async def _import(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    return await admin.call("POST", "/api/v1/models/import", import_request(args))


async def _key_create(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    return await admin.call("POST", "/api/v1/keys", {"name": args.name, "scopes": args.scope})


async def _rounds(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    return await admin.call("GET", f"/api/v1/rounds?{urlencode({'run': args.run})}")


def _call(method: str, path: str, argument: str = "") -> Command:
    """A command that is one call; `argument` names the thing that it is about."""

    async def call(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
        thing = f"/{segment(getattr(args, argument))}" if argument else ""
        return await admin.call(method, f"/api/v1/{path}{thing}")

    return call


COMMANDS: dict[str, Command] = {
    "train": _train,
    "slice": _slice,
    "slice-import": import_onnx,
    "slice-plan": _plans,
    "slice-list": comparing.listed,
    "slice-compare": comparing.compared,
    "release": _release,
    "release-list": _call("GET", "releases"),
    "release-show": _call("GET", "releases", "release"),
    "rollout": _rollout,
    "rollout-list": _call("GET", "rollouts"),
    "rollout-show": _call("GET", "rollouts", "rollout"),
    "token": _token,
    "device-list": _call("GET", "devices"),
    "device-show": _call("GET", "devices", "device"),
    "device-revoke": _call("DELETE", "devices", "device"),
    "round-statistics": _statistics,
    "round-train": _round_train,
    "round-list": _rounds,
    "model-list": _call("GET", "models"),
    "model-show": _call("GET", "models", "model"),
    "model-import": _import,
    "model-graph": looking.graph,
    "model-explain": looking.explain,
    "key-create": _key_create,
    "key-list": _call("GET", "keys"),
    "key-revoke": _call("DELETE", "keys", "id"),
}

COLUMNS: dict[str, tuple[str, ...]] = {
    "device-list": (
        "id",
        "online",
        "inventory.board.name",
        "reported.state",
        "reported.release.slice",
        "stats.predictions",
        "stats.alarms",
        "last_seen",
    ),
    "model-list": ("id", "recipe", "parameters", "metrics.val_mse", "parent", "created"),
    "release-list": ("id", "model", "channel", "created"),
}
"""What a list shows of things that are mostly nested; dotted names into the JSON."""
