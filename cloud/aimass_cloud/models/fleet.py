"""What a model ships of the fleet, so that a device can shrink a VAR of its own towards it.

The fleet are the sites of a statistics round, or else the runs that the model was trained on.
Numpy only.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from aimass_cloud.models.shrinkage import (
    LAGS,
    RIDGE,
    WEIGHT,
    Rows,
    SiteRows,
    chosen_weight,
    moments_of,
)
from aimass_shared.errors import BadUpdateError, TrainingFailedError
from aimass_shared.fleet import Fleet, pack
from aimass_shared.moments import Moments, from_arrays, moments
from aimass_shared.var import centred

WITHIN: Final = "within_"
SITES: Final = "sites"
MOST_SENSORS: Final = 360
"""Of a fleet that fits into a release (`aimass_shared.fleet.MAX_BYTES`)."""
FEWEST_SITES: Final = 3
"""Of a statistics round whose sums go to all devices: of two, each could work out the other's."""
MOST_JUDGED: Final = 16
"""Sites whose held-back rows choose the weight; of more, some that lie evenly."""


@dataclass(frozen=True, eq=False)
class SitesMoments(Moments):
    """The sum of the moments of sites.

    Attributes:
        within: the sum of their moments, each about its own mean (`aimass_shared.var.centred`).
        sites: how many are in `within`.
    """

    within: Moments
    sites: int

    @classmethod
    def of(cls, total: Moments, within: Moments, sites: int) -> "SitesMoments":
        """Both sums of so many sites."""
        return cls(
            zz=total.zz,
            zy=total.zy,
            yy=total.yy,
            n=total.n,
            sensors=total.sensors,
            lags=total.lags,
            within=within,
            sites=sites,
        )

    @classmethod
    def none(cls, sensors: tuple[str, ...], lags: int) -> "SitesMoments":
        """Those of no sites at all."""
        empty = Moments.empty(sensors, lags)
        return cls.of(empty, empty, 0)

    def joined(self, site: Moments) -> "SitesMoments":
        """With one more site; one without rows changes nothing in `within`.

        Of more sensors than a fleet can ship for, `within` stays empty: it would only cost memory.

        Raises:
            BadUpdateError: it has other sensors or lags.
        """
        counts = site.n > 0 and len(self.sensors) <= MOST_SENSORS
        within = self.within.add(centred(site)) if counts else self.within
        return SitesMoments.of(self.add(site), within, self.sites + counts)


def moments_of_runs(runs: Iterable[Rows], *, sensors: tuple[str, ...], lags: int) -> SitesMoments:
    """Moments of runs `[T, S]`, NaN where nothing was measured; each run counts as a site."""
    total = SitesMoments.none(sensors, lags)
    for rows in runs:
        known = np.isfinite(rows).astype(np.float32)
        total = total.joined(moments([(rows, known)], sensors=sensors, lags=lags))
    return total


def weight_of(runs: Mapping[str, SiteRows]) -> float:
    """How much the fleet counts for each of its sites, as their held-back rows choose.

    `WEIGHT` where there are fewer than two sites with enough rows to tell.
    """
    judged = {
        name: (own, moments_of(own.train))
        for name, own in runs.items()
        if len(own.calibration) > LAGS and len(own.train) > LAGS
    }
    judged = {name: both for name, both in judged.items() if both[1].n > 0}
    names = list(judged)
    if len(names) < 2:  # noqa: PLR2004
        return WEIGHT
    spread = np.linspace(0, len(names) - 1, min(MOST_JUDGED, len(names))).round().astype(int)
    chosen = {names[place]: judged[names[place]] for place in spread}
    rows = {name: own for name, (own, _) in chosen.items()}
    try:
        return chosen_weight({name: own for name, (_, own) in chosen.items()}, rows, ridge=RIDGE)
    except TrainingFailedError:
        return WEIGHT


def packed_moments(found: SitesMoments) -> bytes:
    """A statistics round's sums as the bytes of an `.npz` file."""
    about = {
        "sensors": np.array(found.sensors),
        "lags": np.array(found.lags),
        SITES: np.array(found.sites),
    }
    within = {f"{WITHIN}{name}": array for name, array in found.within.arrays().items()}
    arrays: dict[str, Any] = {**about, **found.arrays(), **within}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def unpacked_moments(packed: bytes) -> Moments:
    """Read `packed_moments`; a file of before there were fleets gives `Moments` alone."""
    with np.load(io.BytesIO(packed), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    sensors = tuple(str(name) for name in arrays.pop("sensors"))
    lags, sites = int(arrays.pop("lags")), int(arrays.pop(SITES, 0))
    within = {
        name.removeprefix(WITHIN): arrays.pop(name) for name in list(arrays) if WITHIN in name
    }
    total = from_arrays(arrays, sensors=sensors, lags=lags)
    if not within:
        return total
    return SitesMoments.of(total, from_arrays(within, sensors=sensors, lags=lags), sites)


def packed_fleet(within: Moments, weight: float) -> bytes | None:
    """The file that a device shrinks its VAR with; None for too many sensors, or too few rows."""
    own = within.shortened(LAGS)
    if own.n <= len(own.sensors):
        return None
    try:
        return pack(Fleet(own, weight, RIDGE))
    except BadUpdateError:
        return None
