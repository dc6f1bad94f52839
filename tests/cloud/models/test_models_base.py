"""Linear bases in torch: what numpy forecasts, and the newest value where some are missing."""

import numpy as np
import pytest
import torch

from aimass_cloud.models.base import DirectBase, VarBase, base_of, newest_of
from aimass_cloud.models.direct import Direct

UNITS = {"base.mean": torch.zeros(3), "base.scale": torch.ones(3)}
RANDOM = np.random.default_rng(0)
WINDOW = RANDOM.normal(size=(4, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("maps", [1, 3])
def test_a_direct_base_forecasts_what_numpy_does(maps: int) -> None:
    direct = Direct(RANDOM.normal(size=(maps, 5, 2)))
    base = base_of({**UNITS, "base.maps": torch.tensor(direct.maps, dtype=torch.float32)})
    assert isinstance(base, DirectBase)
    forecast = base(torch.tensor(WINDOW), torch.ones(4, 8, 3), 2)
    assert np.allclose(forecast.numpy(), direct.forecast(WINDOW), atol=1e-5)


def test_a_missing_value_counts_as_the_newest_that_was_measured() -> None:
    maps = torch.tensor(RANDOM.normal(size=(1, 5, 2)), dtype=torch.float32)
    base = base_of({**UNITS, "base.maps": maps})
    mask = torch.ones(4, 8, 3)
    mask[:, 5:, 1] = 0.0
    held = torch.tensor(WINDOW)
    held[:, 5:, 1] = held[:, 4:5, 1]
    gaps = held.masked_fill(mask == 0, 0.0)
    assert torch.allclose(base(gaps, mask, 2), base(held, torch.ones(4, 8, 3), 2), atol=1e-6)


def test_the_newest_value_is_the_last_that_was_measured_or_the_mean() -> None:
    window = torch.arange(1.0, 5.0).reshape(1, 4, 1).repeat(1, 1, 3)
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).T[None]
    assert newest_of(window, mask).tolist() == [[[4.0, 2.0, 0.0]]]


def test_constants_without_maps_are_of_a_var() -> None:
    constants = {"base.intercept": torch.zeros(3), "base.coefficients": torch.eye(3)}
    base = base_of({**UNITS, **constants})
    assert isinstance(base, VarBase)
    window = torch.tensor(WINDOW)
    assert torch.equal(base(window, torch.ones(4, 8, 3), 2), window[:, -1:].expand(-1, 2, -1))
