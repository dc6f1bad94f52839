"""What a release tells a site of its fleet: moments to shrink towards, and how much they count.

A file of the role "fleet" is an update (see `aimass_shared.updates`) with the metadata
`{"schema": 1, "sensors": [...], "lags": 3, "weight": 300.0, "ridge": 20.0}` and the float64 arrays
`zz`, `zy`, `yy`, `n` of `Moments`, of the square ones the upper triangle, row by row. Nothing is
rounded: sensors that go together cost a regression digits, and the file is small (64 S^2 bytes).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadUpdateError
from aimass_shared.moments import MAX_LAGS, Moments, from_arrays
from aimass_shared.updates import Meta, Update, decode, encode
from aimass_shared.var import Var, shrunk

SCHEMA: Final = 1
FILE: Final = "fleet.bin"
MAX_BYTES: Final = 8 << 20
"""About 360 sensors at 3 rows of history; models of more ship no fleet."""
SQUARE: Final = ("zz", "yy")

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fleet:
    """What a site's VAR is shrunk towards (`aimass_shared.var.shrunk`).

    Attributes:
        moments: the sum over sites of their moments, each about its own mean.
        weight: rows of the fleet that count as the site's own; infinite takes the fleet's dynamics.
        ridge: the VAR's penalty.
    """

    moments: Moments
    weight: float
    ridge: float

    def shrunk(self, site: Moments) -> Var:
        """The VAR of a site of this fleet.

        Raises:
            BadUpdateError: the site's moments have other sensors or lags.
            TrainingFailedError: they count no rows, or give no finite solution.
        """
        return shrunk(site, self.moments, self.weight, ridge=self.ridge)


def pack(fleet: Fleet) -> bytes:
    """The bytes of a fleet; the same fleet always gives the same bytes.

    Raises:
        BadUpdateError: they are more than `MAX_BYTES`, or a number is not finite.
    """
    arrays = {
        name: array[np.triu_indices(len(array))] if name in SQUARE else array
        for name, array in fleet.moments.arrays().items()
    }
    meta: Meta = {
        "schema": SCHEMA,
        "sensors": list(fleet.moments.sensors),
        "lags": fleet.moments.lags,
        "weight": None if math.isinf(fleet.weight) else float(fleet.weight),
        "ridge": float(fleet.ridge),
    }
    raw = encode(arrays, meta)
    if len(raw) > MAX_BYTES:
        raise BadUpdateError(f"the fleet has {len(raw)} bytes, the limit is {MAX_BYTES}")
    return raw


def unpack(raw: bytes, sensors: tuple[str, ...]) -> Fleet:
    """Read a fleet, which must be of these sensors in this order.

    Raises:
        BadUpdateError: the bytes are no fleet, or one of other sensors.
    """
    update = decode(raw, max_bytes=MAX_BYTES)
    about = _about(update)
    if about.sensors != sensors:
        raise BadUpdateError("the fleet is of other sensors than the model")
    empty = Moments.empty(sensors, about.lags).arrays()
    arrays = {
        name: _square(array, len(empty[name])) if name in SQUARE else array
        for name, array in update.arrays.items()
    }
    found = from_arrays(arrays, sensors=sensors, lags=about.lags)
    return Fleet(found, math.inf if about.weight is None else about.weight, about.ridge)


class _About(msgspec.Struct, frozen=True):
    schema: int
    sensors: tuple[str, ...]
    lags: Annotated[int, msgspec.Meta(ge=1, le=MAX_LAGS)]
    weight: Annotated[float, msgspec.Meta(ge=0)] | None
    ridge: Annotated[float, msgspec.Meta(ge=0)]


def _about(update: Update) -> _About:
    """What a fleet says of itself."""
    schema = update.meta.get("schema")
    if schema != SCHEMA:
        raise BadUpdateError(f"a fleet of schema {schema}; this version knows {SCHEMA}")
    try:
        return msgspec.convert(update.meta, _About)
    except msgspec.ValidationError as error:
        raise BadUpdateError(f"the bytes are no fleet: {error}") from error


def _square(upper: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """The symmetric matrix of an upper triangle."""
    if upper.dtype != np.float64 or upper.shape != (size * (size + 1) // 2,):
        raise BadUpdateError(f"a triangle of {size} rows has not the shape {upper.shape}")
    square = np.zeros((size, size))
    square[np.triu_indices(size)] = upper
    return square + np.triu(square, 1).T
