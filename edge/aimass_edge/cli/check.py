"""Look at everything that the agent needs before it runs; say what is wrong in one line each."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx

from aimass_edge.config import EdgeSettings
from aimass_edge.enroll import Identity
from aimass_edge.inventory import take_inventory
from aimass_shared.errors import AimassError, BrokerUnavailableError, CloudUnavailableError

TIMEOUT_S = 3.0
Check = Callable[[EdgeSettings], Awaitable[str]]


async def check(settings: EdgeSettings) -> dict[str, object]:
    """Each part with "ok: ..." or its error; `ok` is whether all of them are."""
    answer = {name: await _outcome(probe, settings) for name, probe in CHECKS.items()}
    return {"ok": all(line.startswith("ok") for line in answer.values()), **answer}


async def _outcome(probe: Check, settings: EdgeSettings) -> str:
    try:
        return f"ok: {await probe(settings)}"
    except AimassError as error:
        return f"error: {error}"


async def _board(settings: EdgeSettings) -> str:
    inventory = take_inventory(settings.board)
    return f"{inventory.board.name}, Python {inventory.python}, ONNX Runtime {inventory.runtime}"


async def _identity(settings: EdgeSettings) -> str:
    identity = Identity.load(Path(settings.data_dir))
    return f"{identity.device} of site {identity.site}"


async def _cloud(settings: EdgeSettings) -> str:
    identity = Identity.load(Path(settings.data_dir))
    url = f"{identity.cloud_url}/health/live"
    verify = str(identity.tls_files().ca) if url.startswith("https") else True
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, verify=verify) as client:
            (await client.get(url)).raise_for_status()
    except httpx.HTTPError as error:
        raise CloudUnavailableError(f"{url}: {type(error).__name__}") from error
    return identity.cloud_url


async def _fleet_broker(settings: EdgeSettings) -> str:
    broker = Identity.load(Path(settings.data_dir)).broker
    return await _listens(broker.host, broker.port)


async def _factory_broker(settings: EdgeSettings) -> str:
    if settings.source.kind == "none":
        return "no telemetry source is configured"
    address = urlsplit(settings.source.url)
    return await _listens(address.hostname or "", address.port or 1883)


async def _listens(host: str, port: int) -> str:
    try:
        with anyio.fail_after(TIMEOUT_S):
            stream = await anyio.connect_tcp(host, port)
    except (OSError, TimeoutError) as error:
        raise BrokerUnavailableError(f"{host}:{port} does not accept connections") from error
    await stream.aclose()
    return f"{host}:{port}"


CHECKS: dict[str, Check] = {
    "board": _board,
    "identity": _identity,
    "cloud": _cloud,
    "fleet broker": _fleet_broker,
    "factory broker": _factory_broker,
}
