"""A monitor of this site: fitted on its own rows, shrunk towards the fleet, kept on the disk.

Blocks and computes; the caller is in a thread. Numpy only. What is kept names what it came from:
of another fleet or number of rows it is none, and neither is a damaged file.

    site_monitor.bin    "<crc32> " and an update (`aimass_shared.updates`): VAR and limits
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_edge.durable import replace_durably
from aimass_edge.history import Segment
from aimass_shared.errors import BadUpdateError, TrainingFailedError
from aimass_shared.fleet import Fleet
from aimass_shared.moments import moments
from aimass_shared.monitoring import CHARTS, SiteLimits, SiteMonitor
from aimass_shared.updates import decode, encode
from aimass_shared.var import Var

FITTED_SHARE: Final = 0.8
"""Of the rows; the newest others calibrate the limits."""
MIN_ROWS: Final = 200
MOST_LEVEL: Final = 10.0
"""Of a spread, which is about 1 on the rows of the fit; 1.4 to 4 at 16 water loops (SKAB)."""
CRC_DIGITS: Final = 8
ARRAYS: Final = ("mean", "scale", "intercept", "coefficients", "covariance")

Floats = NDArray[np.float64]


class Origin(msgspec.Struct, frozen=True):
    """What a monitor of this site is made of: a fleet, by SHA-256, and so many rows of its own.

    Not the release: releases that carry the same fleet (as those of federated rounds do) can have
    one monitor, and a site need not learn what is normal in whatever state the next one finds it.
    """

    fleet: str
    wanted: int


@dataclass(frozen=True, eq=False)
class Fitted:
    """A calibrated monitor, and how many rows it was fitted and calibrated on."""

    monitor: SiteMonitor
    rows: int
    calibration: int


def fitted(segments: Sequence[Segment], fleet: Fleet) -> Fitted:
    """A monitor from rows of normal operation, in time order.

    Args:
        segments: stretches without a gap: values `[T, S]` in units, mask `[T, S]`.
        fleet: of the release.

    Raises:
        TrainingFailedError: there are too few rows.
    """
    own = fleet.moments
    total = sum(len(values) for values, _ in segments)
    fit, held_back = _parted(segments, round(FITTED_SHARE * total), own.lags)
    site = moments(fit, sensors=own.sensors, lags=own.lags)
    if site.n == 0 or not held_back:
        raise TrainingFailedError(
            f"{total} rows have no {own.lags + 1} complete ones in a row: check missing sensors"
        )
    plain = SiteMonitor.uncalibrated(fleet.shrunk(site))
    monitor = plain.calibrated(plain.calibration(*held_back))
    return Fitted(monitor, site.n, total - round(FITTED_SHARE * total))


def check_normal(found: Fitted) -> None:
    """Refuse a monitor whose calibration rows were far noisier than the rows before.

    It would see no faults. Its shift chart is let be: slow moves of the operating point are normal.

    Raises:
        TrainingFailedError: a limit of a spread is too wide.
    """
    levels = zip(CHARTS, found.monitor.limits.levels, strict=True)
    largest = max(level for chart, level in levels if chart.kind == "spread")
    if not largest <= MOST_LEVEL:
        raise TrainingFailedError(
            f"the newest rows are unlike those before (limit {largest:.1f}, {MOST_LEVEL:g} is"
            " the most): was the plant in normal operation?"
        )


def _parted(
    segments: Sequence[Segment], first: int, lags: int
) -> tuple[list[Segment], list[Floats]]:
    """The first rows to fit; runs of the others, NaN where nothing was measured.

    A run that was cut keeps the rows before it as history, but no residual of them.
    """
    fit: list[Segment] = []
    held_back: list[Floats] = []
    for values, mask in segments:
        cut = min(max(first, 0), len(values))
        first -= len(values)
        fit.append((values[:cut], mask[:cut]))
        rows = np.where(mask > 0, values, np.nan).astype(np.float64)
        if cut < len(rows) > lags:
            held_back.append(rows[max(cut - lags, 0) :])
    return fit, held_back


def write(path: Path, origin: Origin, found: Fitted) -> None:
    """Keep a monitor: the file is the old one or the new one, whenever the power goes.

    Raises:
        OSError: the disk refuses.
        BadUpdateError: a number is not finite.
    """
    var, limits = found.monitor.var, found.monitor.limits
    arrays = {name: getattr(var, name) for name in ARRAYS}
    meta = msgspec.to_builtins(origin)
    counts = {"rows": found.rows, "calibration": found.calibration}
    own = {"lags": var.lags, "nominal": limits.nominal, **counts}
    body = encode({**arrays, "levels": np.array(limits.levels)}, {**meta, **own})
    replace_durably(path, b"%08x " % zlib.crc32(body) + body)


def read(path: Path, origin: Origin, sensors: int) -> Fitted | None:
    """The monitor that was kept for an origin; None if there is none, or it is damaged."""
    try:
        raw = path.read_bytes()
        head, body = raw[: CRC_DIGITS + 1], raw[CRC_DIGITS + 1 :]
        if head != b"%08x " % zlib.crc32(body):
            return None
        update = decode(body)
        kept = msgspec.convert(update.meta, _Kept)
    except (OSError, BadUpdateError, msgspec.ValidationError):
        return None
    if Origin(kept.fleet, kept.wanted) != origin:
        return None
    shapes = _shapes(sensors, kept.lags)
    if {name: array.shape for name, array in update.arrays.items()} != shapes:
        return None
    arrays = {name: np.asarray(update.arrays[name], np.float64) for name in shapes}
    levels = tuple(float(level) for level in arrays.pop("levels"))
    var = Var(lags=kept.lags, **arrays)
    monitor = SiteMonitor(var, var.whitening(), SiteLimits(levels, kept.nominal))
    return Fitted(monitor, kept.rows, kept.calibration)


class _Kept(msgspec.Struct, frozen=True):
    fleet: str
    wanted: int
    lags: int
    nominal: float
    rows: int
    calibration: int


def _shapes(sensors: int, lags: int) -> dict[str, tuple[int, ...]]:
    row = (sensors,)
    sizes = (row, row, row, (lags * sensors, sensors), (sensors, sensors))
    return {**dict(zip(ARRAYS, sizes, strict=True)), "levels": (len(CHARTS),)}
