"""Files by content: the name of a blob is the SHA-256 of its bytes. No access rules, no index.

A blob is there whole or not at all: it is written beside its place, flushed to the disk, checked
and renamed. What is there never changes.
"""

import asyncio
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from aimass_shared.errors import (
    BadDigestError,
    BodyTooLargeError,
    NotFoundError,
    StorageError,
    StorageFullError,
)

CHUNK_BYTES = 1 << 18
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """A folder of blobs. The plain methods block on the disk: call them in a thread when large."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"

    def has(self, sha256: str) -> bool:
        """Whether the blob is there."""
        return _DIGEST.fullmatch(sha256) is not None and (self._root / sha256).is_file()

    def path(self, sha256: str) -> Path:
        """Where the blob's bytes are, to read only.

        Raises:
            NotFoundError: there is no such blob, or the name is no digest.
        """
        if not self.has(sha256):
            raise NotFoundError(f"there is no blob {sha256[:64]!r}")
        return self._root / sha256

    def size(self, sha256: str) -> int:
        """Bytes of the blob.

        Raises:
            NotFoundError: there is no such blob.
        """
        return self.path(sha256).stat().st_size

    def put(self, data: bytes) -> str:
        """Keep bytes; return their SHA-256.

        Raises:
            StorageFullError: the disk is full.
        """
        return self._keep(iter((data,)))

    def put_file(self, source: Path) -> str:
        """Keep a copy of a file; return its SHA-256.

        Raises:
            StorageFullError: the disk is full.
        """
        with source.open("rb") as handle:
            return self._keep(_chunks(handle))

    async def put_stream(self, stream: AsyncIterator[bytes], sha256: str, max_bytes: int) -> int:
        """Keep what arrives, if it is what was announced; return its size in bytes.

        Raises:
            BadDigestError: `sha256` is no digest, or not that of the bytes.
            BodyTooLargeError: more than `max_bytes` came.
            StorageFullError: the disk is full.
        """
        if not _DIGEST.fullmatch(sha256):
            raise BadDigestError("a blob is named by its SHA-256: 64 lower-case hex digits")
        with self._temporary() as (handle, name):
            size = await _receive(stream, handle, sha256=sha256, max_bytes=max_bytes)
            await asyncio.to_thread(self._commit, handle, name, sha256)
        return size

    async def read(
        self, sha256: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Bytes `start` to `stop` (exclusive; None = to the end) in chunks.

        Raises:
            NotFoundError: there is no such blob.
        """
        path = self.path(sha256)
        left = (path.stat().st_size if stop is None else stop) - start
        with await asyncio.to_thread(path.open, "rb") as handle:
            handle.seek(start)
            while left > 0:
                chunk = await asyncio.to_thread(handle.read, min(left, CHUNK_BYTES))
                if not chunk:
                    return
                left -= len(chunk)
                yield chunk

    def sweep(self) -> int:
        """Remove what a crash left half-written; only at start, when nothing is being put."""
        left_over = list(self._incoming.glob("*.part"))
        for path in left_over:
            path.unlink(missing_ok=True)
        return len(left_over)

    def _keep(self, chunks: Iterator[bytes]) -> str:
        digest = hashlib.sha256()
        with self._temporary() as (handle, name):
            for chunk in chunks:
                digest.update(chunk)
                handle.write(chunk)
            self._commit(handle, name, digest.hexdigest())
        return digest.hexdigest()

    @contextmanager
    def _temporary(self) -> Iterator[tuple[IO[bytes], str]]:
        """A file beside the blobs that is gone at the end, unless it was committed."""
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(suffix=".part", dir=self._incoming)
            try:
                with os.fdopen(descriptor, "wb") as handle:
                    yield handle, name
            finally:
                with suppress(FileNotFoundError):
                    Path(name).unlink()
        except (ConnectionError, TimeoutError):
            raise  # of the sender's stream: not the disk's fault
        except OSError as error:
            raise _disk_error(error) from error

    def _commit(self, handle: IO[bytes], name: str, sha256: str) -> None:
        handle.flush()
        os.fsync(handle.fileno())
        Path(name).replace(self._root / sha256)
        sync_directory(self._root)


def sync_directory(path: Path) -> None:
    """Flush a directory, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _receive(
    stream: AsyncIterator[bytes], handle: IO[bytes], *, sha256: str, max_bytes: int
) -> int:
    digest, size = hashlib.sha256(), 0
    async for chunk in stream:
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLargeError(f"the blob is over its limit of {max_bytes} bytes")
        digest.update(chunk)
        await asyncio.to_thread(handle.write, chunk)
    if digest.hexdigest() != sha256:
        raise BadDigestError(
            f"the {size} bytes have SHA-256 {digest.hexdigest()}, announced was {sha256}"
        )
    return size


def _chunks(handle: IO[bytes]) -> Iterator[bytes]:
    while chunk := handle.read(CHUNK_BYTES):
        yield chunk


def _disk_error(error: OSError) -> StorageError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFullError("the disk is full: free some space or move data_dir")
    return StorageError(f"the disk refused: {error.strerror}; check data_dir and its rights")
