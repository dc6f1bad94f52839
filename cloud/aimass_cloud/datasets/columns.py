"""What a column of a table is, by its name alone: a sensor, unless the name has another role."""

from collections.abc import Iterable
from typing import Final

TIME: Final = ("time", "timestamp", "datetime", "date")
LABEL: Final = ("anomaly", "label")
SITE: Final = ("site",)
IGNORED: Final = ("changepoint",)
ROLES: Final = frozenset((*TIME, *LABEL, *SITE, *IGNORED))


def sensors(names: Iterable[str]) -> tuple[str, ...]:
    """Columns that are sensors, in their order."""
    return tuple(name for name in names if name.lower() not in ROLES)


def of_role(names: Iterable[str], role: tuple[str, ...]) -> tuple[str, ...]:
    """Columns of a role, the likeliest first; case does not matter."""
    found = [name for name in names if name.lower() in role]
    return tuple(sorted(found, key=lambda name: role.index(name.lower())))
