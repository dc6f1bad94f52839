"""Recordings that say which condition a machine was in, row by row (docs/data.md), and their parts.

A segment is what one run recorded in one condition without a break. Windows lie within a segment,
so each has one condition, and parts are cut so that no window of one shares a row with another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets import columns
from aimass_cloud.datasets.places import Place, located
from aimass_cloud.datasets.tables import Column, Table, numbers, read
from aimass_shared.errors import DataError

LABEL: Final = ("condition", "fault", "class", *reversed(columns.LABEL))
RUN: Final = ("run", "experiment", *columns.SITE)
OTHERS: Final = (*columns.TIME, *columns.IGNORED)
HELD_BACK, TEST = 0.1, 0.2
ENOUGH_RUNS: Final = 5
"""Runs of a kind from which on parts are whole runs, where nobody says otherwise."""

Rows = NDArray[np.float32]
Way = Literal["auto", "time", "runs"]


@dataclass(frozen=True, eq=False)
class Segment:
    """Rows `[T, S]` of one run in one condition, in time order; NaN where nothing was measured."""

    run: str
    condition: str
    rows: Rows

    def part(self, first: int, stop: int) -> "Segment":
        """Some of the rows."""
        return Segment(self.run, self.condition, self.rows[first:stop])


@dataclass(frozen=True, eq=False)
class Conditions:
    """What a person gave. `test` are segments that were kept for the test, if any."""

    sensors: tuple[str, ...]
    segments: tuple[Segment, ...]
    test: tuple[Segment, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions, in the order of their names; names that are numbers in that of those."""
        found = {segment.condition for segment in self.segments}
        return tuple(sorted(found, key=_in_order))


class Parts(NamedTuple):
    """Segments by what they are for."""

    train: tuple[Segment, ...]
    held_back: tuple[Segment, ...]
    test: tuple[Segment, ...]


def open(address: str) -> Conditions:  # noqa: A001  as `series.open`
    """Read a file or folder in one of the layouts of docs/data.md.

    Raises:
        DataError: something is not as it should be; the detail says what and where.
        DownloadFailedError: the store does not answer.
    """
    place = located(address)
    train = place.find("train") if place.is_folder else None
    test = place.find("test") if train is not None else None
    segments, names = _read(train or place, ())
    _check_measured(train or place, segments, names)
    data = Conditions(names, segments, () if test is None else _read(test, names)[0])
    if len(data.names) < 2:  # noqa: PLR2004  nothing to choose between
        raise DataError(f"{address} has {len(data.names)} condition; at least 2 are needed")
    if odd := sorted({one.condition for one in data.test} - set(data.names)):
        raise DataError(f"{test} has the condition {odd[0]!r}, which has no training rows")
    return data


def cut(data: Conditions, window: int, *, way: Way = "auto", seed: int = 0) -> Parts:
    """The parts of recordings.

    Args:
        data: whole.
        window: rows of a window; a part of a segment has so many at least.
        way: "time" takes held-back and test rows off the end of each segment, "runs" draws whole
            runs; "auto" is "runs" where there are five runs of each kind, else "time".
        seed: of the draw of runs.

    Raises:
        DataError: a condition has no window in one of the parts.
    """
    kinds = _kinds(data.segments)
    if way == "auto":
        way = "runs" if min(map(len, kinds)) >= ENOUGH_RUNS else "time"
    shares = (HELD_BACK, 0.0 if data.test else TEST)
    if way == "runs":
        found = _by_runs(data.segments, kinds, shares=shares, seed=seed)
    else:
        found = _by_time(data.segments, window, shares)
    parts = Parts(found.train, found.held_back, (*found.test, *data.test))
    _check_windows(data, parts, window)
    return parts


def _kinds(segments: Sequence[Segment]) -> list[list[str]]:
    """Runs by the conditions that they went through."""
    seen: dict[str, set[str]] = {}
    for segment in segments:
        seen.setdefault(segment.run, set()).add(segment.condition)
    kinds: dict[frozenset[str], list[str]] = {}
    for run, conditions in seen.items():
        kinds.setdefault(frozenset(conditions), []).append(run)
    return list(kinds.values())


def _by_runs(
    segments: Sequence[Segment],
    kinds: Sequence[Sequence[str]],
    *,
    shares: tuple[float, float],
    seed: int,
) -> Parts:
    """Whole runs, of each kind in these shares: at least one, where there are enough."""
    random = np.random.default_rng(seed)
    place: dict[str, int] = {}
    for runs in kinds:
        order = random.permutation(np.array(runs, object)).tolist()
        for number, share in enumerate(shares, 1):
            count = max(1, round(share * len(runs))) if share and len(order) > 1 else 0
            place |= dict.fromkeys([order.pop() for _ in range(min(count, len(order) - 1))], number)
    split = [[one for one in segments if place.get(one.run, 0) == part] for part in range(3)]
    return Parts(*map(tuple, split))


def _by_time(segments: Sequence[Segment], window: int, shares: tuple[float, float]) -> Parts:
    """The end of each segment, at least one window long; those that are short stay whole.

    They are for training, unless all of a condition are short: then the last ones are not.
    """
    parts: list[list[Segment]] = [[], [], []]
    short: dict[str, list[Segment]] = {}
    long: set[str] = set()
    for segment in segments:
        counts = _counts(len(segment.rows), window, shares)
        if sum(counts) + window > len(segment.rows):
            short.setdefault(segment.condition, []).append(segment)
            continue
        long.add(segment.condition)
        ends = np.cumsum([0, len(segment.rows) - sum(counts), *counts]).tolist()
        for part, (first, stop) in zip(parts, pairwise(ends), strict=True):
            part.extend([segment.part(first, stop)] if first < stop else [])
    for condition, whole in short.items():
        counts = _counts(len(whole), 1, shares) if condition not in long else [0, 0]
        ends = np.cumsum([0, max(1, len(whole) - sum(counts)), *counts]).tolist()
        for part, (first, stop) in zip(parts, pairwise(ends), strict=True):
            part.extend(whole[first:stop])
    return Parts(*map(tuple, parts))


def _counts(count: int, least: int, shares: tuple[float, float]) -> list[int]:
    """How many of `count` are held back and for the test: the shares, but so many at least."""
    return [max(least, round(share * count)) if share else 0 for share in shares]


def _check_windows(data: Conditions, parts: Parts, window: int) -> None:
    for part, segments in zip(Parts._fields, parts, strict=True):
        there = {one.condition for one in segments if len(one.rows) >= window}
        wanted = data.names if part == "train" or not data.test else tuple(there)
        if not there or (missing := [name for name in wanted if name not in there]):
            name = missing[0] if there else data.names[0]
            longest = max(len(one.rows) for one in data.segments if one.condition == name)
            raise DataError(
                f"condition {name!r} has no window of {window} rows for the part "
                f"{part.replace('_', '-')}: its longest stretch has {longest} rows; take a smaller "
                "window (options.window), or give more rows or runs"
            )


def _read(place: Place, names: tuple[str, ...]) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
    """Segments of all files, and the sensors: those of the first file where none are given."""
    segments: list[Segment] = []
    for file, folder in _files(place):
        table = read(file)
        names = names or _sensors(file, table)
        if missing := [name for name in names if name not in table]:
            raise DataError(f"{file} has no column {missing[0]!r}, which the first file has")
        segments += _segments(file, table, names=names, folder=folder)
    return tuple(segments), names


def _files(place: Place) -> Iterator[tuple[Place, str]]:
    """Tables with the name of the folder that says their condition, "" where none does."""
    if not place.is_folder:
        yield place, ""
        return
    folders = [one for one in place.entries if not one.is_table and one.is_folder]
    if not folders:
        yield from ((file, "") for file in place.tables)
        return
    for folder in folders:
        yield from ((file, folder.name) for file in folder.tables)


def _sensors(file: Place, table: Table) -> tuple[str, ...]:
    roles = {*LABEL, *RUN, *OTHERS}
    names = tuple(name for name in table if name.lower() not in roles)
    if not names:
        raise DataError(f"{file} has no column of a sensor; it has {', '.join(table)}")
    return names


def _segments(file: Place, table: Table, *, names: Sequence[str], folder: str) -> Iterator[Segment]:
    """The segments of a table, run by run."""
    rows, conditions = numbers(table, names, file), _conditions(file, table, folder)
    for run, chosen in _runs(file, table, folder):
        own, labels = rows[chosen], conditions[chosen]
        changes = np.flatnonzero(labels[1:] != labels[:-1]) + 1
        for first, stop in pairwise([0, *changes.tolist(), len(labels)]):
            if labels[first]:
                yield Segment(run, str(labels[first]), own[first:stop])


def _conditions(file: Place, table: Table, folder: str) -> NDArray[Any]:
    """The condition of each row as text, "" where nobody says."""
    for name in columns.of_role(table, LABEL):
        return np.array([_named(value) for value in table[name].tolist()], object)
    if not folder:
        raise DataError(
            f"{file} does not say the condition: add a column {LABEL[0]!r}, or put the file into a "
            "folder that is named like its condition"
        )
    return np.full(len(next(iter(table.values()))), folder, object)


def _runs(file: Place, table: Table, folder: str) -> Iterator[tuple[str, Column]]:
    """Each run with its rows, in the order in which they appear."""
    own = f"{folder}/{file.stem}" if folder else file.stem
    for name in columns.of_role(table, RUN):
        runs = table[name].astype(str)
        for run in dict.fromkeys(runs.tolist()):
            # Runs of several files are different ones, whatever their names.
            yield f"{own}/{run}", np.flatnonzero(runs == run)
        return
    yield own, np.arange(len(next(iter(table.values()))))


def _named(value: object) -> str:
    """A label as text: whole numbers without a fraction, nothing for what is missing."""
    if isinstance(value, float):
        if not np.isfinite(value):
            return ""
        return str(int(value)) if value.is_integer() else str(value)
    return str(int(value)) if isinstance(value, bool) else str(value).strip()


def _check_measured(place: Place, segments: Sequence[Segment], names: Sequence[str]) -> None:
    measured = np.zeros(len(names), bool)
    for segment in segments:
        measured |= np.isfinite(segment.rows).any(axis=0)
    for name, seen in zip(names, measured, strict=True):
        if not seen:
            raise DataError(f"{place}, column {name!r} is empty in the training rows; remove it")


def _in_order(name: str) -> tuple[int, int, str]:
    number = name.isascii() and name.isdecimal()
    return (0, int(name), "") if number else (1, 0, name)
