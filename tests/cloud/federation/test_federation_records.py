"""What stays of a run: checkpoints on the disk, rows behind the API; and a light import."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from litestar.di import Provide
from litestar.testing import AsyncTestClient
from litestar.types import ASGIApp, Receive, Scope, Send
from numpy.typing import NDArray

from aimass_cloud.access import EXCEPTION_HANDLERS, Principal
from aimass_cloud.federation.api import RoundsController
from aimass_cloud.federation.checkpoints import Checkpoints
from aimass_cloud.federation.plans import Client, Nesting, TrainingPlan
from aimass_cloud.federation.rounds import Rounds
from aimass_cloud.federation.transport import Handler
from aimass_shared.errors import StateCorruptError

Arrays = dict[str, NDArray[Any]]
Devices = Any  # the fixture's class lives in conftest
Make = Callable[[dict[str, Handler]], Rounds]


def plan(run: str = "run-1", rounds: int = 1) -> TrainingPlan:
    return TrainingPlan(
        run=run,
        model="m1",
        rounds=rounds,
        clients={"full": Client()},
        sensors=("a", "b"),
        step_ms=1000,
        timeout_s=5,
    )


async def train(rounds: Rounds, asked: TrainingPlan, model: Arrays, nesting: Nesting) -> None:
    await rounds.run_training(
        asked, model, nesting=nesting, evaluate=lambda _: {}, progress=lambda _f, _m: None
    )


def as_reader(app: ASGIApp) -> ASGIApp:
    """Stands for the middleware that authenticates."""

    async def authenticated(scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"] = Principal("key", "k", frozenset({"round:read"}))
        await app(scope, receive, send)

    return authenticated


def web(rounds: Rounds, *middleware: Callable[[ASGIApp], ASGIApp]) -> Litestar:
    return Litestar(
        [RoundsController],
        middleware=middleware,
        dependencies={"federation": Provide(lambda: rounds, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
    )


async def test_the_api_lists_rounds(
    make: Make,
    devices: Devices,
    model: Arrays,
    nesting: Nesting,
) -> None:
    rounds = make({"full": devices.adds(1, 1)})
    await train(rounds, plan(rounds=2), model, nesting)
    await train(rounds, plan("run-2"), model, nesting)

    app = web(rounds, as_reader)
    async with AsyncTestClient(app) as client:
        some = (await client.get("/api/v1/rounds", params={"run": "run-1"})).json()
        everything = (await client.get("/api/v1/rounds")).json()
    assert [row["number"] for row in some] == [1, 2]
    assert some[0]["clients"][0]["device"] == "full"
    assert [row["run"] for row in everything] == ["run-1", "run-1", "run-2"]


async def test_the_api_needs_a_scope(make: Make) -> None:
    app = web(make({}))
    async with AsyncTestClient(app) as client:
        assert (await client.get("/api/v1/rounds")).status_code == 401


async def test_damaged_checkpoints_are_refused(
    make: Make,
    devices: Devices,
    model: Arrays,
    nesting: Nesting,
    tmp_path: Path,
) -> None:
    await train(make({"full": devices.adds(1, 1)}), plan(rounds=2), model, nesting)
    folder = tmp_path / "runs" / "run-1"
    (arrays,) = folder.glob("*.safetensors")
    whole, state = arrays.read_bytes(), (folder / "state.json").read_bytes()
    damages: list[tuple[Path, bytes | None]] = [
        (arrays, whole[:-1] + b"\xff"),
        (arrays, None),
        (folder / "state.json", state[:-5]),
    ]
    for path, content in damages:
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(StateCorruptError):
            Checkpoints(folder).load()
        arrays.write_bytes(whole)
        (folder / "state.json").write_bytes(state)
    found = Checkpoints(folder).load()
    assert found is not None
    assert found[0].number == 2


def test_serving_does_not_wait_for_flwr() -> None:
    code = (
        "import sys, aimass_cloud.federation.rounds, aimass_cloud.federation.signals;"
        "import aimass_cloud.federation.api; assert not {'flwr', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
