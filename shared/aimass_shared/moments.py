"""Second moments of sensor history: what sites may share instead of rows, and what adds up exactly.

A ridge VAR needs only Z'Z, Z'Y and Y'Y. Sites compute them over their private history, the sum over
sites equals that of the pooled rows, and `aimass_cloud.training` solves it. Nothing here solves,
stores or sends anything.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadUpdateError

MAX_LAGS = 64
CHUNK_ROWS = 4096

Segment = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of regression rows: z = [1, x(t-1), ..., x(t-lags)] explains y = x(t).

    Values are in the sensors' units, all arrays float64. With S sensors and k = 1 + lags * S:

    Attributes:
        zz: Z'Z `[k, k]`. zy: Z'Y `[k, S]`. yy: Y'Y `[S, S]`.
        n: regression rows counted.
        sensors: channels in the order of every S axis. lags: rows of history in z.
    """

    zz: NDArray[np.float64]
    zy: NDArray[np.float64]
    yy: NDArray[np.float64]
    n: int
    sensors: tuple[str, ...]
    lags: int

    @classmethod
    def empty(cls, sensors: tuple[str, ...], lags: int) -> "Moments":
        """The moments of no rows at all: the zero of `add`."""
        size, width = len(sensors), 1 + lags * len(sensors)
        return cls(
            zz=np.zeros((width, width)),
            zy=np.zeros((width, size)),
            yy=np.zeros((size, size)),
            n=0,
            sensors=sensors,
            lags=lags,
        )

    def add(self, other: "Moments") -> "Moments":
        """Moments of the rows of both.

        Raises:
            BadUpdateError: the other has other sensors, another order of them or other lags.
        """
        if (self.sensors, self.lags) != (other.sensors, other.lags):
            raise BadUpdateError("moments of other sensors or lags cannot be added")
        return Moments(
            zz=self.zz + other.zz,
            zy=self.zy + other.zy,
            yy=self.yy + other.yy,
            n=self.n + other.n,
            sensors=self.sensors,
            lags=self.lags,
        )

    def shortened(self, lags: int) -> "Moments":
        """Moments of the same rows with less history in z.

        Raises:
            BadUpdateError: these have fewer lags than that.
        """
        if not 1 <= lags <= self.lags:
            raise BadUpdateError(f"moments of {self.lags} lags cannot be shortened to {lags}")
        width = 1 + lags * len(self.sensors)
        return Moments(
            zz=self.zz[:width, :width],
            zy=self.zy[:width],
            yy=self.yy,
            n=self.n,
            sensors=self.sensors,
            lags=lags,
        )

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """The moments as named arrays, for the update codec or an `.npz` file."""
        return {"zz": self.zz, "zy": self.zy, "yy": self.yy, "n": np.array([self.n], np.float64)}


def from_arrays(
    arrays: Mapping[str, NDArray[np.generic]], *, sensors: tuple[str, ...], lags: int
) -> Moments:
    """Rebuild moments from `Moments.arrays()` of a peer that is not trusted.

    Raises:
        BadUpdateError: an array is missing, of the wrong shape or type, not finite, or the arrays
            contradict each other.
    """
    _check_question(sensors, lags)
    shapes = {name: array.shape for name, array in Moments.empty(sensors, lags).arrays().items()}
    if set(arrays) != set(shapes):
        raise BadUpdateError(f"moments need the arrays {sorted(shapes)}, got {sorted(arrays)}")
    for name, shape in shapes.items():
        _check_array(name, arrays[name], shape)
    count = float(arrays["n"][0])
    if not 0 <= count < 2**53 or count != int(count):
        raise BadUpdateError(f"moments count {count} rows")
    result = Moments(
        zz=np.asarray(arrays["zz"], np.float64),
        zy=np.asarray(arrays["zy"], np.float64),
        yy=np.asarray(arrays["yy"], np.float64),
        n=int(count),
        sensors=sensors,
        lags=lags,
    )
    _check_consistency(result)
    return result


def moments(segments: Iterable[Segment], *, sensors: tuple[str, ...], lags: int) -> Moments:
    """Moments of history: the whole of a site's part in a statistics round.

    Args:
        segments: stretches of rows without a gap in time: values `[T, S]` in the sensors' units and
            mask `[T, S]` (1 = measured). Rows with a missing value in y or z do not count.
        sensors: names of the S channels.
        lags: rows of history in z, at least 1.

    Raises:
        BadUpdateError: `lags` is out of range or a segment has another number of channels.
    """
    _check_question(sensors, lags)
    total = Moments.empty(sensors, lags)
    zz, zy, yy, count = total.zz, total.zy, total.yy, 0
    for z, y in _regression_rows(segments, len(sensors), lags):
        # In place: the matrices may be large, and there is one chunk for each few thousand rows.
        zz += z.T @ z
        zy += z.T @ y
        yy += y.T @ y
        count += len(y)
    return Moments(zz=zz, zy=zy, yy=yy, n=count, sensors=sensors, lags=lags)


def regression_rows(
    values: NDArray[np.floating], mask: NDArray[np.floating], lags: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rows z `[n, 1 + lags * S]` and y `[n, S]` of one segment `[T, S]`, complete ones only."""
    rows = len(values) - lags
    if rows <= 0:
        size = values.shape[1]
        return np.empty((0, 1 + lags * size)), np.empty((0, size))
    known = ((mask > 0) & np.isfinite(values)).all(axis=1)
    complete = np.logical_and.reduce([known[lag : lag + rows] for lag in range(lags + 1)])
    past = [values[lags - lag : lags - lag + rows][complete] for lag in range(1, lags + 1)]
    ones = np.ones((int(complete.sum()), 1))
    z = np.concatenate([ones, *past], axis=1, dtype=np.float64)
    return z, values[lags:][complete].astype(np.float64)


def _regression_rows(
    segments: Iterable[Segment], size: int, lags: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """All complete rows in chunks, so that a long history does not fill a small device."""
    for values, mask in segments:
        if values.shape != (len(values), size) or mask.shape != values.shape:
            raise BadUpdateError(
                f"a segment has shape {values.shape}, mask {mask.shape}; {size} channels needed"
            )
        for start in range(0, max(len(values) - lags, 0), CHUNK_ROWS):
            stop = start + CHUNK_ROWS + lags
            yield regression_rows(values[start:stop], mask[start:stop], lags)


def _check_question(sensors: tuple[str, ...], lags: int) -> None:
    if not sensors or not 1 <= lags <= MAX_LAGS:
        raise BadUpdateError(
            f"moments need at least one sensor and 1 to {MAX_LAGS} lags,"
            f" got {len(sensors)} and {lags}"
        )


def _check_array(name: str, array: NDArray[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != np.float64 or array.shape != shape:
        raise BadUpdateError(
            f"moments array {name} must be float64 {shape}, got {array.dtype} {array.shape}"
        )
    if not np.isfinite(array).all():
        raise BadUpdateError(f"moments array {name} has values that are not finite")


def _check_consistency(peer: Moments) -> None:
    """Refuse what no rows can have given: z starts with 1, and squares add up to no less than 0."""
    if peer.zz[0, 0] != peer.n:
        raise BadUpdateError(f"moments count {peer.n} rows but sum to {peer.zz[0, 0]}")
    if min(peer.zz.diagonal().min(), peer.yy.diagonal().min()) < 0:
        raise BadUpdateError("moments have a negative sum of squares")
    for name, square in (("zz", peer.zz), ("yy", peer.yy)):
        # Sums of signed products cancel, so the error is measured against the largest square.
        if not np.allclose(square, square.T, rtol=0.0, atol=1e-9 * square.diagonal().max()):
            raise BadUpdateError(f"moments array {name} is not symmetric")
