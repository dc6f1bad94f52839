"""A time series in many Parquet files, streamed: memory depends on its width, not on its length.

A column is a sensor, a time, a label or a site by its name (`columns`). Rows are in time order in
each file, files in name order; together they are one series, or one for each site where there is a
column `site`. Files are read a row group at a time, which is why these have a limit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, cycle, islice, repeat
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aimass_cloud.datasets import columns
from aimass_cloud.datasets.order import Integers, Order, Stretch
from aimass_cloud.datasets.places import PARQUET, Place, located
from aimass_cloud.datasets.tables import Table, plain
from aimass_shared.errors import ConflictError, DataError

Rows = NDArray[np.float32]

BLOCK_ROWS: Final = 4096
"""Rows of a row group as `write` makes it, and the least that is read at once for windows."""
MOST_BLOCK_BYTES: Final = 256 << 20
"""Of a block as float32; files with larger row groups have to be written anew."""
OPEN_BYTES: Final = 256 << 20
MOST_OPEN: Final = 32
"""Blocks that are mixed and open at once: as many as fit `OPEN_BYTES`, at most these."""


@dataclass(frozen=True, eq=False)
class Shards:
    """A series in Parquet files; make one with `Shards.open`.

    Attributes:
        names: the sensors, in the order of the columns. others: all other columns.
        files: in name order. shard_rows: rows of each.
        groups: number of the file of each row group, and of the group within it, `[groups, 2]`.
        edges: rows at which row groups begin, and where the last ends, `[groups + 1]`.
        stretches: rows that are used, by site; `within` narrows them.
    """

    names: tuple[str, ...]
    others: tuple[str, ...]
    files: tuple[Place, ...]
    shard_rows: tuple[int, ...]
    groups: Integers
    edges: Integers
    stretches: tuple[Stretch, ...]

    @classmethod
    def open(cls, address: str | Place) -> "Shards":
        """Read how long each file is, and where sites begin; no values.

        Raises:
            DataError: there are no Parquet files, they differ in columns, a column is not of
                numbers, or a row group is over the limit.
            DownloadFailedError: the store does not answer.
        """
        files = located(address).tables
        schema, lengths = _footer(files[0])
        all_lengths = [lengths, *(_footer(file, schema)[1] for file in files[1:])]
        groups = [
            (file, index) for file, one in enumerate(all_lengths) for index in range(len(one))
        ]
        edges = np.cumsum([0, *(rows for one in all_lengths for rows in one)], dtype=np.int64)
        whole = cls(
            names=columns.sensors(schema.names),
            others=tuple(name for name in schema.names if name.lower() in columns.ROLES),
            files=files,
            shard_rows=tuple(sum(one) for one in all_lengths),
            groups=np.array(groups, np.int64).reshape(-1, 2),
            edges=edges,
            stretches=(Stretch("", 0, int(edges[-1])),),
        )
        return whole.within(whole._sites())

    @property
    def rows(self) -> int:
        """Rows that are used."""
        return sum(stretch.rows for stretch in self.stretches)

    def within(self, stretches: Iterable[Stretch]) -> "Shards":
        """The same files, of which only these rows are used."""
        kept = tuple(one for one in stretches if one.rows > 0)
        return replace(self, stretches=kept)

    def head(self) -> Table:
        """All columns of the first row group, for what their names and times tell."""
        with self.files[0].opened() as handle:
            return plain(pq.ParquetFile(handle).read_row_group(0, use_threads=False), self.files[0])

    def rows_from(self, start: int, block: int, *, stop: int | None = None) -> Iterator[Rows]:
        """Rows `start` to `stop` of the files in order, `[block, S]` each, the last one shorter."""
        last = int(self.edges[-1]) if stop is None else stop
        return _evenly(self._read(start, last), repeat(block))

    def order(self, length: int, stride: int) -> Order:
        """The windows that there are; `total` says how many.

        Raises:
            DataError: there is none, as no stretch is long enough.
        """
        bounds = self._bounds()
        largest = int(np.diff(bounds).max(initial=1)) + length
        together = OPEN_BYTES // (largest * len(self.names) * np.float32().nbytes)
        order = Order(bounds, self.stretches, length, stride, min(max(together, 1), MOST_OPEN))
        if not order.total:
            longest = max((stretch.rows for stretch in self.stretches), default=0)
            raise DataError(
                f"no window of {length} rows fits: the longest stretch of one site has {longest} "
                "rows; take a shorter window, or sort the rows by site, then by time"
            )
        return order

    def windows(  # noqa: PLR0913  all by name, and each changes the sequence
        self,
        length: int,
        *,
        stride: int,
        batch: int,
        seed: int,
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[Rows]:
        """Batches of windows `[batch, length, S]` in the order of one epoch (see `Order`).

        The sequence depends on these arguments and the files alone. An incomplete last batch is
        left out: an epoch has `order(length, stride).total // batch`.

        Args:
            length: rows of a window.
            stride: rows between windows.
            batch: windows of one step over all processes, of which `rank` gets each `world`-th.
            seed: of all epochs.
            epoch: each has its own order.
            rank: of this process.
            world: number of processes.
            start: batches of this epoch that were taken before; they are not read.

        Raises:
            DataError: no window fits, or a file changed.
        """
        order = self.order(length, stride)
        size = len(range(rank, batch, world))
        places = np.arange(batch)
        made = self._blank(size, length)
        filled = 0
        for blocks, starts in order.rounds(seed, epoch, start * batch):
            opened = _Opened(order.bounds, {int(one): self._block(order, one) for one in blocks})
            taken = 0
            while taken < len(starts):
                part = starts[taken : taken + batch - filled]
                mine = places[filled : filled + len(part)] % world == rank
                opened.copy(part[mine], made[len(range(rank, filled, world)) :])
                taken, filled = taken + len(part), filled + len(part)
                if filled == batch:
                    yield made
                    made, filled = self._blank(size, length), 0
            del opened  # before the next ones are read

    def _blank(self, size: int, length: int) -> Rows:
        return np.empty((size, length, len(self.names)), np.float32)

    def _block(self, order: Order, block: Any) -> Rows:  # noqa: ANN401
        """Rows of a block, and those beyond that its last windows reach into."""
        first, after = (int(row) for row in order.bounds[block : block + 2])
        stop = min(after + order.length - 1, int(self.edges[-1]))
        rows = np.empty((stop - first, len(self.names)), np.float32)
        at = 0
        for part in self._read(first, stop):
            rows[at : at + len(part)] = part
            at += len(part)
        return rows

    def _bounds(self) -> Integers:
        """Rows at which blocks begin: row groups, small ones put together."""
        bounds = [0]
        for edge in self.edges[1:-1].tolist():
            if edge - bounds[-1] >= BLOCK_ROWS:
                bounds.append(edge)
        return np.array([*bounds, self.edges[-1]], np.int64)

    def _read(self, first: int, stop: int) -> Iterator[Rows]:
        """Rows `first` to `stop` in parts of no particular size."""
        for batch, at in self._batches(first, stop, self.names):
            part = _floats(batch, self.names)[max(first - at, 0) : stop - at]
            if len(part):
                yield part

    def _batches(
        self, first: int, stop: int, names: Sequence[str]
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Record batches that hold the rows `first` to `stop`, and the number of their first."""
        group = int(np.searchsorted(self.edges, first, "right")) - 1
        while group < len(self.groups) and self.edges[group] < stop:
            file = int(self.groups[group, 0])
            with self.files[file].opened() as handle:
                parquet = pq.ParquetFile(handle, pre_buffer=True)
                while group < len(self.groups) and self.groups[group, 0] == file:
                    at = int(self.edges[group])
                    for batch in parquet.iter_batches(
                        min(BLOCK_ROWS, stop - at),
                        row_groups=[int(self.groups[group, 1])],
                        columns=list(names),
                        use_threads=False,
                    ):
                        yield batch, at
                        at += batch.num_rows
                        if at >= stop:
                            return
                    group += 1

    def _sites(self) -> Iterator[Stretch]:
        """Stretches of rows of one site each, by reading that column alone."""
        (column, *_) = (*columns.of_role(self.others, columns.SITE), "")
        if not column:
            yield from self.stretches
            return
        first, site = 0, None
        for batch, at in self._batches(0, int(self.edges[-1]), [column]):
            values = batch.column(0).to_numpy(zero_copy_only=False)
            changes = np.flatnonzero(values[1:] != values[:-1]) + 1
            for row in [0, *changes.tolist()]:
                if values[row] != site:
                    yield Stretch(str(site), first, at + row)
                    first, site = at + row, values[row]
        yield Stretch(str(site), first, int(self.edges[-1]))


class _Opened:
    """Blocks in memory, by number."""

    def __init__(self, bounds: Integers, blocks: dict[int, Rows]) -> None:
        self._bounds, self._blocks = bounds, blocks

    def copy(self, starts: Integers, into: Rows) -> None:
        """Windows that begin at some rows."""
        numbers = np.searchsorted(self._bounds, starts, "right") - 1
        offsets = starts - self._bounds[numbers]
        for index, (number, offset) in enumerate(
            zip(numbers.tolist(), offsets.tolist(), strict=True)
        ):
            into[index] = self._blocks[number][offset : offset + into.shape[1]]


def write(
    address: str, rows: Rows | Iterable[Rows], names: Sequence[str], *, shard_rows: int
) -> None:
    """Write a series as Parquet files `part-00000.parquet` and so on.

    Args:
        address: of a folder without Parquet files, or of one that is not there yet.
        rows: `[rows, S]`, or several of them one after the other.
        names: of the sensors.
        shard_rows: of each file but the last.

    Raises:
        ConflictError: the folder holds Parquet files.
    """
    place = located(address)
    place.make_folder()
    if any(one.ending == PARQUET for one in place.entries):
        raise ConflictError(f"{place} holds Parquet files; name a new folder")
    schema = pa.schema([(name, pa.float32()) for name in names])
    whole, rest = divmod(shard_rows, BLOCK_ROWS)
    sizes = [BLOCK_ROWS] * whole + [rest] * (rest > 0)
    groups = _evenly([rows] if isinstance(rows, np.ndarray) else rows, cycle(sizes))
    for number in count():
        first = next(groups, None)
        if first is None:
            return
        shard = chain([first], islice(groups, len(sizes) - 1))
        _write_one(place / f"part-{number:05d}{PARQUET}", shard, schema)


def _write_one(file: Place, groups: Iterable[Rows], schema: pa.Schema) -> None:
    with (
        file.opened("wb") as handle,
        pq.ParquetWriter(handle, schema, use_dictionary=False, compression="zstd") as writer,
    ):
        for group in groups:
            writer.write_table(pa.table(list(group.T), schema=schema))


def _evenly(parts: Iterable[Rows], sizes: Iterator[int]) -> Iterator[Rows]:
    """The same rows in parts of other sizes, the last one shorter."""
    made, filled = np.empty((0, 0), np.float32), 0
    for part in parts:
        taken = 0
        while taken < len(part):
            if not filled:
                made = np.empty((next(sizes), part.shape[1]), np.float32)
            piece = part[taken : taken + len(made) - filled]
            made[filled : filled + len(piece)] = piece
            taken, filled = taken + len(piece), filled + len(piece)
            if filled == len(made):
                yield made
                filled = 0
    if filled:
        yield made[:filled]


def _footer(file: Place, like: pa.Schema | None = None) -> tuple[pa.Schema, list[int]]:
    """Columns of a file, and the rows of its row groups."""
    if file.ending != PARQUET:
        raise DataError(f"{file} is no Parquet file; only those are streamed")
    with file.opened() as handle:
        parquet = pq.ParquetFile(handle)
        groups = (parquet.metadata.row_group(index) for index in range(parquet.num_row_groups))
        lengths = [int(group.num_rows) for group in groups]
        schema = parquet.schema_arrow
    names = columns.sensors(schema.names)
    if like is not None and (odd := sorted(set(like.names) ^ set(schema.names))):
        raise DataError(f"{file}: this file or the first one has no column {odd[0]!r}")
    for name in names:
        if not _is_numeric(schema.field(name).type):
            kind = schema.field(name).type
            raise DataError(f"{file}, column {name!r} holds no numbers ({kind}); leave it out")
    if max(lengths, default=0) * len(names) * np.float32().nbytes > MOST_BLOCK_BYTES:
        raise DataError(
            f"{file}: a row group has {max(lengths)} rows, over {MOST_BLOCK_BYTES >> 20} MiB; "
            f"write it with smaller ones (some {BLOCK_ROWS} rows)"
        )
    return schema, lengths


def _is_numeric(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def _floats(batch: pa.RecordBatch, names: Sequence[str]) -> Rows:
    """Values side by side; what is missing or not finite is NaN."""
    rows = np.empty((batch.num_rows, len(names)), np.float32)
    for index, name in enumerate(names):
        column = batch.column(name).cast(pa.float32(), safe=False)
        rows[:, index] = column.to_numpy(zero_copy_only=False)
    rows[~np.isfinite(rows)] = np.nan
    return rows
