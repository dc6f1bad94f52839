"""The only door through which this package changes the disk, so that tests can record or fail it.

Every method is one operation with one possible failure; when data is durable is said by the caller
with `fsync` and `fsync_dir`. Reading needs no door.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aimass_shared.errors import StorageError, StorageFullError


class Fs:
    """The real disk."""

    def write(self, path: Path, data: bytes) -> None:
        """Make or replace a file."""
        path.write_bytes(data)

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a file, which is made if it is not there."""
        with path.open("ab") as handle:
            handle.write(data)

    def fsync(self, path: Path) -> None:
        """Make the bytes of a file durable."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def fsync_dir(self, path: Path) -> None:
        """Make the names in a directory durable."""
        Fs.fsync(self, path)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file or directory; a file at `target` is replaced in one step."""
        source.rename(target)

    def mkdir(self, path: Path) -> None:
        """Make a directory, with those above it, unless it is there."""
        path.mkdir(parents=True, exist_ok=True)

    def remove(self, path: Path) -> None:
        """Remove a file or a directory with all in it, unless it is gone."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn what the disk says into our errors.

    Raises:
        StorageFullError: there is no space left, or a quota is used up.
        StorageError: anything else that the disk refuses.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or "data_dir"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(
                f"the disk is full at {where}: free some space; what is downloaded is kept"
            ) from error
        raise StorageError(
            f"the disk refused at {where}: {error.strerror}; check data_dir and its rights"
        ) from error
