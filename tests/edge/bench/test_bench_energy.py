"""Power and heat from files as the kernel has them."""

import itertools
from pathlib import Path

import pytest

from aimass_edge.bench.energy import Counters, NoMeter, Rails, meter_of, temperature_c


def package(sysfs: Path, name: str, microjoules: str) -> Path:
    zone = sysfs / "class/powercap" / name
    zone.mkdir(parents=True)
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text("1000000\n")
    return zone


def test_the_rail_that_carries_all_is_taken_alone(jetson: Path) -> None:
    meter = meter_of(jetson)
    assert isinstance(meter, Rails)
    ticks = itertools.count(0.0, 0.5)
    alone = Rails(meter._rails, lambda: next(ticks))
    alone.begin()  # at 0.0; the clock ticks at each look as well
    joules = alone.end()  # at 1.5
    assert joules == pytest.approx(10.0 * 1.5)
    assert temperature_c(jetson) == 48.0


def test_without_such_a_rail_all_that_have_a_name_are_added(jetson: Path) -> None:
    (jetson / "class/hwmon/hwmon1/in1_label").write_text("NC\n")
    meter = meter_of(jetson)
    assert isinstance(meter, Rails)
    meter.begin()
    meter.poll()
    joules = meter.end()
    assert joules is not None
    assert len(meter._rails) == 2
    assert set(meter._watts) == {6.0}


def test_packages_are_added_and_wrap(tmp_path: Path) -> None:
    first, second = (
        package(tmp_path, "intel-rapl:0", "900000"),
        package(tmp_path, "intel-rapl:1", "5"),
    )
    package(tmp_path, "intel-rapl:0:0", "5")  # a core is within its package
    meter = meter_of(tmp_path)
    assert isinstance(meter, Counters)
    meter.begin()
    meter.poll()
    (first / "energy_uj").write_text("400000")
    (second / "energy_uj").write_text("250005")
    assert meter.end() == pytest.approx(0.5 + 0.25)


def test_a_board_that_stops_to_tell_says_nothing(tmp_path: Path, jetson: Path) -> None:
    zone = package(tmp_path / "x86", "intel-rapl:0", "1")
    counters, rails = meter_of(tmp_path / "x86"), meter_of(jetson)
    (zone / "energy_uj").unlink()
    (jetson / "class/hwmon/hwmon1/curr1_input").write_text("error")
    for meter in (counters, rails):
        meter.begin()
        meter.poll()
        assert meter.end() is None


def test_a_board_that_tells_nothing_has_no_meter(tmp_path: Path) -> None:
    zone = package(tmp_path, "intel-rapl:0", "1")
    (zone / "energy_uj").write_text("")  # for root only, as a user sees it
    meter = meter_of(tmp_path)
    assert isinstance(meter, NoMeter)
    meter.begin()
    meter.poll()
    assert meter.end() is None
    assert temperature_c(tmp_path) is None
