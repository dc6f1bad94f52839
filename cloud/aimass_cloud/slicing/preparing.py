"""Exports the graphs of a recipe's models: ahead of the first model, or beside its slicing.

    python -m aimass_cloud.slicing RECIPE DIRECTORY [--config JSON] [--kind KIND]

The exporter is one thread of Python, some 10 s for each kind of graph, so a process of its own is
what a second core is good for. `make_slices(model, out_dir, reuse=DIRECTORY)` uses what is there.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from aimass_cloud import recipes
from aimass_cloud.models.blank import blank
from aimass_cloud.models.contract import contract_for
from aimass_cloud.models.trained import ForecasterConfig, TrainedModel
from aimass_cloud.slicing.templates import Kind, Templates

DEADLINE_S = 120.0
BOTH: tuple[Kind, ...] = ("forward", "step")

_log = logging.getLogger(__name__)


def prepare(
    recipe: str,
    directory: Path,
    config: ForecasterConfig | None = None,
    *,
    kinds: Sequence[Kind] = BOTH,
) -> None:
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
        for kind in kinds:
            templates.forward(width) if kind == "forward" else templates.step(width)


@contextmanager
def beside(model: TrainedModel, directory: Path, kind: Kind) -> Iterator[Callable[[], None]]:
    """Export one kind of graph of a model's sizes in a process of its own, where there is a core.

    Gives what waits for it. If the process fails, nothing is lost: who needs a graph that is not
    there exports it. It never outlives the block, nor us.
    """
    if len(os.sched_getaffinity(0)) < 2:  # noqa: PLR2004  one core for each process
        yield lambda: None
        return
    config = msgspec.json.encode(model.info.config).decode()
    command = [sys.executable, "-m", "aimass_cloud.slicing", model.info.recipe, str(directory)]
    command += ["--config", config, "--kind", kind, "--until-closed"]
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
