"""From what a device measured of its slices (`aimass-edge bench`) to what plans know of the device.

Pure. A plan multiplies the times of the reference machine by the device's factor; a measured device
has one factor for each slice, and one for those that were not measured.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aimass_shared.messages import SliceMeasured
from aimass_shared.planning.profiles import Device
from aimass_shared.slices import Board, SliceCost

LEAST_MS = 1e-6


class Slowdowns(NamedTuple):
    """How many times longer than on the reference machine a window takes.

    Attributes:
        shared: geometric mean of all slices, for those that were not measured; 1.0 without any.
        of: by name of the slice.
    """

    shared: float
    of: dict[str, float]


def slowdowns(
    measured: Iterable[SliceMeasured], costs: Mapping[str, SliceCost], *, release: str = ""
) -> Slowdowns:
    """Factors of a device, from its runs of one window.

    The median here is held against the fastest run of the reference, so that a factor is a little
    over what the machines differ by: plans err on the slow side.

    Args:
        measured: of one device.
        costs: of the slices, by name, as the release has them.
        release: take those of this release only; "" takes all.
    """
    of = {
        one.slice: max(one.p50_ms, LEAST_MS) / costs[one.slice].reference_ms
        for one in sorted(measured, key=lambda one: one.at)
        if one.batch == 1
        and release in {"", one.release}
        and one.slice in costs
        and costs[one.slice].reference_ms > 0
    }
    shared = math.exp(sum(map(math.log, of.values())) / len(of)) if of else 1.0
    return Slowdowns(shared, of)


def device_of(board: Board, found: Slowdowns, slice_name: str = "") -> Device:
    """The device as plans take it: with the factor of a slice, or the shared one."""
    return Device(
        slowdown=found.of.get(slice_name, found.shared),
        memory_mib=board.memory_mib,
        precisions=board.precisions,
    )
