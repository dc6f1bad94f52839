"""Checkpoints of a training: whole or not there, and the same for any number of processes.

A checkpoint is a directory `step-00000200`: tensors in safetensors files, then one JSON file with
their digests, written last. Nothing random is in it: batch and dropout of a step follow from the
seed and its number alone.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from aimass_cloud.models.files import digest_of, make_durable, refused, write_whole
from aimass_cloud.models.network import Tensors
from aimass_cloud.training.history import Row
from aimass_cloud.training.looking import Best
from aimass_shared.errors import StateCorruptError

KEPT = 2
STEP = "step-"
SHEET = "checkpoint.json"
WEIGHTS, OPTIMIZER, AVERAGE, BEST = "weights", "optimizer", "average", "best"


@dataclass(frozen=True, eq=False)
class State:
    """All that a training needs to go on after a step.

    Attributes:
        step: steps taken. best: of the looks so far. rows: of all looks.
        weights: full ones, by the names of the network's parameters.
        optimizer: its full state, by name of the parameter and of the value (`NAME/exp_avg`).
        average: moving average of the weights, empty where there is none.
        scaler: of the loss in fp16, empty elsewhere.
    """

    step: int
    best: Best
    rows: tuple[Row, ...]
    weights: Tensors
    optimizer: Tensors
    average: Tensors = field(default_factory=dict)
    scaler: Mapping[str, float] = field(default_factory=dict)


class _Sheet(msgspec.Struct, frozen=True):
    step: int
    best_step: int
    best_error: float
    rows: tuple[Row, ...]
    scaler: dict[str, float]
    sha256: dict[str, str]


class Checkpoints:
    """The checkpoints in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, state: State) -> None:
        """Write a checkpoint, then remove those that are too old or not whole.

        Raises:
            StorageFullError: the disk is full; the checkpoints before are as they were.
            StorageError: the disk refuses otherwise.
        """
        folder = self._folder(state.step)
        parts = {
            WEIGHTS: state.weights,
            OPTIMIZER: state.optimizer,
            AVERAGE: state.average,
            BEST: state.best.weights,
        }
        with refused(folder):
            _remove(folder)
            folder.mkdir(parents=True)
            digests = {name: _saved(folder / name, part) for name, part in parts.items()}
        sheet = _Sheet(
            step=state.step,
            best_step=state.best.step,
            best_error=state.best.error,
            rows=state.rows,
            scaler=dict(state.scaler),
            sha256=digests,
        )
        write_whole(folder / SHEET, msgspec.json.format(msgspec.json.encode(sheet)))
        make_durable(self._directory)
        self._prune()

    def newest(self) -> int:
        """Step of the newest checkpoint whose files are whole, 0 if there is none.

        Raises:
            StateCorruptError: there are checkpoints, and all of them are damaged.
        """
        steps = self._steps()
        whole = next((step for step in steps if self._is_whole(step)), 0)
        if steps and not whole:
            raise StateCorruptError(
                f"all checkpoints in {self._directory} are damaged: remove them to begin anew"
            )
        return whole

    def load(self, step: int) -> State:
        """Read a checkpoint.

        Raises:
            StateCorruptError: it is damaged.
        """
        folder = self._folder(step)
        sheet = self._sheet(step)
        try:
            parts = {name: load_file(_file(folder / name)) for name in sheet.sha256}
        except (OSError, SafetensorError) as error:
            raise StateCorruptError(f"checkpoint {folder} does not decode: {error}") from error
        return State(
            step=sheet.step,
            best=Best(sheet.best_error, sheet.best_step, parts[BEST]),
            rows=sheet.rows,
            weights=parts[WEIGHTS],
            optimizer=parts[OPTIMIZER],
            average=parts[AVERAGE],
            scaler=sheet.scaler,
        )

    def _folder(self, step: int) -> Path:
        return self._directory / f"{STEP}{step:08d}"

    def _steps(self) -> list[int]:
        """Steps of all checkpoints with a sheet, the newest first."""
        sheets = self._directory.glob(f"{STEP}*/{SHEET}")
        return sorted((int(sheet.parent.name.removeprefix(STEP)) for sheet in sheets), reverse=True)

    def _sheet(self, step: int) -> _Sheet:
        try:
            return msgspec.json.decode((self._folder(step) / SHEET).read_bytes(), type=_Sheet)
        except (OSError, msgspec.DecodeError) as error:
            raise StateCorruptError(
                f"checkpoint of step {step} does not decode: {error}"
            ) from error

    def _is_whole(self, step: int) -> bool:
        folder = self._folder(step)
        try:
            digests = self._sheet(step).sha256
            return all(digest_of(_file(folder / name)) == digests[name] for name in digests)
        except (OSError, StateCorruptError):
            return False

    def _prune(self) -> None:
        kept = {self._folder(step) for step in self._steps()[:KEPT]}
        for folder in self._directory.glob(f"{STEP}*"):
            if folder not in kept:
                _remove(folder)


def _remove(folder: Path) -> None:
    """The sheet first: what is left of a checkpoint must not look like one."""
    (folder / SHEET).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _file(path: Path) -> Path:
    return path.with_name(f"{path.name}.safetensors")


def _saved(path: Path, tensors: Tensors) -> str:
    """Write tensors for good; the digest of the file."""
    file = _file(path)
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, file)
    make_durable(file)
    return digest_of(file)
