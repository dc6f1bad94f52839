"""Files that are there whole or not at all, whenever the process or the power goes."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aimass_shared.errors import StorageError, StorageFullError


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the file (mode 0600), then rename over it: readers see the old file or the new.

    Its folder is made if need be.

    Raises:
        StorageFullError: the disk is full; what was there is as before.
        StorageError: the disk refuses otherwise; what was there is as before.
    """
    with refused(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            with suppress(FileNotFoundError):
                Path(name).unlink()
        make_durable(path.parent)


def make_durable(path: Path) -> None:
    """Have a file or the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, read in parts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """Turn what a disk says in the block into an error that helps.

    Raises:
        StorageFullError: the disk is full.
        StorageError: the disk refuses otherwise.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(f"the disk is full at {path}: free some space") from error
        raise StorageError(f"the disk refused {path}: {error.strerror}") from error
