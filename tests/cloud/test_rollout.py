"""Rollouts in a real database: choice of slices, numbered desired states, and how they end."""

from collections.abc import Sequence

import msgspec
import pytest
from litestar import Litestar
from litestar.di import Provide
from litestar.middleware import ASGIMiddleware
from litestar.testing import AsyncTestClient
from litestar.types import ASGIApp, Receive, Scope, Send

from aimass_cloud.access import EXCEPTION_HANDLERS, Principal
from aimass_cloud.rollout import Rollouts, RolloutsController, RolloutView
from aimass_cloud.store import Store
from aimass_cloud.store.tables import DeviceRow, ModelRow, ReleaseRow
from aimass_shared import messages
from aimass_shared.errors import BrokerUnavailableError, ConflictError, NotFoundError
from aimass_shared.manifest import Contract, Manifest, SliceEntry, encode
from aimass_shared.messages import Desired, Inventory, Reported, ReportedState
from aimass_shared.slices import Board, SliceCost, SliceSpec

BIG = Board("big", memory_mib=500, cpu_time_factor=1, window_budget_ms=50)
SMALL = Board("small", memory_mib=100, cpu_time_factor=4, window_budget_ms=10)
TINY = Board("tiny", memory_mib=5, cpu_time_factor=50, window_budget_ms=1)


class Broker:
    """Keeps retained messages as a broker does; can be away."""

    def __init__(self) -> None:
        self.retained: dict[str, Desired] = {}
        self.away = False

    async def publish(self, topic: str, payload: bytes) -> None:
        if self.away:
            raise BrokerUnavailableError("away")
        self.retained[topic] = messages.decode(payload, Desired)

    def desired(self, device: str) -> Desired | None:
        return self.retained.get(f"aimass/v1/{device}/down/desired")


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def rollouts(store: Store, broker: Broker) -> Rollouts:
    return Rollouts(store, publish=broker.publish)


async def add_devices(store: Store, *boards: Board, channel: str = "stable") -> None:
    async with store.session() as session:
        for board in boards:
            inventory = Inventory(board, "x86_64", "3.11", "0.1.0", "onnxruntime 1.23")
            session.add(
                DeviceRow(
                    id=f"{channel}-{board.name}",
                    site="site",
                    channel=channel,
                    certificate="",
                    inventory=msgspec.to_builtins(inventory),
                    enrolled=1,
                )
            )


async def add_release(store: Store, release: str = "r1") -> str:
    entries = tuple(
        SliceEntry(SliceSpec(width, "int8"), SliceCost(1, 50 * width, 4 * width, 0.1), (), 0.01)
        for width in (0.25, 1.0)
    )
    contract = Contract("m", (), ())
    manifest = Manifest(release, "m", contract, entries, created=1)
    async with store.session() as session:
        if await session.get(ModelRow, "m-1") is None:
            session.add(
                ModelRow(
                    id="m-1",
                    name="m",
                    recipe="tep",
                    parameters=1,
                    metrics={},
                    directory="",
                    created=1,
                )
            )
        path = f"stable/m/{release}.json"
        session.add(
            ReleaseRow(
                id=release,
                model="m-1",
                channel="stable",
                path=path,
                manifest=encode(manifest),
                created=1,
            )
        )
    return release


async def report(
    rollouts: Rollouts, device: str, state: ReportedState, v: int = 1, why: str = ""
) -> None:
    code = "self-test-failed" if why else ""
    await rollouts.on_reported(device, Reported(v=v, ts=1, state=state, code=code, why=why))


def states(view: RolloutView) -> dict[str, str]:
    return {row.device: row.state for row in view.devices}


async def test_each_device_gets_the_slice_that_fits(
    store: Store, rollouts: Rollouts, broker: Broker
) -> None:
    await add_devices(store, BIG, SMALL)
    await add_devices(store, BIG, channel="beta")
    view = await rollouts.start(await add_release(store))
    assert {row.device: row.slice for row in view.devices} == {
        "stable-big": "w1.00-int8",
        "stable-small": "w0.25-int8",
    }
    assert view.state == "running"
    desired = broker.desired("stable-small")
    assert desired
    assert desired.v == 1
    assert desired.release == messages.ReleaseRef("r1", "stable/m/r1.json", "w0.25-int8")
    assert broker.desired("beta-big") is None


async def test_rollout_succeeds_when_all_have_applied(store: Store, rollouts: Rollouts) -> None:
    await add_devices(store, BIG, SMALL)
    started = await rollouts.start(await add_release(store))
    await report(rollouts, "stable-big", "applying")
    await report(rollouts, "stable-big", "applied")
    view = await rollouts.rollout(started.id)
    assert states(view) == {"stable-big": "applied", "stable-small": "waiting"}
    assert (view.state, view.finished) == ("running", 0)
    await report(rollouts, "stable-small", "applied")
    view = await rollouts.rollout(started.id)
    assert view.state == "succeeded"
    assert view.finished >= view.created


async def test_rollout_fails_when_one_rejects_and_says_why(
    store: Store, rollouts: Rollouts
) -> None:
    await add_devices(store, BIG, SMALL)
    started = await rollouts.start(await add_release(store))
    await report(rollouts, "stable-big", "applied")
    await report(rollouts, "stable-small", "rejected", why="score is off by 3")
    view = await rollouts.rollout(started.id)
    assert view.state == "failed"
    assert view.devices[1].why == "score is off by 3 [self-test-failed]"


async def test_trial_that_fails_after_applied_counts(store: Store, rollouts: Rollouts) -> None:
    await add_devices(store, BIG)
    started = await rollouts.start(await add_release(store))
    await report(rollouts, "stable-big", "applied")
    assert (await rollouts.rollout(started.id)).state == "succeeded"
    await report(rollouts, "stable-big", "rejected", why="predictions fail")
    assert (await rollouts.rollout(started.id)).state == "failed"
    await report(rollouts, "stable-big", "applied")
    assert (await rollouts.rollout(started.id)).state == "failed"


async def test_device_that_nothing_fits_is_rejected_at_once(
    store: Store, rollouts: Rollouts, broker: Broker
) -> None:
    await add_devices(store, BIG, TINY)
    view = await rollouts.start(await add_release(store))
    assert view.state == "failed"
    assert states(view) == {"stable-big": "waiting", "stable-tiny": "rejected"}
    assert "no slice fits tiny" in view.devices[1].why
    assert view.devices[1].why.endswith("[unfit-release]")
    assert broker.desired("stable-tiny") is None
    assert broker.desired("stable-big") is not None


async def test_named_device_of_another_channel_is_rejected(
    store: Store, rollouts: Rollouts, broker: Broker
) -> None:
    await add_devices(store, BIG, channel="beta")
    view = await rollouts.start(await add_release(store), ["beta-big"])
    assert states(view) == {"beta-big": "rejected"}
    assert "channel" in view.devices[0].why
    assert broker.retained == {}


@pytest.mark.parametrize("old", [0, 2])
async def test_answer_to_another_version_is_ignored(
    store: Store, rollouts: Rollouts, old: int
) -> None:
    await add_devices(store, BIG)
    started = await rollouts.start(await add_release(store))
    await report(rollouts, "stable-big", "applied", v=old)
    await report(rollouts, "stable-big", "idle")
    await report(rollouts, "nobody", "applied")
    assert states(await rollouts.rollout(started.id)) == {"stable-big": "waiting"}


async def test_newer_rollout_takes_over(store: Store, rollouts: Rollouts, broker: Broker) -> None:
    await add_devices(store, BIG, SMALL)
    first = await rollouts.start(await add_release(store, "r1"))
    second = await rollouts.start(await add_release(store, "r2"), ["stable-big"])
    view = await rollouts.rollout(first.id)
    assert states(view) == {"stable-big": "rejected", "stable-small": "waiting"}
    assert second.id in view.devices[0].why
    desired = broker.desired("stable-big")
    assert desired
    assert desired.v == 2
    await report(rollouts, "stable-big", "applied", v=2)
    assert (await rollouts.rollout(second.id)).state == "succeeded"
    assert [row.id for row in await rollouts.rollouts()][-1] in {first.id, second.id}


async def test_broker_that_is_away_is_told_later(
    store: Store, rollouts: Rollouts, broker: Broker
) -> None:
    await add_devices(store, BIG, SMALL)
    broker.away = True
    started = await rollouts.start(await add_release(store))
    assert set(states(started).values()) == {"waiting"}
    assert broker.retained == {}
    broker.away = False
    async with store.session() as session:
        row = await session.get_one(DeviceRow, "stable-big")
        row.reported = {"v": 1}
    assert await Rollouts(store, publish=broker.publish).republish() == 1
    assert list(broker.retained) == ["aimass/v1/stable-small/down/desired"]


async def test_what_cannot_start(store: Store, rollouts: Rollouts) -> None:
    with pytest.raises(NotFoundError, match="no release 'r9'"):
        await rollouts.start("r9")
    release = await add_release(store)
    with pytest.raises(ConflictError, match="none is enrolled in 'stable'"):
        await rollouts.start(release)
    await add_devices(store, BIG)
    with pytest.raises(NotFoundError, match="no device 'ghost'"):
        await rollouts.start(release, ["stable-big", "ghost"])
    assert await rollouts.rollouts() == []
    async with store.reading() as session:
        assert (await session.get_one(DeviceRow, "stable-big")).desired == {}


async def test_revoked_device_gets_nothing(store: Store, rollouts: Rollouts) -> None:
    await add_devices(store, BIG, SMALL)
    async with store.session() as session:
        (await session.get_one(DeviceRow, "stable-big")).revoked = True
    release = await add_release(store)
    assert list(states(await rollouts.start(release))) == ["stable-small"]
    with pytest.raises(NotFoundError):
        await rollouts.start(release, ["stable-big"])


class As(ASGIMiddleware):
    def __init__(self, scopes: Sequence[str]) -> None:
        self.principal = Principal("key", "k", frozenset(scopes))

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        scope["user"] = self.principal
        await next_app(scope, receive, send)


def make_app(rollouts: Rollouts, *scopes: str) -> Litestar:
    return Litestar(
        [RolloutsController],
        dependencies={"rollouts": Provide(lambda: rollouts, sync_to_thread=False)},
        middleware=[As(scopes)],
        exception_handlers=EXCEPTION_HANDLERS,
    )


async def test_routes(store: Store, rollouts: Rollouts) -> None:
    await add_devices(store, BIG)
    release = await add_release(store)
    async with AsyncTestClient(make_app(rollouts, "rollout:read", "rollout:write")) as client:
        made = await client.post("/api/v1/rollouts", json={"release": release})
        assert made.status_code == 201
        path = f"/api/v1/rollouts/{made.json()['id']}"
        assert (await client.get(path)).json() == made.json()
        assert (await client.get("/api/v1/rollouts")).json() == [made.json()]
        assert (await client.get("/api/v1/rollouts/o-9")).json()["code"] == "not-found"
        assert (await client.post("/api/v1/rollouts", json={"wrong": 1})).status_code == 400
    async with AsyncTestClient(make_app(rollouts, "rollout:read")) as client:
        refused = await client.post("/api/v1/rollouts", json={"release": release})
        assert refused.json()["code"] == "forbidden"
