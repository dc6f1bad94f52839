"""Recordings of a plant or a market as a person keeps them: one file, or a folder (docs/data.md).

The parts are normal operation to train on, normal operation that is held back (calibration), a
test, and runs with faults. What has no file of its own is cut off in time, never at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets import columns, descriptions
from aimass_cloud.datasets.places import PARQUET, Place, located
from aimass_cloud.datasets.runs import Labels, Parts, Run, Split, cut, cut_shards
from aimass_cloud.datasets.shards import Shards
from aimass_cloud.datasets.tables import Table, numbers, read
from aimass_shared.errors import DataError
from aimass_shared.manifest import Sensor

MEMORY_BYTES: Final = 512 << 20
DEFAULT_STEP_MS: Final = 1000
_SECONDS_END: Final = 1e11
"""Times below are seconds since 1970, others milliseconds."""


@dataclass(frozen=True, eq=False)
class Series:
    """All parts of the recordings.

    Attributes:
        sensors: the S channels. step_ms: time between two rows.
        train, calibration, test: at least one run each, except that `train` is empty where the rows
            are in `shards`, and `test` where a split leaves none.
        faults: runs with labels.
        graph: given weights `[S, S]`, from row to column, or None.
        shards: the training rows, where they are too large for memory.
        window, horizon: rows, as the data's owner wants them; 0 where nothing is said.
    """

    sensors: tuple[Sensor, ...]
    step_ms: int
    train: tuple[Run, ...]
    calibration: tuple[Run, ...]
    test: tuple[Run, ...]
    faults: tuple[Run, ...] = ()
    graph: NDArray[np.float32] | None = None
    shards: Shards | None = None
    window: int = 0
    horizon: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The sensors' names, in the order of the columns."""
        return tuple(sensor.name for sensor in self.sensors)


@dataclass(frozen=True)
class _Layout:
    """Where the parts are."""

    train: tuple[Place, ...]
    sides: dict[str, Place]

    @classmethod
    def of(cls, place: Place) -> "_Layout":
        if not place.is_folder:
            return cls((place,), {})
        stems = ("train", "sites", "calibration", "test", "faults", "sensors", "graph", "meta")
        sides = {stem: found for stem in stems if (found := place.find(stem)) is not None}
        if "train" in sides:
            return cls((sides["train"],), sides)
        if "sites" in sides:
            return cls(sides["sites"].tables, sides)
        if own := sides.keys() & {"calibration", "test", "faults"}:
            raise DataError(f"{place} has {min(own)}, but neither train nor sites")
        alone = all(one.ending == PARQUET for one in place.tables)
        return cls((place,) if alone else place.tables, sides)

    def streamed(self, memory_bytes: int) -> Shards | None:
        """The training rows as shards, if they are such and too large."""
        files = [file for place in self.train for file in place.tables]
        if len(self.train) > 1 or any(file.ending != PARQUET for file in files):
            return None
        shards = Shards.open(self.train[0])
        if shards.rows * len(shards.names) * np.float32().nbytes <= memory_bytes:
            return None
        if labels := columns.of_role(shards.others, columns.LABEL):
            raise DataError(
                f"{self.train[0]} is streamed, and training rows have no labels; remove the column "
                f"{labels[0]!r}, and put labelled rows into a file test.parquet beside train/"
            )
        return shards


def open(  # noqa: A001  as `io.open` and others
    address: str,
    *,
    graph: str = "",
    lead_rows: int = 0,
    split: Split = Split(),  # noqa: B008  immutable
    memory_bytes: int = MEMORY_BYTES,
) -> Series:
    """Read a file or folder in one of the layouts of docs/data.md.

    Args:
        address: a path, or `s3://bucket/...`.
        graph: address of a graph, where it is not in the folder.
        lead_rows: rows of normal operation at the beginning of each run, of which the last fifth is
            held back; the rest of the run is its test. 0 is what meta.json says, else `split`.
        split: of runs without labels, in time.
        memory_bytes: training rows in Parquet files are streamed when they need more as float32.

    Raises:
        DataError: something is not as it should be; the detail says what and where.
        DownloadFailedError: the store does not answer.
    """
    layout = _Layout.of(located(address))
    notes = descriptions.notes(layout.sides.get("meta"))
    split, lead_rows = split.without(layout.sides.keys() - {"train"}), lead_rows or notes.lead_rows
    shards = layout.streamed(memory_bytes)
    if shards is None:
        head, parts = _in_memory(layout.train, split, lead_rows)
    else:
        head, (shards, parts) = shards.head(), cut_shards(shards, split, memory_bytes // 4)
    names = columns.sensors(head)
    own = [_own(layout.sides.get(part), names) for part in ("calibration", "test")]
    side = located(graph) if graph else layout.sides.get("graph")
    return Series(
        sensors=descriptions.sensors(layout.sides.get("sensors"), names),
        step_ms=notes.step_ms or _step_ms(head) or DEFAULT_STEP_MS,
        train=parts.train,
        calibration=own[0] or parts.calibration,
        test=own[1] or parts.test,
        faults=_faults(layout.sides.get("faults"), names, notes.fault_start),
        graph=None if side is None else descriptions.graph(side, names),
        shards=shards,
        window=notes.window,
        horizon=notes.horizon,
    )


def _in_memory(places: Sequence[Place], split: Split, lead_rows: int) -> tuple[Table, Parts]:
    """The first table, and the parts of all."""
    tables = [(place, read(place)) for place in places]
    first, head = tables[0]
    names = columns.sensors(head)
    if not names:
        raise DataError(f"{first} has no column of a sensor; it has {', '.join(head)}")
    runs = [run for place, table in tables for run in _runs(place, table, names)]
    parts = cut(runs, split, lead_rows)
    _check_train(first, parts.train, names)
    return head, parts


def _runs(place: Place, table: Table, names: Sequence[str]) -> list[Run]:
    """The runs of a table: one, or one for each site in the order in which they appear."""
    if missing := [name for name in names if name not in table]:
        raise DataError(f"{place} has no column {missing[0]!r}, which the training data have")
    rows, labels = numbers(table, names, place), _labels(place, table)
    for column in columns.of_role(table, columns.SITE):
        sites = table[column].astype(str)
        masks = [(str(site), sites == site) for site in dict.fromkeys(sites.tolist())]
        return [
            Run(site, rows[mask], None if labels is None else labels[mask]) for site, mask in masks
        ]
    return [Run(place.stem, rows, labels)]


def _labels(place: Place, table: Table) -> Labels | None:
    """Which rows are faulty, if a column says so; a missing value says no."""
    for name in columns.of_role(table, columns.LABEL):
        values = np.nan_to_num(numbers(table, [name], place)[:, 0])
        if not np.isin(values, (0, 1)).all():
            raise DataError(f"{place}, column {name!r}: labels are 0 (normal) or 1 (faulty)")
        return values > 0
    return None


def _own(place: Place | None, names: Sequence[str]) -> tuple[Run, ...]:
    return () if place is None else tuple(_runs(place, read(place), names))


def _faults(place: Place | None, names: Sequence[str], start: int) -> tuple[Run, ...]:
    """Runs of `faults/`, one a file, each with labels."""
    runs = [run for file in (place.tables if place else ()) for run in _own(file, names)]
    return tuple(
        Run(run.name, run.rows, np.arange(len(run.rows)) >= start) if run.labels is None else run
        for run in runs
    )


def _check_train(first: Place, runs: Sequence[Run], names: Sequence[str]) -> None:
    if not runs:
        raise DataError(f"{first} has no row of normal operation to train on")
    measured = np.any([np.isfinite(run.rows).any(axis=0) for run in runs], axis=0)
    for name, seen in zip(names, measured, strict=True):
        if not seen:
            raise DataError(f"{first}, column {name!r} is empty in the training rows; remove it")


def _step_ms(table: Table) -> int:
    """The median difference of times of one site; 0 if no column says."""
    for column in columns.of_role(table, columns.SITE):
        table = {name: values[table[column] == table[column][0]] for name, values in table.items()}
    for name in columns.of_role(table, columns.TIME):
        steps = np.diff(_in_ms(table[name], name))
        if len(steps) and (step := round(float(np.median(steps)))) > 0:
            return step
    return 0


def _in_ms(times: NDArray[Any], name: str) -> NDArray[Any]:
    if times.dtype.kind == "O":
        raise DataError(
            f"column {name!r} is no time that is understood, such as {times[0]!r}; write "
            "2026-01-31 23:59:59, or milliseconds since 1970"
        )
    times = times[~np.isnan(times)]
    if times.dtype.kind in "Mm":
        return times.astype(f"{times.dtype.kind}8[ms]").astype(np.int64)
    return times * 1000 if times.max(initial=0) < _SECONDS_END else times
