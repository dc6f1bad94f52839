"""The lock of a data directory: one living agent holds it, and its end frees it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aimass_shared.errors import ConflictError, StorageError


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the data directory: two agents would take each other's connection and files.

    Raises:
        ConflictError: another agent holds it.
        StorageError: the lock file cannot be written.
    """
    try:
        file = path.open("w")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}: check --data-dir") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"another agent works in {path.parent}: stop it, or choose --data-dir"
            ) from error
        yield
