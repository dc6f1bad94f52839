"""What comes in while a model learns: a folder that others drop files into, each taken once.

`NAME.parquet` is a shard of telemetry, `NAME.delta.safetensors` an update of sites: differences of
weights, with the model that they were made from in its metadata. A writer gives a file its name
when it is whole. What was taken moves to `taken/`, what is refused to `refused/` with the reason.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from aimass_cloud.models.files import write_whole
from aimass_shared.errors import BadUpdateError

SHARD, DELTA = ".parquet", ".delta.safetensors"
TAKEN, REFUSED = "taken", "refused"
MAX_DELTA_BYTES = 2 << 30

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Delta:
    """An update of sites.

    Attributes:
        base: id of the model that the sites started from.
        weights: what they would change in it, by name, at full width.
    """

    base: str
    weights: Weights

    @classmethod
    def read(cls, path: Path) -> "Delta":
        """Read a file of `Inbox.put`.

        Raises:
            BadUpdateError: it is no update.
        """
        if path.stat().st_size > MAX_DELTA_BYTES:
            raise BadUpdateError(f"{path.name} has more than {MAX_DELTA_BYTES} bytes")
        try:
            with safe_open(path, "numpy") as file:
                about = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            return cls(about["base"], weights)
        except (SafetensorError, KeyError, ValueError) as error:
            raise BadUpdateError(f"{path.name} is no update of sites: {error}") from error


class Inbox:
    """A folder of arrivals."""

    def __init__(self, directory: Path) -> None:
        """Name the folder; it is made when it is opened."""
        self._directory = directory

    def open(self) -> None:
        """Make the folder and those beside it."""
        for name in ("", TAKEN, REFUSED):
            (self._directory / name).mkdir(parents=True, exist_ok=True)

    def put(self, name: str, delta: Delta) -> Path:
        """Drop an update into the folder, whole."""
        path = self._directory / f"{name}{DELTA}"
        about = {"base": delta.base}
        arrays = {key: np.ascontiguousarray(array) for key, array in delta.weights.items()}
        write_whole(path, save(arrays, metadata=about))
        return path

    def arrivals(self) -> list[Path]:
        """Whole files that were not taken yet, oldest first."""
        files = [path for path in self._directory.iterdir() if path.name.endswith((SHARD, DELTA))]
        visible = [path for path in files if not path.name.startswith(".")]
        return sorted(visible, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def taken(self) -> list[Path]:
        """Shards that were taken, oldest first."""
        files = (self._directory / TAKEN).glob(f"*{SHARD}")
        return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def take(self, path: Path) -> Path:
        """Move a file out of the way: its content is in the learner's state."""
        return path.replace(self._directory / TAKEN / path.name)

    def refuse(self, path: Path, reason: str) -> None:
        """Move a file away and say why beside it."""
        aside = self._directory / REFUSED / path.name
        note = {"file": path.name, "reason": reason, "size_bytes": path.stat().st_size}
        write_whole(aside.with_name(f"{path.name}.json"), json.dumps(note, indent=2).encode())
        path.replace(aside)
