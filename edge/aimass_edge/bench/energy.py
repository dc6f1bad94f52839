"""What the kernel tells of power and heat, from files below one folder (`/sys`).

Intel's and AMD's processors count energy (RAPL, `class/powercap`); a Jetson tells the power of its
supply rails (INA3221, `class/hwmon`). Both include what the board takes when it is idle.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

SYSFS = Path("/sys")
POLL_S = 0.02
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
"""Rails that carry all of a module: Orin Nano and NX, and the boards before them."""
CHANNELS = (1, 2, 3)
MICRO, MILLI = 1e-6, 1e-3
Clock = Callable[[], float]


class Meter(Protocol):
    """Energy between `begin` and `end`; `poll` is called in between, often."""

    def begin(self) -> None:
        """Start to count."""

    def poll(self) -> None:
        """Look at the board, if it is time to."""

    def end(self) -> float | None:
        """Joules since `begin`; None where the board did not tell."""


class NoMeter:
    """A board that tells nothing."""

    def begin(self) -> None:
        """Nothing to start."""

    def poll(self) -> None:
        """Nothing to look at."""

    def end(self) -> float | None:
        """Nobody knows."""
        return None


class Counters:
    """Counters of energy in microjoules, one for each package; they wrap at their range."""

    def __init__(self, zones: tuple[Path, ...]) -> None:
        self._zones = zones
        self._before: list[float | None] = []

    def begin(self) -> None:
        """Note where they are."""
        self._before = [_number(zone / "energy_uj") for zone in self._zones]

    def poll(self) -> None:
        """Nothing to look at: they count by themselves."""

    def end(self) -> float | None:
        """Joules of all packages."""
        spent = [self._spent(*pair) for pair in zip(self._zones, self._before, strict=True)]
        known = [joules for joules in spent if joules is not None]
        return sum(known) if known and len(known) == len(spent) else None

    def _spent(self, zone: Path, before: float | None) -> float | None:
        now, most = _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")
        if now is None or before is None:
            return None
        if now < before:  # once round: a range takes minutes at least
            return None if most is None else (now + most - before) * MICRO
        return (now - before) * MICRO


class Rails:
    """Power of supply rails, looked at again and again; its mean times the time is the energy."""

    def __init__(self, rails: tuple[tuple[Path, Path], ...], clock: Clock = time.monotonic) -> None:
        """`rails` are pairs of files: millivolts and milliamperes."""
        self._rails = rails
        self._clock = clock
        self._begun = 0.0
        self._looked = 0.0
        self._watts: list[float] = []

    def begin(self) -> None:
        """Look for the first time."""
        self._watts = []
        self._begun = self._clock()
        self._look()

    def poll(self) -> None:
        """Look, at most every 20 ms: a reading takes about a millisecond on the I2C bus."""
        if self._clock() - self._looked >= POLL_S:
            self._look()

    def end(self) -> float | None:
        """Joules of all rails."""
        self._look()
        if not self._watts:
            return None
        return sum(self._watts) / len(self._watts) * (self._clock() - self._begun)

    def _look(self) -> None:
        self._looked = self._clock()
        values = [(_number(volts), _number(amperes)) for volts, amperes in self._rails]
        watts = [v * a * MILLI * MILLI for v, a in values if v is not None and a is not None]
        if len(watts) == len(self._rails):
            self._watts.append(sum(watts))


def meter_of(sysfs: Path = SYSFS) -> Meter:
    """What this board has, and lets this user read."""
    rails = _rails(sysfs)
    if rails:
        return Rails(rails)
    zones = tuple(
        zone
        for zone in sorted(sysfs.glob("class/powercap/intel-rapl:*"))
        if zone.name.count(":") == 1 and _number(zone / "energy_uj") is not None
    )
    return Counters(zones) if zones else NoMeter()


def temperature_c(sysfs: Path = SYSFS) -> float | None:
    """The hottest zone of the board; None where it does not tell."""
    zones = sysfs.glob("class/thermal/thermal_zone*/temp")
    degrees = [value * MILLI for value in map(_number, zones) if value is not None]
    return max(degrees, default=None)


def _rails(sysfs: Path) -> tuple[tuple[Path, Path], ...]:
    """The rail that carries all, or else all rails that have a name."""
    named: dict[str, tuple[Path, Path]] = {}
    for chip in sorted(sysfs.glob("class/hwmon/hwmon*")):
        if _text(chip / "name") != "ina3221":
            continue
        for channel in CHANNELS:
            label = _text(chip / f"in{channel}_label")
            if label and label != "NC":
                pair = chip / f"in{channel}_input", chip / f"curr{channel}_input"
                named[f"{chip.name} {label}"] = pair
    total = [pair for name, pair in named.items() if name.split(" ", 1)[1] in TOTAL_RAILS]
    return tuple(total[:1] or named.values())


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
