"""Engines that were built on this device, kept by what they were built from.

One file each: a line of JSON that says what it is, and the engine. What is damaged counts as not
there. Nothing here knows TensorRT.
"""

import hashlib
import os
from pathlib import Path

import msgspec

from aimass_edge.durable import replace_durably

SUFFIX = ".engine"


class EngineKey(msgspec.Struct, frozen=True):
    """What an engine follows from; another value of any is another engine.

    Attributes:
        model: SHA-256 of the ONNX file, whose types are the precision (the network is strongly
            typed). formats: those types, for people.
        package: `tensorrt` or `tensorrt_rtx`. version: of it.
        capability: compute capability of the GPU. most_batch: of the optimisation profile.
    """

    model: str
    formats: tuple[str, ...]
    package: str
    version: str
    capability: str
    most_batch: int
    workspace_mib: int

    @property
    def name(self) -> str:
        """Name of its file, without the suffix."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]


class _Head(msgspec.Struct, frozen=True):
    key: EngineKey
    sha256: str


class EngineCache:
    """The engines in a folder."""

    def __init__(self, folder: Path, kept: int) -> None:
        self._folder = folder
        self._kept = kept

    @property
    def lock(self) -> Path:
        """A file that whoever builds holds, so that none is built twice at the same time."""
        return self._folder / "lock"

    def find(self, key: EngineKey) -> bytes | None:
        """An engine, if it is there and every byte of it is as it was written."""
        path = self._path(key)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        line, _, engine = raw.partition(b"\n")
        if _head(line) != _Head(key, hashlib.sha256(engine).hexdigest()):
            return None
        _touch(path)
        return engine

    def keep(self, key: EngineKey, engine: bytes) -> None:
        """Keep an engine, and let go of the one that was not used for longest.

        Raises:
            OSError: the disk refuses; what was there is as before.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        head = _Head(key, hashlib.sha256(engine).hexdigest())
        replace_durably(self._path(key), msgspec.json.encode(head) + b"\n" + engine)
        bound(self._folder, self._kept)

    def drop(self, key: EngineKey) -> None:
        """Remove an engine that turned out to be of no use."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: EngineKey) -> Path:
        return self._folder / f"{key.name}{SUFFIX}"


def bound(folder: Path, kept: int) -> None:
    """Let go of the engines of a folder that were not used for longest."""
    ages = sorted((path.stat().st_mtime_ns, path) for path in folder.glob(f"*{SUFFIX}"))
    for _, path in ages[: -max(1, kept)]:
        path.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _head(line: bytes) -> _Head | None:
    try:
        return msgspec.json.decode(line, type=_Head)
    except msgspec.DecodeError:
        return None


def _touch(path: Path) -> None:
    """Mark it as used; on a disk that is read-only it only ages."""
    try:
        os.utime(path)
    except OSError:
        return
