"""What a person may say about recordings, in files beside them: sensors, their graph, and times."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets.places import Place
from aimass_cloud.datasets.tables import Table, numbers, read
from aimass_shared.errors import DataError
from aimass_shared.manifest import Sensor

KIND: Final = "continuous"
MOST_JSON_BYTES: Final = 1 << 20
Count = Annotated[int, msgspec.Meta(ge=0)]


class Notes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file meta.json; 0 is "not said".

    Attributes:
        step_ms: time between rows. window, horizon: rows of an input and of a forecast.
        lead_rows: rows of normal operation at the beginning of each run.
        fault_start: row at which the runs of `faults/` turn faulty, where no column says so.
    """

    step_ms: Count = 0
    window: Count = 0
    horizon: Count = 0
    lead_rows: Count = 0
    fault_start: Count = 0


def notes(file: Place | None) -> Notes:
    """What meta.json says.

    Raises:
        DataError: it is no JSON, or has other keys or types.
    """
    if file is None:
        return Notes()
    try:
        return msgspec.json.decode(file.content(MOST_JSON_BYTES), type=Notes)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{file}: {error}; known are {', '.join(Notes.__struct_fields__)}"
        ) from None


def sensors(file: Place | None, names: Sequence[str]) -> tuple[Sensor, ...]:
    """The sensors of some columns, as a table `name, unit, kind, label, entity` describes them.

    Raises:
        DataError: the table has no column `name`, or names what is not there.
    """
    table: Mapping[str, NDArray[np.object_]] = {}
    if file is not None:
        table = read(file, header=True, text=Sensor.__struct_fields__)
        _check_columns(file, table, ("name",))
    rows = {str(name): row for row, name in enumerate(table.get("name", ()))}
    if unknown := sorted(rows.keys() - set(names)):
        raise DataError(f"{file}: the data have no column {unknown[0]!r}")

    def told(name: str, field: str, otherwise: str = "") -> str:
        column = table.get(field)
        return str(column[rows[name]]) if name in rows and column is not None else otherwise

    return tuple(
        Sensor(
            name=name,
            unit=told(name, "unit"),
            kind=told(name, "kind") or KIND,
            label=told(name, "label"),
            entity=told(name, "entity"),
        )
        for name in names
    )


def graph(file: Place, names: Sequence[str]) -> NDArray[np.float32]:
    """Weights `[S, S]`, row to column: from edges `source, target, weight`, or from a matrix.

    A matrix has the sensors as its header and its rows in the same order, or no header.

    Raises:
        DataError: it is neither, or names what is no sensor.
    """
    table = read(file, text=("source", "target"))
    if {"source", "target"} <= table.keys():
        return _from_edges(file, table, names)
    if len(next(iter(table.values()))) == len(names) + 1:  # its header is of numbers
        table = read(file, header=True)
    header = [name for name, column in table.items() if column.dtype.kind != "O"]
    weights = np.nan_to_num(numbers(table, header, file))
    if weights.shape == (len(names), len(names)):
        if set(header) == set(names):
            order = [header.index(name) for name in names]
            return weights[np.ix_(order, order)]
        if header == [f"c{index}" for index in range(len(names))]:
            return weights
    raise DataError(
        f"{file} is no graph of these {len(names)} sensors: write source,target,weight, or a "
        "matrix with their names as header"
    )


def _from_edges(file: Place, table: Table, names: Sequence[str]) -> NDArray[np.float32]:
    position = {name: index for index, name in enumerate(names)}
    weights = np.zeros((len(names), len(names)), np.float32)
    ones = np.ones(len(table["source"]))
    values = numbers({"weight": table.get("weight", ones)}, ("weight",), file)[:, 0]
    ends = zip(table["source"], table["target"], values, strict=True)
    for row, (source, target, value) in enumerate(ends, 1):
        for name in (source, target):
            if name not in position:
                raise DataError(f"{file}, row {row}: {name!r} is no sensor of these data")
        weights[position[source], position[target]] = value
    return weights


def _check_columns(file: Place, table: Mapping[str, object], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in table:
            raise DataError(f"{file} has no column {name!r}; it has {', '.join(table)}")
