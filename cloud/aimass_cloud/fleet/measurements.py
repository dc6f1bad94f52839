"""What slices cost on devices: kept newest first by device, release, slice and batch."""

import time
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from sqlalchemy import ColumnElement, Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from aimass_cloud.store import Store
from aimass_cloud.store.tables import DeviceRow, MeasurementRow
from aimass_shared.errors import NotFoundError
from aimass_shared.messages import Measurements, SliceMeasured

MOST_OF_A_DEVICE = 1000
MOST_ANSWERED = 5000
KEY = ["device", "release", "slice", "batch"]


class DeviceMeasured(msgspec.Struct, frozen=True):
    """A measurement, and the device that it is of."""

    device: str
    measured: SliceMeasured


class MeasurementStore:
    """Takes what devices measured of themselves, and tells it by model and by board."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def record(self, device: str, sent: Measurements) -> int:
        """Keep what a device sent, unless something newer is there; gives how many came.

        What comes again changes nothing, so that a device may send until it is answered.

        Raises:
            NotFoundError: there is no such device.
        """
        newest = {(m.release, m.slice, m.batch): m for m in sorted(sent.measured, key=_at)}
        now = time.time_ns() // 1_000_000
        rows = [_row(device, one, now) for one in newest.values()]
        async with self._store.session() as session:
            if await session.get(DeviceRow, device) is None:
                raise NotFoundError(f"there is no device {device[:64]!r}")
            if rows:
                await _write(session, rows)
                await _forget_oldest(session, device)
        return len(sent.measured)

    async def find(self, model: str = "", release: str = "") -> list[DeviceMeasured]:
        """All of a model, of a release, or of all; by device, release, slice and batch."""
        wanted: list[ColumnElement[bool]] = []
        if model:
            wanted.append(MeasurementRow.model == model)
        if release:
            wanted.append(MeasurementRow.release == release)
        order = [getattr(MeasurementRow, name) for name in KEY]
        query = select(MeasurementRow).where(*wanted).order_by(*order).limit(MOST_ANSWERED)
        async with self._store.reading() as session:
            rows = (await session.scalars(query)).all()
        return [
            DeviceMeasured(row.device, msgspec.json.decode(row.body, type=SliceMeasured))
            for row in rows
        ]

    async def by_board(self, model: str, release: str = "") -> dict[str, list[DeviceMeasured]]:
        """What the slices of a model's releases cost, by the profile of the board."""
        boards: dict[str, list[DeviceMeasured]] = {}
        for one in await self.find(model, release):
            boards.setdefault(one.measured.board, []).append(one)
        return boards


def _at(measured: SliceMeasured) -> int:
    return measured.at


def _row(device: str, measured: SliceMeasured, now: int) -> dict[str, Any]:
    """A clock that runs ahead would make its measurement the newest for ever."""
    measured = msgspec.structs.replace(measured, at=min(measured.at, now))
    return {
        "device": device,
        "release": measured.release,
        "slice": measured.slice,
        "batch": measured.batch,
        "model": measured.model,
        "at": measured.at,
        "body": msgspec.json.encode(measured),
    }


async def _write(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> None:
    postgres = session.get_bind().dialect.name == "postgresql"
    insert = postgresql.insert if postgres else sqlite.insert
    into = insert(cast("Table", MeasurementRow.__table__))
    fresh = into.excluded
    into = into.on_conflict_do_update(
        index_elements=KEY,
        set_={"model": fresh.model, "at": fresh.at, "body": fresh.body},
        where=MeasurementRow.at <= fresh.at,
    )
    await session.execute(into, rows)


async def _forget_oldest(session: AsyncSession, device: str) -> None:
    """A device that measures release after release must not fill the database."""
    query = (
        select(MeasurementRow)
        .where(MeasurementRow.device == device)
        .order_by(MeasurementRow.at.desc())
        .offset(MOST_OF_A_DEVICE)
    )
    for row in (await session.scalars(query)).all():
        await session.execute(
            delete(MeasurementRow).where(
                *(getattr(MeasurementRow, name) == getattr(row, name) for name in KEY)
            )
        )
