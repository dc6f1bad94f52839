"""The Tennessee Eastman process, the field's common test plant: what ships for `sensor-graph`.

52 sensors at one row each 3 minutes, normal operation and eight faults. The recordings lie beside
this file, with their licence. Sensor names and units: Downs and Vogel, Computers & Chemical
Engineering 17 (1993) 245-255, tables 3 to 5.
"""

import gzip
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.recipes.plant import PlantData, ShippedPlant
from aimass_shared.errors import TrainingFailedError
from aimass_shared.manifest import Sensor, SensorKind

FAULT_START: Final = 160
CALIBRATION_ROWS: Final = 480
STEP_MS: Final = 180_000

FAULTS: Final = MappingProxyType(
    {
        1: "A/C feed ratio, step (stream 4)",
        2: "B composition of the feed, step (stream 4)",
        4: "Reactor cooling water inlet temperature, step",
        6: "A feed loss, step (stream 1)",
        7: "C header pressure loss, step (stream 4)",
        8: "A, B, C feed composition, random (stream 4)",
        12: "Condenser cooling water inlet temperature, random",
        14: "Reactor cooling water valve, sticking",
    }
)

_CONTINUOUS: Final = (
    ("A feed (stream 1)", "km3/h"),
    ("D feed (stream 2)", "kg/h"),
    ("E feed (stream 3)", "kg/h"),
    ("A and C feed (stream 4)", "km3/h"),
    ("Recycle flow (stream 8)", "km3/h"),
    ("Reactor feed rate (stream 6)", "km3/h"),
    ("Reactor pressure", "kPa"),
    ("Reactor level", "%"),
    ("Reactor temperature", "°C"),
    ("Purge rate (stream 9)", "km3/h"),
    ("Separator temperature", "°C"),
    ("Separator level", "%"),
    ("Separator pressure", "kPa"),
    ("Separator underflow (stream 10)", "m3/h"),
    ("Stripper level", "%"),
    ("Stripper pressure", "kPa"),
    ("Stripper underflow (stream 11)", "m3/h"),
    ("Stripper temperature", "°C"),
    ("Stripper steam flow", "kg/h"),
    ("Compressor work", "kW"),
    ("Reactor cooling water outlet temperature", "°C"),
    ("Separator cooling water outlet temperature", "°C"),
)
_SAMPLED: Final = (("Reactor feed", "ABCDEF"), ("Purge gas", "ABCDEFGH"), ("Product", "DEFGH"))
_ACTUATORS: Final = (
    "D feed valve (stream 2)",
    "E feed valve (stream 3)",
    "A feed valve (stream 1)",
    "A and C feed valve (stream 4)",
    "Compressor recycle valve",
    "Purge valve (stream 9)",
    "Separator liquid valve (stream 10)",
    "Stripper liquid valve (stream 11)",
    "Stripper steam valve",
    "Reactor cooling water valve",
    "Condenser cooling water valve",
)


def sensors() -> tuple[Sensor, ...]:
    """XMEAS_01 to XMEAS_41 and XMV_01 to XMV_11, in the order of the recordings' columns."""
    analyses = [(f"{where}, {part}", "mol%") for where, parts in _SAMPLED for part in parts]
    valves = [(label, "%") for label in _ACTUATORS]
    return (
        *_numbered("XMEAS", 1, _CONTINUOUS, kind="continuous"),
        *_numbered("XMEAS", len(_CONTINUOUS) + 1, analyses, kind="sampled"),
        *_numbered("XMV", 1, valves, kind="actuator"),
    )


@lru_cache(maxsize=1)
def load() -> PlantData:
    """Read the recordings that ship with the package: about 8,700 rows, 0.4 s, once a process.

    Raises:
        TrainingFailedError: a file is not of the shape that it should have.
    """
    held_back = _read("d00_te", 960)
    return PlantData(
        sensors=sensors(),
        step_ms=STEP_MS,
        train=_read("d00", 500),
        calibration=held_back[:CALIBRATION_ROWS],
        test=held_back[CALIBRATION_ROWS:],
        faults=MappingProxyType({fault: _read(f"d{fault:02d}_te", 960) for fault in FAULTS}),
        fault_start=FAULT_START,
        fault_labels=FAULTS,
    )


PLANT: Final = ShippedPlant(
    name="tep",
    recipe="sensor-graph",
    model="tep-monitor",
    step_ms=STEP_MS,
    window=16,
    horizon=4,
    load=load,
)


def _numbered(
    prefix: str, first: int, labelled: Sequence[tuple[str, str]], *, kind: SensorKind
) -> list[Sensor]:
    return [
        Sensor(name=f"{prefix}_{number:02d}", unit=unit, kind=kind, label=label)
        for number, (label, unit) in enumerate(labelled, first)
    ]


def _read(name: str, rows: int) -> NDArray[np.float32]:
    packed = resources.files(__name__).joinpath(f"{name}.dat.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode("ascii").splitlines(), dtype=np.float32)
    # The file of the normal training run alone holds one row for each sensor.
    table = table.T.copy() if table.shape == (len(sensors()), rows) else table
    if table.shape != (rows, len(sensors())):
        raise TrainingFailedError(f"recording {name} has shape {table.shape}; install it again")
    table.flags.writeable = False
    return table
