"""Tables that fit in memory: CSV, TSV, text and Parquet files, and folders of them, as columns.

Text is UTF-8 (else Latin-1), plain or packed with gzip. Its separator is found: tab, semicolon,
comma, or any white space; so is whether its first line is a header. One row is one line.
"""

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aimass_cloud.datasets.places import PARQUET, Place, located, too_large
from aimass_shared.errors import DataError

MOST_BYTES: Final = 2 << 30
"""Of a table in memory, unpacked."""
MOST_COLUMNS: Final = 20_000
SAMPLE_LINES, SAMPLE_BYTES = 20, 1 << 20
TIMES: Final = tuple(
    f"{day} {clock}"
    for day in ("%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y")
    for clock in ("%H:%M:%S", "%H:%M")
)
"""Times that are understood beside ISO 8601."""

Column = NDArray[Any]
Table = dict[str, Column]
Rows = NDArray[np.float32]

_WHITE: Final = " "
_EMPTY: Final = ("", "nan", "na", "n/a", "null", "none")
_INDEX: Final = ("", "Unnamed: 0", "__index_level_0__")


class Form(NamedTuple):
    """How a text file is written. `separator` " " is any white space; `decimal` is "." or ","."""

    separator: str
    header: bool
    decimal: str = "."


def read(address: str | Place, *, header: bool | None = None, text: Collection[str] = ()) -> Table:
    """Columns by name: numbers, times (datetime64), or text as objects; missing numbers are NaN.

    Columns without a header are `c0`, `c1` and so on. A first column without a name that numbers
    the rows is left out; one that holds times is `time`.

    Args:
        address: a file, or a folder whose tables are joined in name order.
        header: whether text files have one; None looks at them.
        text: columns that stay text, whatever they look like.

    Raises:
        DataError: there is no such file, it is no table, or it is over `MOST_BYTES` or
            `MOST_COLUMNS`; the detail names the file and, where there is one, the line.
        DownloadFailedError: the store does not answer.
    """
    tables: dict[Place, Table] = {}
    room = MOST_BYTES
    for file in located(address).tables:
        tables[file] = _one(file, room, header=header, text=text)
        room -= sum(column.nbytes for column in tables[file].values())
    return _joined(tables)


def numbers(table: Table, names: Sequence[str], where: object) -> Rows:
    """Columns side by side, `[rows, columns]`; what is missing or not finite is NaN.

    Raises:
        DataError: a column holds something else than numbers; the detail says what and where.
    """
    rows = np.empty((len(next(iter(table.values()), ())), len(names)), np.float32)
    for index, name in enumerate(names):
        column = table[name]
        with np.errstate(over="ignore"):
            rows[:, index] = column if column.dtype.kind in "fiub" else _parsed(column, name, where)
    rows[~np.isfinite(rows)] = np.nan
    return rows


def plain(batch: pa.Table, where: object) -> Table:
    """The columns of an Arrow table as arrays.

    Raises:
        DataError: a column is nested, or two have one name.
    """
    names = [name.strip() for name in batch.column_names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where} has two columns {twice[0]!r}; give each its own name")
    return {
        name: _array(column, f"{where}, column {name!r}")
        for name, column in zip(names, batch.columns, strict=True)
    }


def form_of(lines: Sequence[str], *, header: bool | None = None) -> Form:
    """How a text is written, by its first lines (none of them empty)."""
    separator = _separator(lines)
    decimal = "."
    if separator == ";" and re.search(r"(^|;)\s*-?\d+,\d+\s*(;|$)", lines[-1]):
        decimal = ","
    cells = [[cell.replace(decimal, ".") for cell in _cells(line, separator)] for line in lines[:2]]
    return Form(separator, _has_header(cells) if header is None else header, decimal)


def _separator(lines: Sequence[str]) -> str:
    for separator in "\t;,":
        if len(_cells(lines[0], separator)) > 1:
            return separator
    counts = {len(line.split()) for line in lines}
    return _WHITE if len(counts) == 1 and counts != {1} else ","


def _cells(line: str, separator: str) -> list[str]:
    if separator in "\t ":
        return line.strip("\n").split(None if separator == _WHITE else separator)
    try:
        return next(csv.reader([line], delimiter=separator))
    except csv.Error:  # a text longer than this reader takes
        return [line]


def _has_header(cells: Sequence[Sequence[str]]) -> bool:
    """Words above numbers; or numbers of sensors: whole, all different, above fractions."""
    first, below = cells[0], cells[-1]
    if not all(_is_number(cell) for cell in first):
        return True
    whole = all(cell.strip().isdigit() for cell in first) and len(set(first)) == len(first)
    return whole and sum("." in cell for cell in below) * 2 > len(below)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in _EMPTY
    return True


def _one(file: Place, room: int, *, header: bool | None, text: Collection[str]) -> Table:
    if not file.is_table:
        raise DataError(f"{file} is no table that is known: CSV, TSV, TXT, DAT (.gz) or Parquet")
    if file.ending == PARQUET:
        table = plain(_parquet(file, room), file)
    else:
        table = plain(_text(file, room, header=header, text=text), file)
    if len(table) > MOST_COLUMNS:
        raise DataError(f"{file} has {len(table)} columns, the limit is {MOST_COLUMNS}")
    return _without_index(table, file)


def _parquet(file: Place, room: int) -> pa.Table:
    with file.opened() as handle:
        parquet = pq.ParquetFile(handle)
        groups = (parquet.metadata.row_group(i) for i in range(parquet.num_row_groups))
        if sum(group.total_byte_size for group in groups) > room:
            raise too_large(file, MOST_BYTES)
        return parquet.read(use_threads=False)


def _text(file: Place, room: int, *, header: bool | None, text: Collection[str]) -> pa.Table:
    raw = _utf8(file.content(room))
    head = raw[:SAMPLE_BYTES].decode("utf-8-sig", "replace").splitlines()
    lines = [line for line in head if line.strip()][:SAMPLE_LINES]
    if not lines:
        raise DataError(f"{file} is empty")
    form = form_of(lines, header=header)
    if form.separator == _WHITE:
        raw = b"\n".join(b" ".join(line.split()) for line in raw.splitlines())
    wrong: list[Any] = []
    try:
        table = arrow_csv.read_csv(io.BytesIO(raw), **_options(form, text, wrong))
    except pa.ArrowException as error:
        raise DataError(f"{file}{_complaint(raw, wrong, error)}") from error
    if form.header:
        return table
    return table.rename_columns([f"c{index}" for index in range(table.num_columns)])


def _utf8(raw: bytes) -> bytes:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1").encode()
    return raw


def _options(form: Form, text: Collection[str], wrong: list[Any]) -> Mapping[str, Any]:
    """Options of Arrow's reader; rows of a wrong length are put into `wrong`."""

    def refused(row: Any) -> str:  # noqa: ANN401  of Arrow
        wrong.append(row)
        return "error"

    return {
        "read_options": arrow_csv.ReadOptions(
            use_threads=False, autogenerate_column_names=not form.header
        ),
        "parse_options": arrow_csv.ParseOptions(
            delimiter=form.separator,
            quote_char='"' if form.separator in ",;" else False,
            invalid_row_handler=refused,
        ),
        "convert_options": arrow_csv.ConvertOptions(
            decimal_point=form.decimal,
            column_types=dict.fromkeys(text, pa.string()),
            timestamp_parsers=[arrow_csv.ISO8601, *TIMES],
        ),
    }


def _complaint(raw: bytes, wrong: Sequence[Any], error: Exception) -> str:
    """What follows the name of the file."""
    if not wrong:
        return f" is no table: {error}"
    row = wrong[0]
    filled = (number for number, line in enumerate(raw.splitlines(), 1) if line.strip())
    line = next((number for count, number in enumerate(filled, 1) if count == row.number), "?")
    return (
        f", line {line}: {row.actual_columns} columns where {row.expected_columns} "
        "are expected; each row must have as many as the first"
    )


def _array(column: pa.ChunkedArray, where: str) -> Column:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_nested(kind):
        raise DataError(f"{where} is nested ({kind}); one value a row is expected")
    if pa.types.is_null(kind) or pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_boolean(kind) or pa.types.is_float16(kind):
        column = column.cast(pa.float32())
    elif pa.types.is_time(kind):
        return np.asarray(_clock(column), dtype="timedelta64[ms]")
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = column.fill_null("")
    return np.asarray(column.to_numpy())


def _clock(column: pa.ChunkedArray) -> Column:
    """Times of a day as milliseconds; a missing one is NaT, which numpy writes as the least."""
    whole = column.cast(pa.time32("ms"), safe=False).cast(pa.int32()).cast(pa.int64())
    return np.asarray(whole.fill_null(np.iinfo(np.int64).min).to_numpy())


def _without_index(table: Table, file: Place) -> Table:
    """What data frames write as a first column without a name is no data."""
    name = next(iter(table))
    if name not in _INDEX:
        return table
    column = table[name]
    rest = {key: value for key, value in table.items() if key != name}
    if column.dtype.kind == "M" and "time" not in rest:
        return {"time": column, **rest}
    if column.dtype.kind in "iu" and rest:
        return rest
    if column.dtype.kind == "O":  # names of rows, as a matrix has them
        return table
    raise DataError(f"{file}: the first column has no name; give it one, or remove it")


def _joined(tables: Mapping[Place, Table]) -> Table:
    first, *others = tables.items()
    for file, table in others:
        if odd := sorted(first[1].keys() ^ table.keys()):
            raise DataError(f"{file} and {first[0]} differ: only one has the column {odd[0]!r}")
    if not others:
        return first[1]
    return {name: np.concatenate([table[name] for table in tables.values()]) for name in first[1]}


def _parsed(column: Column, name: str, where: object) -> NDArray[np.float32]:
    """Numbers of a column that was not all numbers."""
    values = np.full(len(column), np.nan, np.float32)
    for row, value in enumerate(column):
        if not _is_number(str(value)):
            raise DataError(
                f"{where}, column {name!r}, row {row + 1}: {str(value)[:40]!r} is no number; write "
                "states as numbers, leave missing values empty, or remove the column"
            )
        if str(value).strip().lower() not in _EMPTY:
            values[row] = float(value)
    return values
