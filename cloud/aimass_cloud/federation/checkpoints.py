"""A run on disk after every round: arrays as safetensors, all else as JSON, never pickle.

`state.json` names the arrays' file and its digest and is replaced last, so a crash at any moment
leaves the last whole round. One directory for each run; nothing here knows what a round does.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.numpy import load, save

from aimass_cloud.federation.plans import Arrays, RoundRecord
from aimass_shared.errors import StateCorruptError

STATE = "state.json"


class Checkpoint(msgspec.Struct, frozen=True):
    """A run after `number` rounds: the model it started from, and the records of all rounds."""

    model: str
    number: int
    arrays: str
    sha256: str
    records: tuple[RoundRecord, ...]


class Checkpoints:
    """The checkpoints of one run in a directory. Blocks on the disk: use it in a worker thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> tuple[Checkpoint, Arrays] | None:
        """The last whole round, or None if there is none.

        Raises:
            StateCorruptError: the files are damaged; remove the directory to start again.
        """
        path = self._directory / STATE
        try:
            state = msgspec.json.decode(path.read_bytes(), type=Checkpoint)
            packed = (self._directory / Path(state.arrays).name).read_bytes()
            if hashlib.sha256(packed).hexdigest() != state.sha256:
                raise StateCorruptError(f"the arrays beside {path} are not those of its round")
            return state, load(packed)
        except (msgspec.DecodeError, SafetensorError) as error:
            raise StateCorruptError(f"{path} is damaged: remove it to start again") from error
        except FileNotFoundError as error:
            if path.exists():
                raise StateCorruptError(f"the arrays beside {path} are gone") from error
            return None

    def save(self, model: str, arrays: Arrays, records: tuple[RoundRecord, ...]) -> None:
        """Keep the round that was the last of `records`; older arrays are removed."""
        self._directory.mkdir(parents=True, exist_ok=True)
        packed = save({name: arrays[name].copy(order="C") for name in sorted(arrays)})
        number = records[-1].number
        state = Checkpoint(
            model=model,
            number=number,
            arrays=f"round-{number:05d}.safetensors",
            sha256=hashlib.sha256(packed).hexdigest(),
            records=records,
        )
        self._replace(state.arrays, packed)
        self._replace(STATE, msgspec.json.encode(state))
        for path in self._directory.glob("round-*.safetensors"):
            if path.name != state.arrays:
                path.unlink()

    def _replace(self, name: str, content: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._directory, suffix=".part")
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        Path(temporary).replace(self._directory / name)
        _sync_directory(self._directory)


def _sync_directory(path: Path) -> None:
    """Flush a directory, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
