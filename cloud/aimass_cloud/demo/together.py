"""Several things at the same time, of which none goes on when one has failed."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results in the order of `work`; the first error (or cancellation) ends and awaits the rest.

    `asyncio.gather` leaves the others running, on a stage that is being taken down; a TaskGroup
    would wrap the error in a group, which nobody above can tell in one line.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
