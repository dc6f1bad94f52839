"""What devices sent -> database and listeners, a batch of messages at a time; no network.

Nothing that a device sends may stop this: what is malformed, of an unknown device or of no use is
counted, and logged once per kind.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from aimass_cloud.bridge.streams import PREDICTIONS, Arrival, Receipt, StreamStore
from aimass_cloud.store import Store
from aimass_cloud.store.tables import DeviceRow
from aimass_shared import messages, topics
from aimass_shared.errors import AimassError
from aimass_shared.messages import DeviceState, Message, Reported, RoundReply, StreamBatch
from aimass_shared.streams import advance

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
Listener = Callable[[str, M], Awaitable[None]]


class Received(NamedTuple):
    """A message as it came."""

    topic: str
    payload: bytes


class Listeners:
    """Who wants to know what of which kind; called in the order of registration."""

    def __init__(self) -> None:
        self.state: list[Listener[DeviceState]] = []
        self.reported: list[Listener[Reported]] = []
        self.round_reply: list[Listener[RoundReply]] = []


class _Letter(NamedTuple):
    topic: topics.FleetTopic
    payload: bytes


class Intake:
    """Takes messages in; `counters` say what became of them."""

    def __init__(self, store: Store, listeners: Listeners) -> None:
        self.counters: Counter[str] = Counter()
        self._store = store
        self._streams = StreamStore(store, self.counters)
        self._listeners = listeners
        self._told: set[str] = set()

    async def take(self, received: Sequence[Received]) -> list[Receipt]:
        """Store and hand on; returns what is to be acknowledged. Never raises."""
        try:
            letters = await self._of_known_devices(self._parsed(received))
        except (AimassError, SQLAlchemyError) as error:
            self._count("database_errors", f"messages are not read: {error}")
            return []
        arrivals = [self._arrival(one) for one in letters if one.topic.kind == "d"]
        receipts = await self._save([one for one in arrivals if one is not None])
        for letter in letters:
            if letter.topic.kind != "d":
                await self._hand_on(letter)
        return receipts

    def _parsed(self, received: Sequence[Received]) -> list[_Letter]:
        letters = []
        self.counters["messages"] += len(received)
        for message in received:
            try:
                letters.append(_Letter(topics.parse(message.topic), message.payload))
            except AimassError as error:
                self._count("malformed", str(error))
        return [letter for letter in letters if letter.payload]  # empty clears a retained one

    async def _of_known_devices(self, letters: Sequence[_Letter]) -> list[_Letter]:
        devices = {letter.topic.device for letter in letters}
        query = select(DeviceRow.id).where(DeviceRow.id.in_(devices), DeviceRow.revoked.is_(False))
        async with self._store.reading() as session:
            known = set(await session.scalars(query))
        for letter in letters:
            if letter.topic.device not in known:
                self._count("unknown_device", f"{letter.topic.device} is unknown or revoked")
        return [letter for letter in letters if letter.topic.device in known]

    async def _save(self, arrivals: Sequence[Arrival]) -> list[Receipt]:
        """All in one transaction; if that fails each device alone, so that none harms another."""
        if not arrivals:
            return []
        try:
            return await self._streams.save(arrivals)
        except (AimassError, SQLAlchemyError) as error:
            self._count("database_errors", f"batches are not stored, devices re-send: {error}")
        devices = {arrival.device for arrival in arrivals}
        if len(devices) == 1:
            return []
        groups = [[one for one in arrivals if one.device == device] for device in devices]
        return [receipt for group in groups for receipt in await self._save(group)]

    def _arrival(self, letter: _Letter) -> Arrival | None:
        device, stream = letter.topic.device, letter.topic.item
        try:
            batch = messages.decode(letter.payload, StreamBatch)
            advance(0, batch)  # refuses ids that do not grow, before a transaction begins
            topics.check_segment(batch.epoch, "epoch")
        except AimassError as error:
            self._count("malformed", f"{device}, stream {stream}: {error}")
            return None
        if stream != PREDICTIONS:
            self._count("unknown_stream", f"{device} sends stream {stream}, which nobody stores")
            return None
        return Arrival(device, stream, batch)

    async def _hand_on(self, letter: _Letter) -> None:
        kind, wanted = letter.topic.kind, self._listeners
        if kind == "state":
            await self._tell(letter, DeviceState, wanted.state)
        elif kind == "reported":
            await self._tell(letter, Reported, wanted.reported)
        elif kind == "round":
            await self._tell(letter, RoundReply, wanted.round_reply)

    async def _tell(self, letter: _Letter, kind: type[M], listeners: list[Listener[M]]) -> None:
        try:
            message = messages.decode(letter.payload, kind)
        except AimassError as error:
            self._count("malformed", f"{letter.topic.device}: {error}")
            return
        for listener in listeners:
            await self._call(listener, letter.topic.device, message)

    async def _call(self, listener: Listener[M], device: str, message: M) -> None:
        try:
            await listener(device, message)
        except AimassError as error:
            self._count(f"refused_{error.code}", f"{device}, {type(message).__name__}: {error}")
        except Exception:  # noqa: BLE001 - a task loop's edge: one listener's bug is not the fleet's end
            self.counters["listener_failures"] += 1
            _log.exception("a listener of %s failed", type(message).__name__)

    def _count(self, kind: str, text: str) -> None:
        self.counters[kind] += 1
        level = logging.DEBUG if kind in self._told else logging.WARNING
        self._told.add(kind)
        _log.log(level, "%s: %s", kind, text)
