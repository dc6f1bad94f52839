"""Files and folders, on this machine or in an S3 store, behind one small interface (fsspec).

An address `s3://bucket/key` takes endpoint, region and keys from the usual AWS variables
(`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`).
"""

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from obstore.exceptions import BaseError
from obstore.fsspec import FsspecStore

from aimass_shared.errors import DataError, DownloadFailedError

S3: Final = "s3://"
TEXT: Final = (".csv", ".tsv", ".txt", ".dat")
PARQUET: Final = ".parquet"
SIDE: Final = ("sensors", "graph")
"""Stems of files that describe the tables beside them."""
_GZIP = ".gz"


class _Store(FsspecStore):
    """Made anew for each address, because the environment may have changed."""

    cachable = False


@dataclass(frozen=True)
class Place:
    """One file or folder. `shown` is its address as a person wrote it."""

    shown: str
    path: str
    system: Any

    def __str__(self) -> str:
        """The address, for messages."""
        return self.shown

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The name without `.gz` and without its ending."""
        return PurePosixPath(self.name.removesuffix(_GZIP)).stem

    @property
    def ending(self) -> str:
        """What the file holds, such as `.csv`, whether packed or not; "" for a folder."""
        return PurePosixPath(self.name.removesuffix(_GZIP)).suffix.lower()

    @property
    def is_table(self) -> bool:
        """Whether the ending is one that `tables` reads."""
        return self.ending in (*TEXT, PARQUET)

    @cached_property
    def is_folder(self) -> bool:
        """Whether it is a folder.

        Raises:
            DataError: there is nothing. DownloadFailedError: the store does not answer.
        """
        if self.shown.startswith(S3) and "/" not in self.path:
            return True
        with _told(self):
            return bool(self.system.info(self.path)["type"] == "directory")

    @cached_property
    def entries(self) -> tuple["Place", ...]:
        """What a folder holds, in name order, where numbers count as numbers; no hidden files."""
        with _told(self):
            try:
                paths = [str(one["name"]) for one in self.system.ls(self.path, detail=True)]
            except FileNotFoundError:
                if not self.shown.startswith(S3):
                    raise
                paths = []  # a store has no empty folders
        places = [self / PurePosixPath(path).name for path in paths]
        seen = [one for one in places if one.name and one.name[0] not in "._"]
        return tuple(sorted(seen, key=lambda one: _in_order(one.name)))

    @property
    def tables(self) -> tuple["Place", ...]:
        """The tables of a folder, or the file itself; what describes them is left out.

        Raises:
            DataError: there is none.
        """
        if not self.is_folder:
            return (self,)
        found = [one for one in self.entries if one.is_table and one.stem not in SIDE]
        if not found:
            raise DataError(f"{self} holds no table (CSV, TSV, TXT, DAT or Parquet)")
        return tuple(found)

    def __truediv__(self, name: str) -> "Place":
        """An entry of a folder."""
        return Place(f"{self.shown.rstrip('/')}/{name}", f"{self.path}/{name}", self.system)

    def find(self, stem: str) -> "Place | None":
        """The folder `stem` or the file `stem.*` in this folder."""
        return next((one for one in self.entries if stem in (one.name, one.stem)), None)

    def make_folder(self) -> None:
        """Make the folder, unless it is there; a store has no folders to make."""
        if not self.shown.startswith(S3):
            self.system.makedirs(self.path, exist_ok=True)

    @contextmanager
    def opened(self, mode: str = "rb") -> Iterator[BinaryIO]:
        """The file, for reading or for writing.

        Raises:
            DataError: there is no such file. DownloadFailedError: the store does not answer.
        """
        if mode == "rb" and self.is_folder:
            raise DataError(f"{self} is a folder, not a file")
        with _told(self), self.system.open(self.path, mode) as file:
            yield cast("BinaryIO", file)

    def content(self, limit: int) -> bytes:
        """All bytes of the file, unpacked where it is packed.

        Raises:
            DataError: there are more than `limit`, or it does not unpack.
        """
        with self.opened() as file:
            packed = self.name.endswith(_GZIP)
            try:
                raw = (
                    gzip.GzipFile(fileobj=file).read(limit + 1) if packed else file.read(limit + 1)
                )
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DataError(f"{self} does not unpack: {error}") from error
        if len(raw) > limit:
            raise too_large(self, limit)
        return raw


def located(address: str | Place) -> Place:
    """A path of this machine or an address `s3://bucket/...`."""
    if isinstance(address, Place):
        return address
    if not address.startswith(S3):
        path = os.path.abspath(os.path.expanduser(address))  # noqa: PTH100, PTH111  stays text
        return Place(address, path, LocalFileSystem(auto_mkdir=True))
    # Plain HTTP is refused by the store unless it is asked for; whoever names it has asked.
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    system = _Store("s3", client_options={"allow_http": plain})
    return Place(address, address.removeprefix(S3).rstrip("/"), system)


def too_large(what: object, limit: int) -> DataError:
    """The error of data over a limit in bytes."""
    return DataError(
        f"{what} has more than {limit >> 20} MiB, which is the limit for data in memory; "
        "write the training part as Parquet shards in a folder train/, which are streamed"
    )


def _in_order(name: str) -> list[tuple[str, int]]:
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


@contextmanager
def _told(place: Place) -> Iterator[None]:
    """Errors of the file system in our words."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"there is no file or folder {place}") from error
    except pa.ArrowInvalid as error:
        raise DataError(f"{place} is damaged, or not what its name says: {error}") from error
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror or error}") from error
    except BaseError as error:
        reason = str(error).split("\n", 1)[0]
        raise DownloadFailedError(f"{place}: {reason}; look at the AWS_* variables") from error
