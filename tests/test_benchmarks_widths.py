"""The bench of widths: its plant is fair, a model alone is as large as its width."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks.slices.widths import CNN, MORE_BARS, TRANSFORMER, Case, _compared, noisy_plant

from aimass_cloud.datasets import conditions


def test_copies_of_a_stretch_of_the_plant_are_in_one_part(tmp_path: Path) -> None:
    noisy_plant(tmp_path / "plant.parquet")
    data = conditions.open(str(tmp_path / "plant.parquet"))
    assert len(data.names) == 9
    assert {len(one.rows) for one in data.segments} == {24}
    parts = conditions.cut(data, 16)
    runs = [{one.run for one in part} for part in parts]
    assert not runs[0] & runs[1] | runs[1] & runs[2] | runs[0] & runs[2]
    first = [one.rows for one in data.segments if one.run == data.segments[0].run]
    assert len(first) == 4
    assert not np.allclose(first[0], first[1])


@pytest.mark.parametrize("case", [CNN, TRANSFORMER])
def test_a_model_alone_is_as_large_as_its_width(case: Case) -> None:
    alone = case.alone(case.run("data", seed=1), 0.25)
    assert (alone.widths, alone.steps, alone.seed) == ((1.0,), case.steps, 1)
    assert alone.options in ({"stages": [8, 8, 16, 32]}, {"hidden": 16, "window": 16})


def test_more_is_a_share_of_the_error_of_a_model_alone() -> None:
    rows = _compared("set", "width 0.25", [[0.11, 0.10], [0.10, 0.10]], ("log loss", 5.0))
    judged = next(row for row in rows if row.bar)
    assert judged.value == pytest.approx(5.0)
    assert MORE_BARS == {1.0: 1.0, 0.5: 2.0, 0.25: 5.0}
