"""A trained model as data: its arrays, its contract, and how well it did; a directory on disk.

Arrays lie in one safetensors file (no pickle), all else in one JSON file that is written last and
carries the digest of the arrays: a directory is whole or not there. Nothing here computes.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from aimass_shared.errors import NotFoundError, StateCorruptError
from aimass_shared.manifest import Contract

ARRAYS = "arrays.safetensors"
INFO = "model.json"
_WEIGHT, _CONSTANT = "weight/", "constant/"

Arrays = dict[str, NDArray[np.float32]]


class ForecasterConfig(msgspec.Struct, frozen=True):
    """Sizes of the graph forecaster.

    Attributes:
        hidden: channels at full width, a multiple of 4. steps: graph steps.
        lags: rows that the VAR looks back. embedding: numbers that place a sensor in the graph.
        neighbours: edges that a sensor keeps of the learned graph.
        widths: those that are trained, the full one first; others are not usable.
    """

    hidden: int = 96
    steps: int = 2
    lags: int = 2
    embedding: int = 8
    neighbours: int = 8
    widths: tuple[float, ...] = (1.0, 0.5, 0.25)


class ModelInfo(msgspec.Struct, frozen=True):
    """What a model is, beside its arrays.

    Attributes:
        id: name and digest of the arrays. parent: id of the model that it continues, or "".
        metrics: figures and baselines, measured on data that nothing was chosen on.
        created: UTC milliseconds since 1970.
    """

    id: str
    recipe: str
    parent: str
    seed: int
    config: ForecasterConfig
    contract: Contract
    metrics: dict[str, Any]
    created: int


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model that can be sliced, evaluated and continued.

    Attributes:
        weights: what training changes, full width, float32, by name (see `forecaster.nesting`).
        constants: normalisation, VAR, monitor and graph, the same in all descendants; and `gate`
            `[widths, horizon, S]`, which each descendant chooses for itself.
    """

    info: ModelInfo
    weights: Arrays
    constants: Arrays

    @property
    def id(self) -> str:
        """The model's name and the digest of its arrays."""
        return self.info.id

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures and baselines, measured on data that nothing was chosen on."""
        return self.info.metrics

    @property
    def parameters(self) -> int:
        """How many numbers training changes."""
        return sum(array.size for array in self.weights.values())

    def save(self, directory: Path) -> None:
        """Write the model into a directory, which is made if need be."""
        directory.mkdir(parents=True, exist_ok=True)
        arrays = save(_joined(self.weights, self.constants))
        _replace(directory / ARRAYS, arrays)
        sheet = {"sha256": hashlib.sha256(arrays).hexdigest(), "info": self.info}
        _replace(directory / INFO, msgspec.json.format(msgspec.json.encode(sheet)))

    @classmethod
    def load(cls, directory: Path) -> "TrainedModel":
        """Read a model that `save` wrote.

        Raises:
            NotFoundError: there is no model in the directory.
            StateCorruptError: its files are damaged or do not belong together.
        """
        try:
            sheet = msgspec.json.decode((directory / INFO).read_bytes(), type=_Sheet)
            packed = (directory / ARRAYS).read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(f"no model in {directory.name}: {error.filename}") from error
        except msgspec.DecodeError as error:
            raise StateCorruptError(f"model sheet {INFO} does not decode: {error}") from error
        if hashlib.sha256(packed).hexdigest() != sheet.sha256:
            raise StateCorruptError(f"arrays of model {sheet.info.id} do not match their digest")
        weights, constants = _parted(packed)
        return cls(info=sheet.info, weights=weights, constants=constants)


class _Sheet(msgspec.Struct, frozen=True):
    sha256: str
    info: ModelInfo


def identify(name: str, weights: Mapping[str, Any], constants: Mapping[str, Any]) -> str:
    """Id of a model: its name and a digest of its arrays, the same for the same arrays."""
    packed = save(_joined(weights, constants))
    return f"{name}-{hashlib.sha256(packed).hexdigest()[:12]}"


def _joined(weights: Mapping[str, Any], constants: Mapping[str, Any]) -> Arrays:
    parts = ((_WEIGHT, weights), (_CONSTANT, constants))
    return {
        prefix + name: np.ascontiguousarray(arrays[name], np.float32)
        for prefix, arrays in parts
        for name in sorted(arrays)
    }


def _parted(packed: bytes) -> tuple[Arrays, Arrays]:
    try:
        arrays = load(packed)
    except SafetensorError as error:
        raise StateCorruptError(f"model arrays do not decode: {error}") from error
    weights, constants = (
        {
            name.removeprefix(prefix): array
            for name, array in sorted(arrays.items())
            if name.startswith(prefix)
        }
        for prefix in (_WEIGHT, _CONSTANT)
    )
    return weights, constants


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file, then rename over it: readers see the old file or the new one."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
