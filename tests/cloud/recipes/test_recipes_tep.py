"""The Tennessee Eastman recipe: what ships, and that the columns are what their names say."""

from collections import Counter
from importlib import resources

import numpy as np
import pytest

from aimass_cloud import recipes
from aimass_cloud.recipes import tep
from aimass_shared.errors import NotFoundError

DATA = tep.PLANT.load()


def _column(name: str) -> int:
    return DATA.names.index(name)


def test_the_runs_have_the_published_sizes() -> None:
    assert DATA.train.shape == (500, 52)
    assert DATA.calibration.shape == DATA.test.shape == (480, 52)
    assert {fault: rows.shape for fault, rows in DATA.faults.items()} == dict.fromkeys(
        (1, 2, 4, 6, 7, 8, 12, 14), (960, 52)
    )
    assert DATA.fault_labels.keys() == DATA.faults.keys()


def test_the_sensors_are_those_of_the_literature() -> None:
    assert Counter(sensor.kind for sensor in DATA.sensors) == {
        "continuous": 22,
        "sampled": 19,
        "actuator": 11,
    }
    assert (DATA.names[0], DATA.names[40], DATA.names[41], DATA.names[-1]) == (
        "XMEAS_01",
        "XMEAS_41",
        "XMV_01",
        "XMV_11",
    )
    assert all(sensor.unit and sensor.label for sensor in DATA.sensors)


@pytest.mark.parametrize(
    ("name", "base_case", "tolerance"),
    # Downs and Vogel (1993), tables 3 to 5: the base case of mode 1.
    [
        ("XMEAS_07", 2705.0, 10.0),
        ("XMEAS_09", 120.4, 0.1),
        ("XMEAS_20", 341.4, 5.0),
        ("XMEAS_40", 53.7, 1.0),
        ("XMV_10", 41.1, 2.0),
    ],
)
def test_a_column_has_the_base_case_value(name: str, base_case: float, tolerance: float) -> None:
    assert DATA.train[:, _column(name)].mean() == pytest.approx(base_case, abs=tolerance)


def test_analysers_hold_a_sample_and_flow_meters_do_not() -> None:
    still = (np.diff(DATA.train, axis=0) == 0).mean(axis=0)
    assert still[_column("XMEAS_23")] == pytest.approx(0.5, abs=0.02)
    assert still[_column("XMEAS_41")] == pytest.approx(0.8, abs=0.02)
    assert still[_column("XMEAS_01")] < 0.02


def test_a_fault_begins_where_it_should() -> None:
    feed = DATA.faults[6][:, _column("XMEAS_01")]
    assert feed[: DATA.fault_start].min() > 0.1
    assert feed[DATA.fault_start + 3 :].max() < 0.05


def test_site_histories_are_normal_distinct_and_leave_a_fault_out() -> None:
    runs = DATA.site_runs(fault_excluded=4)
    assert sorted(runs) == [1, 2, 6, 7, 8, 12, 14]
    assert all(rows.shape == (160, 52) for rows in runs.values())
    own = {DATA.train.tobytes()[:1000], DATA.calibration.tobytes()[:1000]}
    assert len(own | {rows.tobytes()[:1000] for rows in runs.values()}) == len(runs) + 2
    assert len(DATA.site_runs()) == len(runs) + 1


def test_recordings_cannot_be_changed_by_who_loads_them() -> None:
    with pytest.raises(ValueError, match="read-only"):
        DATA.train[0, 0] = 1.0
    assert tep.PLANT.load() is DATA


def test_the_licence_travels_with_the_recordings() -> None:
    notice = resources.files("aimass_cloud.recipes.tep").joinpath("LICENSE.txt").read_text()
    assert "University of Illinois" in notice


def test_an_unknown_recipe_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(NotFoundError, match=r"no recipe 'tap'.*sensor-graph"):
        recipes.find("tap")
