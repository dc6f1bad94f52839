"""A trained model as data: arrays, contract, samples, and how well it did; a directory on disk.

Arrays lie in one safetensors file (no pickle), samples and assets in files of their own, all else
in one JSON file that is written last and carries the digests of the others: a directory is whole
or not there. Nothing here computes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from aimass_cloud.models.files import write_whole
from aimass_cloud.models.nesting import WIDTHS, Nesting
from aimass_cloud.models.samples import Samples
from aimass_shared.errors import NotFoundError, StateCorruptError
from aimass_shared.manifest import Contract, Role

ARRAYS = "arrays.safetensors"
SAMPLES = "samples.npz"
INFO = "model.json"
ASSET = "asset-"
_WEIGHT, _CONSTANT = "weight/", "constant/"

Arrays = dict[str, NDArray[np.float32]]


class ModelInfo(msgspec.Struct, frozen=True):
    """What a model is, beside its arrays.

    Attributes:
        id: name and digest of the arrays. parent: id of the model that it continues, or "".
        config: sizes of the network, as the recipe's own struct has them.
        metrics: figures and baselines, measured on data that nothing was chosen on.
        created: UTC milliseconds since 1970.
        widths: those that were trained, the full one first; others are not usable.
        axes: axes of each weight that shrink with the width.
        per_width: constants that have a leading axis of widths: each width has its own.
        data: where the training data were, "" for those that ship.
    """

    id: str
    recipe: str
    parent: str
    seed: int
    config: dict[str, Any]
    contract: Contract
    metrics: dict[str, Any]
    created: int
    widths: tuple[float, ...] = WIDTHS
    axes: dict[str, tuple[int, ...]] = {}
    per_width: tuple[str, ...] = ()
    data: str = ""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model that can be sliced, evaluated and continued.

    Attributes:
        weights: what training changes, full width, float32, by the names of parameters.
        constants: what it does not, by the names of buffers; those of `info.per_width` are chosen
            anew for each descendant, the others are the same in all.
        samples: what it is judged, calibrated and tested with.
        assets: files that a slice needs beside its graph, by role.
    """

    info: ModelInfo
    weights: Arrays
    constants: Arrays
    samples: Samples
    assets: Mapping[Role, bytes] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The model's name and the digest of its arrays."""
        return self.info.id

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures and baselines, measured on data that nothing was chosen on."""
        return self.info.metrics

    @property
    def nesting(self) -> Nesting:
        """The elastic axes of the weights."""
        return Nesting(self.info.axes)

    def at(self, width: float) -> Arrays:
        """Weights and constants of a width, by the names of the network's parameters and buffers.

        Raises:
            NotFoundError: the model was not trained at that width.
        """
        widths = self.info.widths
        if width not in widths:
            raise NotFoundError(f"width {width} was not trained; there are: {widths}")
        own = {name: self.constants[name][widths.index(width)] for name in self.info.per_width}
        return {**self.constants, **own, **self.nesting.sliced(self.weights, width)}

    @property
    def parameters(self) -> int:
        """How many numbers training changes."""
        return sum(array.size for array in self.weights.values())

    def save(self, directory: Path) -> None:
        """Write the model into a directory, which is made if need be."""
        directory.mkdir(parents=True, exist_ok=True)
        files = {
            ARRAYS: save(_joined(self.weights, self.constants)),
            SAMPLES: self.samples.packed(),
            **{f"{ASSET}{role}": content for role, content in self.assets.items()},
        }
        for name, content in files.items():
            write_whole(directory / name, content)
        digests = {name: _digest(content) for name, content in files.items()}
        sheet = _Sheet(digests, tuple(self.assets), self.info)
        write_whole(directory / INFO, msgspec.json.format(msgspec.json.encode(sheet)))

    @classmethod
    def load(cls, directory: Path) -> "TrainedModel":
        """Read a model that `save` wrote.

        Raises:
            NotFoundError: there is no model in the directory.
            StateCorruptError: its files are damaged or do not belong together.
        """
        try:
            sheet = msgspec.json.decode((directory / INFO).read_bytes(), type=_Sheet)
            files = {name: (directory / name).read_bytes() for name in sheet.sha256}
        except FileNotFoundError as error:
            raise NotFoundError(f"no model in {directory.name}: {error.filename}") from error
        except msgspec.DecodeError as error:
            raise StateCorruptError(f"model sheet {INFO} does not decode: {error}") from error
        for name, content in files.items():
            if _digest(content) != sheet.sha256[name]:
                raise StateCorruptError(
                    f"{name} of model {sheet.info.id} does not match its digest"
                )
        weights, constants = _parted(files[ARRAYS])
        return cls(
            info=sheet.info,
            weights=weights,
            constants=constants,
            samples=Samples.unpacked(files[SAMPLES]),
            assets={role: files[f"{ASSET}{role}"] for role in sheet.assets},
        )


class _Sheet(msgspec.Struct, frozen=True):
    sha256: dict[str, str]
    assets: tuple[Role, ...]
    info: ModelInfo


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
