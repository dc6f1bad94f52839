import errno
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_cloud.store import Blobs
from aimass_shared.errors import (
    AimassError,
    BadDigestError,
    BodyTooLargeError,
    NotFoundError,
    StorageError,
    StorageFullError,
)

ABSENT = hashlib.sha256(b"absent").hexdigest()


async def _stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _broken() -> AsyncIterator[bytes]:
    yield b"half"
    raise ConnectionResetError(errno.ECONNRESET, "reset")


async def _read(blobs: Blobs, name: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in blobs.read(name, start, stop)])


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def _files(blobs: Blobs) -> list[Path]:
    return [path for path in blobs._root.rglob("*") if path.is_file()]


def test_a_blob_is_named_by_its_bytes_and_put_once(blobs: Blobs) -> None:
    name = blobs.put(b"abc")
    assert name == blobs.put(b"abc") == hashlib.sha256(b"abc").hexdigest()
    assert (blobs.has(name), blobs.size(name)) == (True, 3)
    assert _files(blobs) == [blobs.path(name)]


def test_a_file_is_copied(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(700_000))
    assert blobs.path(blobs.put_file(source)).read_bytes() == source.read_bytes()


async def test_a_stream_is_kept_if_it_is_what_was_announced(blobs: Blobs) -> None:
    name = hashlib.sha256(b"abcdef").hexdigest()
    assert await blobs.put_stream(_stream(b"abc", b"", b"def"), name, 6) == 6
    assert blobs.path(name).read_bytes() == b"abcdef"


@pytest.mark.parametrize(
    ("stream", "limit", "error"),
    [
        (_stream(b"abcdeX"), 6, BadDigestError),
        (_stream(b"abc"), 6, BadDigestError),
        (_stream(b"abcdef", b"g"), 6, BodyTooLargeError),
        (_broken(), 6, ConnectionResetError),
    ],
)
async def test_a_stream_that_goes_wrong_leaves_nothing(
    blobs: Blobs, stream: AsyncIterator[bytes], limit: int, error: type[Exception]
) -> None:
    name = hashlib.sha256(b"abcdef").hexdigest()
    with pytest.raises(error):
        await blobs.put_stream(stream, name, limit)
    assert not blobs.has(name)
    assert _files(blobs) == []


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "A" * 64, "incoming", "0" * 63, f"{'0' * 63}\n"]
)
async def test_a_name_that_is_no_digest_reaches_no_file(blobs: Blobs, name: str) -> None:
    blobs.put(b"abc")
    assert not blobs.has(name)
    with pytest.raises(NotFoundError):
        blobs.path(name)
    with pytest.raises(BadDigestError):
        await blobs.put_stream(_stream(b"abc"), name, 10)


async def test_an_absent_blob_is_not_found(blobs: Blobs) -> None:
    with pytest.raises(NotFoundError):
        await _read(blobs, ABSENT)


@given(
    data=st.binary(max_size=64),
    start=st.integers(0, 70),
    stop=st.one_of(st.none(), st.integers(0, 70)),
)
async def test_ranges_are_those_of_python(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: int, stop: int | None
) -> None:
    blobs = Blobs(tmp_path_factory.getbasetemp() / "ranges")
    assert await _read(blobs, blobs.put(data), start, stop) == data[start:stop]


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, StorageFullError), (errno.EIO, StorageError)]
)
def test_a_refusing_disk_is_a_clear_error_and_leaves_nothing(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, number: int, error: type[AimassError]
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(error):
        blobs.put(b"abc")
    assert _files(blobs) == []


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_answer(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        calls.append("directory" if os.path.isdir(descriptor) else "file")  # noqa: PTH112  descriptor
        fsync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    blobs.put(b"abc")
    assert calls == ["file", "rename", "directory"]


def test_sweep_removes_what_a_crash_left(blobs: Blobs) -> None:
    kept = blobs.put(b"abc")
    (blobs._incoming / "x.part").write_bytes(b"half")
    assert blobs.sweep() == 1
    assert _files(blobs) == [blobs.path(kept)]
