"""The largest size of each recipe is what its name says."""

import msgspec
import pytest
import torch

from aimass_cloud import recipes

LEAST_PARAMETERS = 100_000_000


@pytest.mark.parametrize("name", recipes.names())
def test_xl_has_over_a_hundred_million_parameters(name: str) -> None:
    recipe = recipes.find(name)
    task = recipe.open(msgspec.structs.replace(recipe.run, size="xl"))
    with torch.device("meta"):
        network = task.network()
    assert sum(parameter.numel() for parameter in network.parameters()) > LEAST_PARAMETERS
