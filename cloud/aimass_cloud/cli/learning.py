"""`aimass learn`: a model goes on learning from a folder, until it is told to stop."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aimass_shared.claims import claimed
from aimass_shared.settings import load

if TYPE_CHECKING:
    from aimass_cloud.training.incremental import Published

Register = Callable[[Path], str]
"""Tells the coordinator of a model in a directory; gives the id that it has there."""


class Stop:
    """Whether a signal, or the number of turns that was asked for, ends the learning."""

    def __init__(self, turns: int) -> None:
        """Take how many turns there may be, 0 for no end."""
        self._turns = turns or -1
        self._told = False

    def listen(self) -> None:
        """End at SIGINT and SIGTERM: after the turn that is under way."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._tell)

    def __call__(self) -> bool:
        """Whether it is over."""
        self._turns -= 1
        return self._told or self._turns == -1

    def _tell(self, *_signal: object) -> None:
        self._told = True


def learn(args: argparse.Namespace, register: Register | None) -> int:
    """Learn until told to stop; the exit code.

    Raises:
        NotFoundError: there is no model in the directory.
        RequestError: the model does not learn on telemetry.
        ConflictError: another process learns in the folder.
        StorageError: the folder cannot be written.
    """
    from aimass_cloud.models.trained import TrainedModel  # noqa: PLC0415  the others start faster
    from aimass_cloud.training.incremental import (  # noqa: PLC0415  torch is slow to import
        Learner,
        Policy,
        follow,
    )

    policy = load(Policy, prefix="AIMASS_LEARN_", files=[Path(args.config)] if args.config else [])
    folder, given = Path(args.dir), Path(args.model)
    model = TrainedModel.load(given / "model" if (given / "model").is_dir() else given)

    def tell(published: "Published") -> None:
        _say(_about(published, folder, register), json=args.json)

    stop = Stop(args.turns)
    stop.listen()
    learner = Learner(model, folder, policy=policy, publish=tell)
    # Two learners would take each other's arrivals.
    held = f"another process learns in {folder}: stop it, or choose another --dir"
    with claimed(folder / "lock", otherwise=held):
        learner.open()
        sys.stderr.write(f"{learner.model.id} learns from {folder / 'inbox'}\n")
        follow(learner, stop)
        learner.close()
    return 0


def _about(published: "Published", folder: Path, register: Register | None) -> dict[str, Any]:
    directory = folder / published.model.id
    return {
        "model": published.model.id,
        "directory": str(directory),
        "reason": published.reason,
        "error": round(published.error, 6),
        "before": round(published.before, 6),
        "registered": register(directory.absolute()) if register else "",
    }


def _say(about: dict[str, Any], *, json: bool) -> None:
    """One line for each candidate, as it comes."""
    words = (f"{name} {value}" for name, value in about.items() if value != "")
    sys.stdout.write(f"{msgspec.json.encode(about).decode() if json else '  '.join(words)}\n")
    sys.stdout.flush()
