"""What the demo replays: which rows each site sees, when, and what is known about them.

Every site has a private history of its own (normal operation, from runs that the cloud never trains
on), then a stretch of normal operation, then the chosen fault's run with its normal lead-in. Times
lie in the past, so that the newest row is about now.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.demo.sites import SITES
from aimass_cloud.recipes import PlantData, ShippedPlant
from aimass_shared.errors import NotFoundError

Rows = NDArray[np.float32]

NORMAL_ROWS = 160
FAULT_ROWS = 320
OUTAGE_ROWS = 120
GAP_STEPS = 80
"""Between two recordings: longer than what an agent bridges by holding values."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """Rows that follow one another; `start_ms` is the time of the first."""

    rows: Rows
    start_ms: int
    step_ms: int

    def time_ms(self, row: int) -> int:
        """Time of a row."""
        return self.start_ms + row * self.step_ms

    def row(self, time_ms: int) -> int | None:
        """The row of a time, None if it lies outside."""
        row = (time_ms - self.start_ms) // self.step_ms
        return row if 0 <= row < len(self.rows) else None


@dataclass(frozen=True, eq=False)
class Scenario:
    """One run of the demo.

    Attributes:
        histories: by site, the recordings of its past.
        normal: normal operation under the eyes of the model. fault: a run with its lead-in.
        outage: normal operation while the cloud is away.
        onset: first faulty row of `fault`.
    """

    sensors: tuple[str, ...]
    histories: dict[str, list[Stretch]]
    normal: Stretch
    fault: Stretch
    outage: Stretch
    onset: int


def plan(plant: ShippedPlant, fault: int, seed: int) -> Scenario:
    """Choose rows by the seed and lay them on the time axis.

    Raises:
        NotFoundError: the recipe's data has no such fault; the detail lists those it has.
    """
    data = plant.load()
    if fault not in data.faults:
        known = ", ".join(str(number) for number in sorted(data.faults))
        raise NotFoundError(f"the {plant.name} data has no fault {fault}; it has {known}")
    chance = np.random.default_rng(seed)
    axis = _Axis(plant.step_ms)
    start = int(chance.integers(0, len(data.test) - NORMAL_ROWS - OUTAGE_ROWS))
    normal, outage = data.test[start:][:NORMAL_ROWS], data.test[start + NORMAL_ROWS :][:OUTAGE_ROWS]
    runs = data.faults[fault][: data.fault_start + FAULT_ROWS]
    later = [axis.put(rows) for rows in (outage, runs, normal)]
    return Scenario(
        sensors=data.names,
        histories=_histories(data, fault, chance, axis=axis),
        outage=later[0],
        fault=later[1],
        normal=later[2],
        onset=data.fault_start,
    )


def _histories(
    data: PlantData, fault: int, chance: np.random.Generator, *, axis: "_Axis"
) -> dict[str, list[Stretch]]:
    """Deal the normal lead-ins of the other faults' runs out to the sites."""
    runs = data.site_runs(fault_excluded=fault)
    order = chance.permutation(sorted(runs))
    shares = np.array_split(order, len(SITES))
    end = axis.end_ms
    return {
        site.name: _Axis(axis.step_ms, end).put_all([runs[int(number)] for number in share])
        for site, share in zip(SITES, shares, strict=True)
    }


class _Axis:
    """Puts recordings on the time axis from its end backwards, with gaps between them."""

    def __init__(self, step_ms: int, end_ms: int | None = None) -> None:
        self.step_ms = step_ms
        now = time.time_ns() // 1_000_000 if end_ms is None else end_ms
        self.end_ms = now // step_ms * step_ms

    def put(self, rows: Rows) -> Stretch:
        """The latest stretch that is still free."""
        start = self.end_ms - len(rows) * self.step_ms
        self.end_ms = start - GAP_STEPS * self.step_ms
        return Stretch(rows, start, self.step_ms)

    def put_all(self, recordings: list[Rows]) -> list[Stretch]:
        """Stretches in the order of time."""
        return [self.put(rows) for rows in reversed(recordings)][::-1]
