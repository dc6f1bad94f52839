"""Commands about training that need no coordinator, and what one is asked for if it is to train.

Under `torchrun` every process runs the same command; the one that leads speaks.
"""

import argparse
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aimass_cloud import recipes
from aimass_cloud.cli.output import show
from aimass_cloud.recipes.run import RunSettings, chosen
from aimass_shared.errors import InvalidSettingError, MissingExtraError

if TYPE_CHECKING:
    from aimass_cloud.models.trained import TrainedModel
    from aimass_cloud.training.run_directory import RunDirectory

Json = dict[str, Any]


def is_local(args: argparse.Namespace) -> bool:
    """Whether a command is carried out here, without a coordinator."""
    return args.call == "recipe-list" or (args.call == "train" and bool(args.out or args.resume))


def carry_out(args: argparse.Namespace) -> int:
    """Carry out a command here; the exit code.

    Raises:
        MissingExtraError: torch is not installed.
    """
    try:
        answer = _listed() if args.call == "recipe-list" else _trained(args)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("aimass"):
            raise  # a defect of ours, not an extra
        raise MissingExtraError(
            f'this needs {error.name}: pip install "aimass[cloud,train]"'
        ) from error
    if _leads():
        show(answer, json=args.json)
    return 0


def train_request(args: argparse.Namespace) -> Json:
    """The body of `POST /api/v1/jobs/train`."""
    return {
        "recipe": args.recipe or recipes.FLAGSHIP,
        "seed": args.seed,
        "base": args.base,
        "data": _address(args.data) or "",
        "size": args.size or "",
        "config": {**_file(args.config), **_assigned(args)},
    }


def import_request(args: argparse.Namespace) -> Json:
    """The body of `POST /api/v1/models/import`."""
    return {"directory": _address(args.directory)}


def _listed() -> list[Json]:
    found = [recipes.find(name) for name in recipes.names()]
    return [
        {
            "recipe": one.name,
            "summary": one.summary,
            "data": one.layout,
            "sizes": ", ".join(one.sizes),
        }
        for one in found
    ]


def _trained(args: argparse.Namespace) -> Json:
    from aimass_cloud.training import train  # noqa: PLC0415  torch is of [train], slow to import
    from aimass_cloud.training.run_directory import RunDirectory  # noqa: PLC0415  as above

    if args.base:
        raise InvalidSettingError("--base needs the coordinator: leave --out out")
    if not args.out:
        raise InvalidSettingError("--resume needs the directory of the run: --out DIRECTORY")
    place = RunDirectory(Path(args.out))
    recipe, run = _asked(args, place)
    model = train(
        recipe,
        run,
        directory=place.path,
        resume=args.resume,
        progress=_silent if args.json else _told,
    )
    return _told_of(model, place, json=args.json)


def _asked(args: argparse.Namespace, place: "RunDirectory") -> tuple[str, RunSettings]:
    """What is to be trained, and how: a resumed run says what its command line does not."""
    old = place.found() if args.resume else None
    recipe = args.recipe or (old.recipe if old else recipes.FLAGSHIP)
    base = old.settings if old else recipes.find(recipe).run
    own = None if old else recipes.own_run(recipe)
    given = {
        "data": _address(args.data),
        "seed": args.seed,
        "size": args.size,
        **_assigned(args),
    }
    files = [Path(args.config)] if args.config else []
    return recipe, chosen(base, own=own, files=files, given=given)


def _told_of(model: "TrainedModel", place: "RunDirectory", *, json: bool) -> Json:
    about: Json = {
        "directory": str(place.path),
        "model": model.id,
        "recipe": model.info.recipe,
        "parameters": model.parameters,
    }
    plots = [str(path) for path in place.plots]
    if json:
        return {**about, "plots": plots, "metrics": model.metrics}
    training = model.metrics["training"]
    return {
        **about,
        "steps": f"{training['steps']} of {training['steps_taken']}",
        "plots": " ".join(plots),
        "figures": _table(model.metrics),
    }


def _table(metrics: Mapping[str, Any]) -> list[Json]:
    """Figures of all widths, then of what they are compared with."""
    widths: Mapping[str, Json] = metrics["by_width"]
    names = list(next(iter(widths.values())))
    rows = [{"candidate": f"width {width}", **figures} for width, figures in widths.items()]
    for name, figures in metrics["baselines"].items():
        # A baseline of one figure may be that number alone.
        known = figures if isinstance(figures, dict) else {names[0]: figures}
        rows.append({"candidate": name, **{one: known.get(one, "") for one in names}})
    return rows


def _address(data: str | None) -> str | None:
    """An address that means the same elsewhere."""
    return data if not data or urlsplit(data).scheme else str(Path(data).absolute())


def _file(path: str | None) -> Json:
    if path is None:
        return {}
    chosen(RunSettings(), files=[Path(path)])  # says what is wrong, and where
    return tomllib.loads(Path(path).read_text("utf-8"))


def _assigned(args: argparse.Namespace) -> Json:
    """Settings by dotted key; what is no TOML value is text.

    Raises:
        InvalidSettingError: one is not KEY=VALUE.
    """
    return dict(_assignment(text) for text in args.set or ())


def _assignment(text: str) -> tuple[str, object]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise InvalidSettingError(f"--set {text!r} is not KEY=VALUE, such as steps=500")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _told(_fraction: float, message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def _silent(_fraction: float, _message: str) -> None:
    """For programs, which read the answer alone."""
