"""Who took what, in the order of time: tables of users and items, and a synthetic shop.

A table has the columns `user`, `item` and, where rows are not in order, `time`; without a header it
is user, item[, time]. Nothing here needs torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.datasets.columns import TIME
from aimass_cloud.datasets.places import Place, located
from aimass_cloud.datasets.tables import Table, read
from aimass_shared.errors import DataError

USER: Final = ("user", "user_id", "userid")
ITEM: Final = ("item", "item_id", "itemid")
LAYOUT: Final = "columns user,item[,time] with a header, or user and item in time order without one"
_HEADLESS: Final = ("f0", "f1", "f2")
"""What the reader of text calls columns that have no name, before it calls them c0, c1, c2."""

Ids = NDArray[np.int64]
Names = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Interactions:
    """Histories of users.

    Attributes:
        items: names; item k has the number k + 1, so that 0 is free for padding. The most frequent
            one comes first.
        histories: numbers of the items of each user, oldest first, each item once.
    """

    items: tuple[str, ...]
    histories: tuple[Ids, ...]

    @property
    def size(self) -> int:
        """How many numbers there are, padding included."""
        return 1 + len(self.items)

    @cached_property
    def rows(self) -> int:
        """Interactions in all."""
        return sum(len(history) for history in self.histories)


def read_interactions(address: str | Place) -> Interactions:
    """The interactions of a table, or of a folder of tables.

    White space in a name becomes "_", because a request separates names by white space. An item
    that a user took again counts once, when it was taken first.

    Raises:
        DataError: the table is not of the layout; the detail says what is missing.
        DownloadFailedError: the store does not answer.
    """
    place = located(address)
    table = _table(place)
    users, items = (_names(_column(table, names, place)) for names in (USER, ITEM))
    if empty := np.flatnonzero((users == "") | (items == "")).tolist():
        raise DataError(f"{place}, row {empty[0] + 1}: user or item is empty")
    order = _order(table, place)
    return numbered(users[order], items[order])


def numbered(users: Names, items: Names) -> Interactions:
    """Interactions from a user and an item a row, in the order of time."""
    _, first, codes = np.unique(users, return_index=True, return_inverse=True)
    appearance = np.argsort(np.argsort(first, kind="stable"), kind="stable")
    owners = appearance[codes.reshape(-1)]
    names, kinds = np.unique(items, return_inverse=True)
    kinds = kinds.reshape(-1)
    pairs = owners.astype(np.int64) * len(names) + kinds
    kept = np.sort(np.unique(pairs, return_index=True)[1])
    owners, kinds = owners[kept], kinds[kept]
    by_frequency = np.argsort(-np.bincount(kinds, minlength=len(names)), kind="stable")
    numbers = np.empty(len(names), np.int64)
    numbers[by_frequency] = np.arange(1, len(names) + 1)
    by_user = np.argsort(owners, kind="stable")
    ends = np.cumsum(np.bincount(owners))[:-1]
    histories = np.split(numbers[kinds[by_user]], ends)
    return Interactions(tuple(names[by_frequency].tolist()), tuple(histories))


def synthetic(seed: int, *, users: int = 1500, items: int = 400, topics: int = 16) -> Interactions:
    """A shop that does not exist: items of topics, in which one thing leads to the next.

    A user has one topic, sometimes leaves it, and mostly takes one of the items that follow the
    last one; some items are taken far more than others.
    """
    random = np.random.default_rng((seed, 4))
    topic = random.integers(topics, size=items)
    weight = 1.0 / (1.0 + random.permutation(items))
    follows = random.integers(items, size=(items, 4))
    for item in range(items):
        same = np.flatnonzero(topic == topic[item])
        follows[item] = random.choice(same, size=4)
    taken: list[int] = []
    owners: list[int] = []
    for user in range(users):
        own = weight * np.where(topic == random.integers(topics), 1.0, 0.02)
        steps = _walk(random, own / own.sum(), follows)
        taken += steps
        owners += [user] * len(steps)
    width = len(str(items))
    names = np.array([f"item-{item:0{width}d}" for item in taken], object)
    return numbered(np.array(owners), names)


def _walk(random: np.random.Generator, own: NDArray[np.float64], follows: Ids) -> list[int]:
    """Items that one user takes."""
    steps = [int(random.choice(len(own), p=own))]
    for _ in range(int(random.integers(4, 16))):
        ahead = random.random() < 0.7  # noqa: PLR2004  the share that follows from the last item
        step = random.choice(follows[steps[-1]]) if ahead else random.choice(len(own), p=own)
        steps.append(int(step))
    return steps


def _table(place: Place) -> Table:
    """The table, read again without a header where its first line names neither column."""
    text = (*USER, *ITEM, *_HEADLESS[:2])
    table = read(place, text=text)
    if "c0" not in table and not any(name.lower() in (*USER, *ITEM) for name in table):
        table = read(place, header=False, text=text)
    if "c0" in table:
        if len(table) not in (2, 3):
            raise DataError(f"{place} has {len(table)} columns and no header; needed are {LAYOUT}")
        return dict(zip((USER[0], ITEM[0], TIME[0]), table.values(), strict=False))
    return table


def _column(table: Mapping[str, Names], names: Sequence[str], place: Place) -> Names:
    found = [column for name, column in table.items() if name.lower() in names]
    if len(found) != 1:
        have = ", ".join(table)
        raise DataError(
            f"{place} needs one column {names[0]!r}, it has {have}; needed are {LAYOUT}"
        )
    return found[0]


def _names(column: Names) -> Names:
    """Names as text, without white space."""
    if column.dtype.kind == "f" and np.isfinite(column).all() and (column % 1 == 0).all():
        column = column.astype(np.int64)
    return np.array(["_".join(str(name).split()) for name in column.tolist()], object)


def _order(table: Table, place: Place) -> Ids:
    """Rows in the order of time, as they lie where times are equal or there are none."""
    times = [column for name, column in table.items() if name.lower() in TIME]
    rows = len(next(iter(table.values())))
    if not times:
        return np.arange(rows)
    column = times[0]
    if column.dtype.kind not in "iufM":
        raise DataError(f"{place}: times are neither numbers nor dates, {str(column[0])[:40]!r}")
    return np.argsort(column, kind="stable")
