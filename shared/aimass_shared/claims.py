"""A lock file: one living process holds a directory, and its end, however it comes, frees it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aimass_shared.errors import ConflictError, StorageError


@contextmanager
def claimed(path: Path, *, otherwise: str) -> Iterator[None]:
    """Hold the lock file at `path` for this process alone.

    Args:
        path: of the file, which is made if need be, and its folder.
        otherwise: what the error says where another process holds it, and what to do then.

    Raises:
        ConflictError: another process holds it.
        StorageError: the file or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(otherwise) from error
        yield
