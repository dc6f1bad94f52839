"""Exports the graphs of a recipe's models: ahead of the first model, or beside its slicing.

    python -m aimass_cloud.slicing RECIPE DIRECTORY [--run JSON] [--model FOLDER] [--kind KIND]

The exporter is one thread of Python, some 10 s for each kind of graph, so a process of its own is
what a second core is good for. `make_slices(model, out_dir, reuse=DIRECTORY)` uses what is there.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aimass_cloud import recipes
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.assembly import drafted
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.slicing.templates import Kind, Templates, learns_locally

DEADLINE_S = 120.0
BOTH: tuple[Kind, ...] = ("forward", "step")

_log = logging.getLogger(__name__)


def prepare(
    recipe: str,
    directory: Path,
    run: RunSettings | None = None,
    *,
    kinds: Sequence[Kind] = BOTH,
) -> None:
    """Export what is not there yet, of every width: about 20 s of one core, once.

    Args:
        recipe: its name.
        directory: where the graphs go.
        run: settings of the run that the model will come from, the recipe's own if there are none.
        kinds: of graphs.

    Raises:
        NotFoundError: there is no such recipe.
    """
    plan = recipes.find(recipe)
    run = run or plan.run
    prepare_for(drafted(plan, plan.open(run), run), directory, kinds=kinds)


def prepare_for(model: TrainedModel, directory: Path, *, kinds: Sequence[Kind] = BOTH) -> None:
    """Export what is not there yet of a model's sizes."""
    templates = Templates(model, directory)
    for kind in kinds_of(model, kinds):
        for width in model.info.widths:
            templates.forward(width) if kind == "forward" else templates.step(width)


def kinds_of(model: TrainedModel, kinds: Sequence[Kind] = BOTH) -> tuple[Kind, ...]:
    """Those kinds of graph that a model has."""
    return tuple(kind for kind in kinds if kind == "forward" or learns_locally(model))


@contextmanager
def beside(model: TrainedModel, directory: Path, kind: Kind) -> Iterator[Callable[[], None]]:
    """Export one kind of graph of a model's sizes in a process of its own, where there is a core.

    Gives what waits for it. If the process fails, nothing is lost: who needs a graph that is not
    there exports it. It never outlives the block, nor us.
    """
    if len(os.sched_getaffinity(0)) < 2:  # noqa: PLR2004  one core for each process
        yield lambda: None
        return
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        command = [sys.executable, "-m", "aimass_cloud.slicing", model.info.recipe, str(directory)]
        command += ["--model", folder, "--kind", kind, "--until-closed"]
        # Our own interpreter and arguments. Its output would only repeat the exporter's.
        process = subprocess.Popen(  # noqa: S603  no shell, nothing from outside
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield lambda: _await(process)
        finally:
            process.kill()
            process.communicate()


def _await(process: "subprocess.Popen[bytes]") -> None:
    try:
        status = process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        _log.warning("the exporting process took more than %d s", DEADLINE_S)
        return
    if status != 0:
        _log.warning("the exporting process ended with status %d", status)
