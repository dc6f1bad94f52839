"""Sums the moments of sites: one round, exact, and no model is needed. Pure.

The sum of Z'Z, Z'Y and Y'Y over sites equals that of the pooled rows, so the regression solved from
it is the one that all rows together would give. The same sums about each site's own mean are what
a site shrinks a VAR of its own towards; both are exact, and no row leaves a site.
"""

from collections.abc import Mapping

import numpy as np

from aimass_cloud.federation.plans import Arrays
from aimass_cloud.models.fleet import SitesMoments
from aimass_shared.errors import BadUpdateError
from aimass_shared.moments import Moments, from_arrays


def sum_moments(
    answers: Mapping[str, Arrays], *, sensors: tuple[str, ...], lags: int
) -> tuple[SitesMoments, dict[str, int], dict[str, BadUpdateError]]:
    """The sums over sites, the rows of each site in it, and why the others are not in it.

    Args:
        answers: the arrays of each site, as `Moments.arrays` gives them.
        sensors: channels that were asked for.
        lags: rows of history that were asked for.
    """
    total = SitesMoments.none(sensors, lags)
    rows: dict[str, int] = {}
    refused: dict[str, BadUpdateError] = {}
    for site, arrays in answers.items():
        try:
            part = from_arrays(arrays, sensors=sensors, lags=lags)
            total = _finite(total, part)
        except BadUpdateError as error:
            refused[site] = error
        else:
            rows[site] = part.n
    return total, rows, refused


def _finite(total: SitesMoments, part: Moments) -> SitesMoments:
    """The sum of both, unless one site's huge numbers would take all others' with them."""
    with np.errstate(over="ignore", invalid="ignore"):
        both = total.joined(part)
    sums = (*both.arrays().values(), *both.within.arrays().values())
    if not all(np.isfinite(array).all() for array in sums):
        raise BadUpdateError("the moments are too large to be added")
    return both
