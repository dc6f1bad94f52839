"""Outbox streams into the database: rows and how far they go, in one transaction.

What is returned as acknowledgements is committed; nothing else may be acknowledged. Connections,
retries and publishing are the caller's.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from sqlalchemy import Table, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from aimass_cloud.store import Store
from aimass_cloud.store.tables import PredictionRow, StreamRow
from aimass_shared.errors import MalformedMessageError
from aimass_shared.messages import Prediction, StreamAck, StreamBatch, StreamItem
from aimass_shared.streams import MAX_ID, advance

_log = logging.getLogger(__name__)

PREDICTIONS = "predictions"
MAX_TEXT = 64
_PREDICTION = msgspec.json.Decoder(Prediction)


class Arrival(NamedTuple):
    """A batch of one stream, as a known device sent it."""

    device: str
    stream: str
    batch: StreamBatch


class Receipt(NamedTuple):
    """What may be told to a device now."""

    device: str
    stream: str
    ack: StreamAck


class _Key(NamedTuple):
    device: str
    stream: str
    epoch: str


class StreamStore:
    """Stores batches of all devices; `counters` say what they were."""

    def __init__(self, store: Store, counters: "Counter[str]") -> None:
        self._store = store
        self._counters = counters

    async def save(self, arrivals: Sequence[Arrival]) -> list[Receipt]:
        """Store all batches that leave no gap in one transaction; acknowledge what is stored.

        A batch behind a gap is not stored: its device sends it again after the missing one. A row
        that is not a prediction is counted and passed over, as it would not become one.

        Raises:
            OverloadedError, SQLAlchemyError: nothing was stored; devices send it again.
        """
        async with self._store.session() as session:
            known = await _read(session, {_key(arrival) for arrival in arrivals})
            further = dict(known)
            rows = [row for arrival in arrivals for row in self._rows(arrival, further)]
            await _write(session, rows, {k: v for k, v in further.items() if known.get(k) != v})
        return [
            Receipt(key.device, key.stream, StreamAck(epoch=key.epoch, upto=upto))
            for key, upto in further.items()
        ]

    def _rows(self, arrival: Arrival, upto: dict[_Key, int]) -> list[dict[str, Any]]:
        """Rows of one batch, moving its `upto`; none if it leaves a gap."""
        key = _key(arrival)
        before = upto.get(key, 0)
        after = advance(before, arrival.batch)
        if after is None:
            self._counters["gaps"] += 1
            return []
        upto[key] = after
        fresh = [item for item in arrival.batch.items if item.id > before]
        self._counters["duplicates"] += len(arrival.batch.items) - len(fresh)
        rows = [self._row(arrival, item) for item in fresh]
        return [row for row in rows if row is not None]

    def _row(self, arrival: Arrival, item: StreamItem) -> dict[str, Any] | None:
        body = bytes(item.body)
        try:
            prediction = _prediction(body)
        except (msgspec.DecodeError, MalformedMessageError) as error:
            if not self._counters["bad_rows"]:
                _log.warning("%s sent a row that is no prediction: %s", arrival.device, error)
            self._counters["bad_rows"] += 1
            return None
        self._counters["predictions"] += 1
        return {
            "device": arrival.device,
            "epoch": arrival.batch.epoch,
            "item": item.id,
            "window_end": prediction.window_end,
            "release": prediction.release,
            "score": prediction.score,
            "alarm": prediction.alarm,
            "body": body,
        }


def _prediction(body: bytes) -> Prediction:
    """Read one that every database takes: a row that none takes would block its device."""
    prediction = _PREDICTION.decode(body)
    if len(prediction.release) > MAX_TEXT or abs(prediction.window_end) > MAX_ID:
        raise MalformedMessageError("release or window_end of a prediction is out of range")
    return prediction


def _key(arrival: Arrival) -> _Key:
    return _Key(arrival.device, arrival.stream, arrival.batch.epoch)


async def _read(session: AsyncSession, keys: set[_Key]) -> dict[_Key, int]:
    columns = (StreamRow.device, StreamRow.stream, StreamRow.epoch)
    query = select(*columns, StreamRow.upto).where(tuple_(*columns).in_(list(keys)))
    return {_Key(*row[:3]): row[3] for row in await session.execute(query)}


async def _write(
    session: AsyncSession, rows: Sequence[dict[str, Any]], moved: Mapping[_Key, int]
) -> None:
    postgres = session.get_bind().dialect.name == "postgresql"
    insert = postgresql.insert if postgres else sqlite.insert
    if rows:
        into = insert(cast("Table", PredictionRow.__table__)).on_conflict_do_nothing()
        await session.execute(into, rows)
    if moved:
        into = insert(cast("Table", StreamRow.__table__))
        into = into.on_conflict_do_update(
            index_elements=["device", "stream", "epoch"], set_={"upto": into.excluded.upto}
        )
        await session.execute(
            into, [{**key._asdict(), "upto": upto} for key, upto in moved.items()]
        )
