"""Exports a recipe's graphs in a process of its own, while its model is trained.

The graphs do not depend on the trained numbers, and exporting them takes as long as a small
training does: on two cores one of them is free. If the process fails, slicing exports by itself.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

log = logging.getLogger(__name__)


@asynccontextmanager
async def exporting(recipe: str, folder: Path) -> AsyncIterator[None]:
    """Export beside what the block does, and wait for the end of both.

    Args:
        recipe: name of the recipe.
        folder: where the graphs are kept; what is there already is not exported again.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "aimass_cloud.slicing", recipe, str(folder), "--until-closed"),
        # Its standard input ends with this process: it cannot be left behind.
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
        if await process.wait():
            log.warning(
                "graphs were not exported ahead: python -m aimass_cloud.slicing %s DIRECTORY"
                " shows why; slicing exports them itself",
                recipe,
            )
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
