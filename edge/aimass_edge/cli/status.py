"""Ask the running agent, over its local endpoint, what it does."""

import httpx

from aimass_edge.config import EdgeSettings
from aimass_shared.errors import NotFoundError

TIMEOUT_S = 5.0


async def status(settings: EdgeSettings) -> dict[str, object]:
    """The agent's status document.

    Raises:
        NotFoundError: no agent answers on the configured address.
    """
    url = f"http://{settings.api.host}:{settings.api.port}/status"
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            answer = (await client.get(url)).raise_for_status().json()
    except httpx.HTTPError as error:
        raise NotFoundError(
            f"no agent answers at {url} ({type(error).__name__}): is `aimass-edge run` running,"
            " and is [api] port the same?"
        ) from error
    return dict(answer)
