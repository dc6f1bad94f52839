"""Exports the graphs of a recipe's models before there is a model.

    python -m aimass_cloud.slicing.preparing RECIPE DIRECTORY

A coordinator that expects to train runs it in a process of its own meanwhile, so that slicing the
first model takes no exporter either: `make_slices(model, out_dir, reuse=DIRECTORY)`.
"""

import argparse
from pathlib import Path

import torch

from aimass_cloud import recipes
from aimass_cloud.models.blank import blank
from aimass_cloud.models.contract import contract_for
from aimass_cloud.models.trained import ForecasterConfig
from aimass_cloud.slicing.templates import Templates


def prepare(recipe: str, directory: Path, config: ForecasterConfig | None = None) -> None:
    """Export what is not there yet, of every width: about 20 s of one core, once.

    Raises:
        NotFoundError: there is no such recipe.
    """
    task, sizes = recipes.find(recipe), config or ForecasterConfig()
    contract = contract_for(
        task.model,
        task.load().sensors,
        step_ms=task.step_ms,
        window=task.window,
        horizon=task.horizon,
    )
    templates = Templates(blank(contract, sizes, recipe=recipe), directory)
    for width in sizes.widths:
        templates.forward(width)
        templates.step(width)


def main() -> None:
    """Read the arguments and prepare."""
    parser = argparse.ArgumentParser(prog="aimass_cloud.slicing.preparing", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prepare(arguments.recipe, arguments.directory)


if __name__ == "__main__":
    main()
