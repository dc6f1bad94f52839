"""What a forecast is compared with, and what is chosen on held-back windows once it is trained.

Chosen for each width: which relations of the graph are heard, how much of the correction is trusted
(the gate), and how far a band of quantiles reaches. A correction that does not surely help is off:
what ships is the best of the linear base and the network with none, some or all of its relations.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimass_cloud.models.forecaster import SIDES
from aimass_cloud.models.graph import group_of
from aimass_cloud.models.linear import DLinear, persistence
from aimass_cloud.models.sensors import COVERED
from aimass_cloud.models.windows import scaled_error
from aimass_shared.manifest import Sensor

LEAST_REACH: Final = 0.05
STRETCHES: Final = 8
"""Of time that held-back windows are cut into."""
DOUBT: Final = 4.0
"""Standard errors over the stretches that a gain must exceed: of t with 7 degrees of freedom, 3 in
1,000 do by chance, so that of the 16 ways that are tried one does in twenty models."""
SHARES: Final = (0.25, 0.5, 0.75, 1.0)
"""Of the gate that fits held-back windows best."""

LINEAR: Final = "linear base"

Floats = NDArray[np.floating]
Forecast = Callable[[Tensor, Tensor], Tensor]
"""A forecast `[n, horizon, S]`, standardised, with a gate and a loudness."""


class Choice(NamedTuple):
    """A way to use a network.

    Attributes:
        name: of the groups of relations that are heard. loudness: `[relations]`.
        gate: `[horizon, S]`. error: on held-back windows.
        gain: by what share it is smaller than that of the linear forecast, mean of the stretches
            of held-back windows; 0 where they do not agree that it is.
    """

    name: str
    loudness: Tensor
    gate: Tensor
    error: float
    gain: float


def choices(
    forecast: Forecast, target: Tensor, *, relations: Sequence[str], sensors: Sequence[Sensor]
) -> list[Choice]:
    """The linear forecast, and the network with each set of its relations and its best gate.

    The future differs from held-back rows as stretches of those differ from each other, and windows
    that overlap are no independent witnesses. So a gain must be seen in most stretches, each
    measured by its own error, and not be made by a few wild ones.

    Args:
        forecast: of held-back windows, in order of time.
        target: what came, `[n, horizon, S]`, standardised; not a number where nothing was measured.
        relations: of the network.
        sensors: in their order.
    """
    size = target.shape[1:]
    kinds = [sensor.kind for sensor in sensors]
    linear = forecast(torch.zeros(size), torch.ones(len(relations)))
    before = _errors(linear, target)
    found = [Choice(LINEAR, torch.ones(len(relations)), torch.zeros(size), _mean(before), 0.0)]
    for name, loudness in _subsets(relations):
        added = forecast(torch.ones(size), loudness) - linear
        best = gate(linear, added, target, kinds=kinds)
        for share in SHARES:
            errors = _errors(linear + share * best * added, target)
            gain = _gain(before, errors)
            found.append(Choice(name, loudness, share * best, _mean(errors), gain))
    return found


def chosen(found: Sequence[Choice]) -> Choice:
    """The one with the largest gain that stretches agree on, or the linear forecast."""
    return max(found, key=lambda each: each.gain)


def _errors(forecast: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each window where anything was measured."""
    errors = (forecast - target).square().flatten(1).nanmean(dim=1)
    return errors[errors.isfinite()]


def _mean(errors: Tensor) -> float:
    return float(errors.mean())


def _gain(before: Tensor, after: Tensor) -> float:
    """The mean share of its error that a stretch of windows in order of time loses, if proven.

    Where nothing was measured, nothing is proven.
    """
    if not len(after):
        return 0.0
    was, now = (_stretches(errors) for errors in (before, after))
    gains = 1 - now / was.clamp(min=1e-12)
    doubt = DOUBT * gains.std() / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    gain = gains.mean()
    return float(gain) if gain > doubt else 0.0


def _stretches(errors: Tensor) -> Tensor:
    return torch.stack([part.mean() for part in errors.tensor_split(STRETCHES) if len(part)])


def _subsets(relations: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Each set of the groups of relations, by name, the empty one first."""
    groups = list(dict.fromkeys(group_of(name) for name in relations))
    for heard in product((False, True), repeat=len(groups)):
        names = [group for group, is_heard in zip(groups, heard, strict=True) if is_heard]
        loudness = [float(group_of(relation) in names) for relation in relations]
        yield f"network, {' + '.join(names) or 'no'} graph", torch.tensor(loudness)


@torch.no_grad()
def gate(linear: Tensor, added: Tensor, target: Tensor, *, kinds: Sequence[str]) -> Tensor:
    """How much of a correction to trust `[horizon, S]`, 0 to 1: the share that fits best.

    One number for each kind of sensor and step ahead, by least squares on held-back windows: there
    the gated forecast cannot be worse than the linear one, and a useless correction is off.

    Args:
        linear: forecast `[n, horizon, S]`.
        added: the correction.
        target: what came; not a number where nothing was measured.
        kinds: the kind of each sensor.
    """
    known = target.isfinite()
    missing = torch.where(known, added * (target - linear), 0.0).sum(dim=0)
    power = torch.where(known, added, 0.0).square().sum(dim=0)
    share = torch.zeros_like(power)
    for kind in dict.fromkeys(kinds):
        own = torch.tensor([each == kind for each in kinds])
        fits = missing[:, own].sum(dim=1) / power[:, own].sum(dim=1).clamp(min=1e-12)
        share[:, own] = fits.clamp(0.0, 1.0)[:, None]
    return share


def reach(forecast: Tensor, band: Tensor, target: Tensor, *, kinds: Sequence[str]) -> Tensor:
    """What to multiply a band with `[2, horizon, S]`, so that it covers what it says.

    One number for each side, kind of sensor and step ahead: the quantile of how far held-back
    values lie out, in units of the band (conformal: Romano, Patterson and Candès, NeurIPS 2019).

    Args:
        forecast: `[n, horizon, S]`.
        band: `[n, 2, horizon, S]`, how far it reaches below and above.
        target: what came; not a number where nothing was measured.
        kinds: the kind of each sensor.
    """
    signs = torch.tensor([-1.0, 1.0])
    beyond = signs[:, None, None] * (target - forecast)[:, None] / band.clamp(min=1e-6)
    level = COVERED[1]
    found = torch.ones(SIDES, *forecast.shape[1:])
    for kind in dict.fromkeys(kinds):
        own = torch.tensor([each == kind for each in kinds])
        values = beyond[..., own].permute(1, 2, 0, 3).flatten(2).numpy()
        far = np.nanquantile(values, level, axis=2, method="higher")
        found[..., own] = torch.tensor(far, dtype=torch.float32)[..., None]
    return found.nan_to_num(1.0).clamp(min=LEAST_REACH)


def coverage(lower: Floats, upper: Floats, future: Floats, *, scale: Floats) -> dict[str, float]:
    """How often the truth lies in a band, under and over it, and how wide the band is."""
    known = np.isfinite(future)
    below, above = (future < lower)[known].mean(), (future > upper)[known].mean()
    return {
        "wanted": COVERED[1] - COVERED[0],
        "covered": float(1 - below - above),
        "below": float(below),
        "above": float(above),
        "width": float(((upper - lower) / scale).mean()),
    }


def plain_errors(train: Floats, past: Floats, future: Floats) -> dict[str, float]:
    """Errors of persistence and DLinear on standardised windows without gaps.

    DLinear is left out where it would be fitted from fewer windows than it has coefficients.

    Args:
        train: training windows `[n, W + horizon, S]`.
        past: of test windows `[m, W, S]`.
        future: what came after them.
    """
    window, one = past.shape[1], np.ones(past.shape[2])
    seen, fitted = np.asarray(past, np.float64), np.asarray(train, np.float64)
    forecasts = {"persistence": persistence(seen, future.shape[1])}
    if len(fitted) > 2 * window + 1:
        dlinear = DLinear.fit(fitted[:, :window], fitted[:, window:])
        forecasts["dlinear"] = dlinear.forecast(seen)
    return {name: scaled_error(each, future, one) for name, each in forecasts.items()}
