"""A release on its way to devices: which slice each one shall run, and how they took it.

One desired state a device, numbered by `v`; a device answers with what it reports for that `v`.
Carrying messages is the bridge's work: this module is given `publish`. All of a start is one
transaction, and messages follow it, so a crash leaves nothing but messages to be sent again.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec
from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from aimass_cloud.access import requires
from aimass_cloud.store import Store
from aimass_cloud.store.tables import DeviceRow, ReleaseRow, RolloutDeviceRow, RolloutRow
from aimass_shared import topics
from aimass_shared.errors import (
    BrokerUnavailableError,
    ConflictError,
    NotFoundError,
    UnfitReleaseError,
)
from aimass_shared.manifest import Manifest, decode
from aimass_shared.messages import Desired, Inventory, ReleaseRef, Reported, encode
from aimass_shared.slices import choose

log = logging.getLogger(__name__)

LISTED = 200
WAITING, APPLYING, APPLIED, REJECTED = "waiting", "applying", "applied", "rejected"
RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"

Publish = Callable[[str, bytes], Awaitable[None]]
"""Publishes a retained message: topic, payload. May raise BrokerUnavailableError."""


class DeviceProgress(msgspec.Struct, frozen=True):
    """How far one device is; `why` says why it was rejected."""

    device: str
    slice: str
    v: int
    state: str
    why: str


class RolloutView(msgspec.Struct, frozen=True):
    """A rollout and its devices; times are UTC ms, `finished` 0 while it runs."""

    id: str
    release: str
    state: str
    created: int
    finished: int
    devices: tuple[DeviceProgress, ...]


class Rollouts:
    """Starts rollouts and follows them. Register `on_reported` with the bridge."""

    def __init__(self, store: Store, *, publish: Publish) -> None:
        self._store = store
        self._publish = publish
        # Versions of desired states are read, then written: one start at a time.
        self._starting = asyncio.Lock()

    async def start(self, release: str, devices: Sequence[str] | None = None) -> RolloutView:
        """Give a release to devices, by default to all of its channel.

        Args:
            release: id of the release.
            devices: ids; None for all devices of the channel that are not revoked.

        Raises:
            NotFoundError: there is no such release or device.
            ConflictError: there is no device to give it to.
        """
        async with self._starting, self._store.session() as session:
            row = await session.get(ReleaseRow, release)
            if row is None:
                raise NotFoundError(f"there is no release {release!r}: see `aimass release list`")
            chosen = await _devices(session, row, devices)
            rollout = RolloutRow(id=_new_id(), release=row.id, state=RUNNING, created=_now_ms())
            session.add(rollout)
            await session.flush()
            await _supersede(session, rollout.id, [device.id for device in chosen])
            manifest = decode(row.manifest)
            progress = [_plan(row, manifest, device, rollout=rollout.id) for device in chosen]
            session.add_all(progress)
            _settle(rollout, progress)
            wanted = {d.id: d.desired for d, p in zip(chosen, progress, strict=True) if p.v}
        await self._send(wanted)
        return _view(rollout, progress)

    async def on_reported(self, device: str, reported: Reported) -> None:
        """Take a device's answer; what answers no running step is ignored."""
        if reported.state not in {APPLYING, APPLIED, REJECTED}:
            return
        async with self._store.session() as session:
            query = select(RolloutDeviceRow).where(
                RolloutDeviceRow.device == device, RolloutDeviceRow.v == reported.v
            )
            for row in (await session.scalars(query)).all():
                # A trial may still fail after "applied", but nothing follows a rejection.
                if row.state == REJECTED or (row.state, reported.state) == (APPLIED, APPLYING):
                    continue
                row.state = reported.state
                row.why = f"{reported.why} [{reported.code}]" if reported.code else ""
                await _settle_by_id(session, row.rollout)

    async def republish(self) -> int:
        """Send again what devices have not answered; call it when the broker is (back) there."""
        async with self._store.reading() as session:
            query = select(DeviceRow).where(DeviceRow.revoked.is_(False))
            rows = (await session.scalars(query)).all()
        pending = {
            row.id: row.desired
            for row in rows
            if row.desired and row.desired.get("v") != row.reported.get("v")
        }
        await self._send(pending)
        return len(pending)

    async def rollouts(self) -> list[RolloutView]:
        """The newest rollouts, newest first."""
        query = select(RolloutRow).order_by(RolloutRow.created.desc(), RolloutRow.id).limit(LISTED)
        async with self._store.reading() as session:
            rows = (await session.scalars(query)).all()
            return [_view(row, await _progress(session, row.id)) for row in rows]

    async def rollout(self, rollout: str) -> RolloutView:
        """A rollout by its id.

        Raises:
            NotFoundError: there is none of that id.
        """
        async with self._store.reading() as session:
            row = await session.get(RolloutRow, rollout)
            if row is None:
                raise NotFoundError(f"there is no rollout {rollout!r}: see `aimass rollout list`")
            return _view(row, await _progress(session, row.id))

    async def _send(self, wanted: dict[str, dict[str, object]]) -> None:
        """Publish desired states; without a broker they wait in the database for `republish`."""
        for device, body in wanted.items():
            message = encode(msgspec.convert(body, Desired))
            try:
                await self._publish(topics.desired(device), message)
            except BrokerUnavailableError as error:
                log.warning("%s will be told when the broker is back: %s", device, error)


async def _devices(
    session: AsyncSession, release: ReleaseRow, wanted: Sequence[str] | None
) -> list[DeviceRow]:
    query = select(DeviceRow).where(DeviceRow.revoked.is_(False)).order_by(DeviceRow.id)
    rows = (await session.scalars(query)).all()
    if wanted is None:
        chosen = [row for row in rows if row.channel == release.channel]
    else:
        unknown = sorted(set(wanted) - {row.id for row in rows})
        if unknown:
            raise NotFoundError(f"there is no device {unknown[0]!r}: see `aimass device list`")
        chosen = [row for row in rows if row.id in wanted]
    if not chosen:
        raise ConflictError(f"no device to give it to: none is enrolled in {release.channel!r}")
    return chosen


def _plan(
    release: ReleaseRow, manifest: Manifest, device: DeviceRow, *, rollout: str
) -> RolloutDeviceRow:
    """Choose a slice and write the device's next desired state, or say why there is none."""
    row = RolloutDeviceRow(rollout=rollout, device=device.id, slice="", v=0, state=REJECTED, why="")
    try:
        row.slice = _choose(release, manifest, device)
    except UnfitReleaseError as error:
        row.why = str(error)
        return row
    before = msgspec.convert(device.desired, Desired).v if device.desired else 0
    row.v, row.state = before + 1, WAITING
    wanted = Desired(v=row.v, ts=_now_ms(), release=ReleaseRef(release.id, release.path, row.slice))
    device.desired = msgspec.to_builtins(wanted)
    return row


def _choose(release: ReleaseRow, manifest: Manifest, device: DeviceRow) -> str:
    if device.channel != release.channel:
        raise UnfitReleaseError(
            f"the release is for channel {release.channel}, the device follows {device.channel}"
        )
    try:
        inventory = msgspec.convert(device.inventory, Inventory)
    except msgspec.ValidationError as error:
        raise UnfitReleaseError(f"the device's inventory cannot be read: {error}") from error
    return choose(inventory.board, manifest.offers()).name


async def _supersede(session: AsyncSession, rollout: str, devices: Sequence[str]) -> None:
    """End what older rollouts still wait for: a device answers to its newest desired state only."""
    query = select(RolloutDeviceRow).where(
        RolloutDeviceRow.device.in_(devices),
        RolloutDeviceRow.rollout != rollout,
        RolloutDeviceRow.state.in_((WAITING, APPLYING)),
    )
    for row in (await session.scalars(query)).all():
        row.state, row.why = REJECTED, f"superseded by rollout {rollout}"
        await _settle_by_id(session, row.rollout)


async def _settle_by_id(session: AsyncSession, rollout: str) -> None:
    await session.flush()
    row = await session.get_one(RolloutRow, rollout)
    _settle(row, await _progress(session, rollout))


def _settle(rollout: RolloutRow, progress: Iterable[RolloutDeviceRow]) -> None:
    """Succeeded when all have applied, failed when any has rejected, else running."""
    states = {row.state for row in progress}
    state = FAILED if REJECTED in states else SUCCEEDED if states == {APPLIED} else RUNNING
    if state != rollout.state:
        rollout.state = state
        rollout.finished = _now_ms()
        log.info("rollout %s of %s: %s", rollout.id, rollout.release, state)


async def _progress(session: AsyncSession, rollout: str) -> Sequence[RolloutDeviceRow]:
    query = (
        select(RolloutDeviceRow)
        .where(RolloutDeviceRow.rollout == rollout)
        .order_by(RolloutDeviceRow.device)
    )
    return (await session.scalars(query)).all()


def _view(rollout: RolloutRow, progress: Iterable[RolloutDeviceRow]) -> RolloutView:
    return RolloutView(
        id=rollout.id,
        release=rollout.release,
        state=rollout.state,
        created=rollout.created,
        finished=rollout.finished or 0,
        devices=tuple(
            DeviceProgress(row.device, row.slice, row.v, row.state, row.why) for row in progress
        ),
    )


def _new_id() -> str:
    return f"o-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class NewRolloutRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which release, for which devices (all of its channel if none are named)."""

    release: str
    devices: tuple[str, ...] | None = None


class RolloutsController(Controller):
    """Rollouts. Needs the dependency `rollouts`."""

    path = "/api/v1/rollouts"
    tags = ("rollouts",)

    @post(guards=[requires("rollout:write")])
    async def start_rollout(
        self, rollouts: NamedDependency[Rollouts], data: JSONBody[NewRolloutRequest]
    ) -> RolloutView:
        """Give a release to devices."""
        return await rollouts.start(data.release, data.devices)

    @get(guards=[requires("rollout:read")])
    async def list_rollouts(self, rollouts: NamedDependency[Rollouts]) -> list[RolloutView]:
        """The newest rollouts, newest first."""
        return await rollouts.rollouts()

    @get("/{rollout:str}", guards=[requires("rollout:read")])
    async def get_rollout(
        self, rollouts: NamedDependency[Rollouts], rollout: FromPath[str]
    ) -> RolloutView:
        """One rollout, with each of its devices."""
        return await rollouts.rollout(rollout)
