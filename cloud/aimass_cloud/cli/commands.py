"""What each admin command does: one call or two of the API, and how its answer is shown."""

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

from aimass_cloud.admin import Admin, Watch

Command = Callable[[Admin, argparse.Namespace, Watch], Awaitable[Any]]


async def _train(admin: Admin, args: argparse.Namespace, watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    body = {"recipe": args.recipe, "seed": args.seed, "base": args.base}
    return await admin.wait(await admin.start("train", body), watch)


async def _slice(admin: Admin, args: argparse.Namespace, watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    return await admin.wait(await admin.start("slice", {"model": args.model}), watch)


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
    }
    return await admin.wait(await admin.start("rounds", body), watch)


async def _key_create(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    return await admin.call("POST", "/api/v1/keys", {"name": args.name, "scopes": args.scope})


def _get(path: str) -> Command:
    """A command that only reads; `{name}` in the path is an argument."""

    async def get(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
        return await admin.call("GET", path.format(**vars(args)))

    return get


def _delete(path: str) -> Command:
    """A command that revokes."""

    async def delete(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
        return await admin.call("DELETE", path.format(**vars(args)))

    return delete


COMMANDS: dict[str, Command] = {
    "train": _train,
    "slice": _slice,
    "release": _release,
    "release-list": _get("/api/v1/releases"),
    "release-show": _get("/api/v1/releases/{release}"),
    "rollout": _rollout,
    "rollout-list": _get("/api/v1/rollouts"),
    "rollout-show": _get("/api/v1/rollouts/{rollout}"),
    "token": _token,
    "device-list": _get("/api/v1/devices"),
    "device-show": _get("/api/v1/devices/{device}"),
    "device-revoke": _delete("/api/v1/devices/{device}"),
    "round-statistics": _statistics,
    "round-train": _round_train,
    "round-list": _get("/api/v1/rounds?run={run}"),
    "model-list": _get("/api/v1/models"),
    "model-show": _get("/api/v1/models/{model}"),
    "key-create": _key_create,
    "key-list": _get("/api/v1/keys"),
    "key-revoke": _delete("/api/v1/keys/{id}"),
}
