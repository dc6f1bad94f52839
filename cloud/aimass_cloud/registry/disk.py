"""Files of the repository, each there whole or not at all, and durable once written. No format."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from aimass_cloud.store.blobs import sync_directory
from aimass_shared.errors import StorageError, StorageFullError


def write_whole(path: Path, data: bytes) -> None:
    """Make or replace a file (mode 0600) in one step that survives a power cut.

    Raises:
        StorageFullError: the disk is full; what was there is as before.
        StorageError: the disk refuses otherwise; what was there is as before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, data)
        sync_directory(path.parent)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(f"the disk is full at {path}: free some space") from error
        raise StorageError(f"the disk refused {path}: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        Path(name).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()
