"""`python -m aimass_cloud.slicing`: exports graphs in a process of its own (see `preparing`)."""

import argparse
import os
import threading
from pathlib import Path
from typing import get_args

import msgspec
import torch

from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.slicing.preparing import BOTH, prepare, prepare_for
from aimass_cloud.slicing.templates import Kind


def _end_with_parent() -> None:
    """End at once when the other end of standard input is closed, as it is when a parent dies."""

    def watch() -> None:
        os.read(0, 1)  # not through sys.stdin, whose lock an interpreter that ends needs
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Read the arguments and prepare."""
    parser = argparse.ArgumentParser(prog="python -m aimass_cloud.slicing")
    parser.add_argument("recipe")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--run", help="settings of the run, as JSON")
    parser.add_argument("--model", type=Path, help="folder of a model of the sizes")
    parser.add_argument("--kind", choices=get_args(Kind), help="one kind of graph only")
    parser.add_argument("--until-closed", action="store_true", help="end when stdin closes")
    arguments = parser.parse_args()
    if arguments.until_closed:
        _end_with_parent()
    torch.set_num_threads(1)
    kinds = (arguments.kind,) if arguments.kind else BOTH
    if arguments.model:
        prepare_for(TrainedModel.load(arguments.model), arguments.directory, kinds=kinds)
        return
    run = msgspec.json.decode(arguments.run, type=RunSettings) if arguments.run else None
    prepare(arguments.recipe, arguments.directory, run, kinds=kinds)


if __name__ == "__main__":
    main()
