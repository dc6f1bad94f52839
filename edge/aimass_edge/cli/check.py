"""Look at everything that the agent needs before it runs; say what is wrong in one line each.

It changes nothing: no attempt of a trial is spent, and an agent that runs is not disturbed.
"""

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import httpx

from aimass_edge.config import EdgeSettings
from aimass_edge.enroll import Identity
from aimass_edge.ingest import source_address
from aimass_edge.inventory import take_inventory
from aimass_edge.predict import rows_asked
from aimass_edge.runtime import backend_of
from aimass_edge.update.slots import Slots
from aimass_shared.errors import (
    AimassError,
    BrokerUnavailableError,
    CloudUnavailableError,
    StateCorruptError,
)

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
    return f"{inventory.board.name}, Python {inventory.python}, {inventory.runtime}"


async def _backend(settings: EdgeSettings) -> str:
    return backend_of(settings.board).told()


async def _identity(settings: EdgeSettings) -> str:
    identity = Identity.load(Path(settings.data_dir))
    return f"{identity.device} of site {identity.site}"


async def _model(settings: EdgeSettings) -> str:
    slots = Slots(Path(settings.data_dir) / "models")
    state = await anyio.to_thread.run_sync(slots.load)
    on_trial = state.trial.digest if state.trial else ""
    tried = await anyio.to_thread.run_sync(slots.find, on_trial)
    installed = tried or await anyio.to_thread.run_sync(slots.settled)
    if installed is not None:
        fed = "fed from telemetry" if installed.manifest.contract.telemetry else "requests only"
        name = f"{installed.ref.slice} of {installed.ref.release}, {fed}"
        return f"{name}{', on trial' if tried else ''}"
    if state.keeps():
        raise StateCorruptError(
            f"the files in {slots.root} are damaged: the agent starts without a model and asks for"
            " its release again"
        )
    return "none yet, a rollout brings one"


async def _cloud(settings: EdgeSettings) -> str:
    identity = Identity.load(Path(settings.data_dir))
    url = f"{identity.cloud_url}/health/live"
    is_tls = url.startswith("https")
    verify = ssl.create_default_context(cafile=identity.tls_files().ca) if is_tls else True
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
    address = source_address(settings.source)
    return await _listens(address.host, address.port)


async def _monitor(settings: EdgeSettings) -> str:
    rows = rows_asked(settings)
    return f"of this site, from its first {rows} rows" if rows else "that of the release"


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
    "backend": _backend,
    "identity": _identity,
    "model": _model,
    "cloud": _cloud,
    "fleet broker": _fleet_broker,
    "factory broker": _factory_broker,
    "monitor": _monitor,
}
