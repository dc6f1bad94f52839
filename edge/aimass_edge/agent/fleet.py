"""The fleet's connection: desired states, rounds and acknowledgements in; state and reports out.

Nothing here decides anything; each message goes to the part that it is for. A message that does not
decode is counted and logged, and the next one is taken.
"""

import logging
import time
import uuid
from collections.abc import Callable
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from aimass_edge.bus import Bus, Inbound, Will
from aimass_shared import messages, topics
from aimass_shared.errors import BrokerUnavailableError, RequestError
from aimass_shared.messages import (
    AgentStats,
    Desired,
    DeviceState,
    RoundReply,
    RoundTask,
    StreamAck,
)

log = logging.getLogger(__name__)

SESSION = uuid.uuid4().hex
REPLY_RETRY_S = 0.5


class AnswersRounds(Protocol):
    """Who takes part in federated rounds."""

    async def answer(self, task: RoundTask) -> RoundReply:
        """The reply to an invitation; never an exception."""
        ...


class TakesAcks(Protocol):
    """Who waits for acknowledgements."""

    def on_ack(self, ack: StreamAck, stream: str = "predictions") -> None:
        """Everything up to an id is stored in the cloud."""
        ...


def will(device: str) -> Will:
    """What the broker says of us when we are gone."""
    return Will(topics.state(device), messages.encode(_state(online=False)), 1, retain=True)


def _state(*, online: bool, stats: AgentStats | None = None) -> DeviceState:
    now_ms = int(time.time() * 1000)
    return DeviceState(online=online, session=SESSION, ts=now_ms, stats=stats or AgentStats())


class FleetLink:
    """Dispatch and heartbeat of one device."""

    def __init__(self, bus: Bus, device: str, *, rounds: AnswersRounds, outbox: TakesAcks) -> None:
        self._bus = bus
        self._device = device
        self._rounds = rounds
        self._outbox = outbox
        self.rejected_messages = 0

    async def listen(self, tasks: TaskGroup, want: Callable[[Desired], None]) -> None:
        """Take messages until cancelled.

        Args:
            tasks: where rounds are answered, beside this loop.
            want: hears of every desired state.
        """
        async for message in self._bus.messages():
            try:
                self._dispatch(message, tasks, want)
            except RequestError as error:
                self.rejected_messages += 1
                log.warning("message on %s dropped: %s", message.topic, error)

    async def heartbeat(self, period_s: float, stats: Callable[[], AgentStats]) -> None:
        """Say that we are here and what we did, now and every `period_s` seconds."""
        while True:
            await self.announce(stats)
            await anyio.sleep(period_s)

    async def announce(self, stats: Callable[[], AgentStats]) -> None:
        """Say that we are here: at each connect, so that nobody waits for the next heartbeat."""
        await self.publish(topics.state(self._device), _state(online=True, stats=stats()))

    async def leave(self) -> None:
        """Say that we are gone, on purpose."""
        await self.publish(topics.state(self._device), _state(online=False))

    async def report(self, reported: messages.Reported) -> None:
        """Say what runs here."""
        await self.publish(topics.reported(self._device), reported)

    async def publish(self, topic: str, message: messages.Message) -> bool:
        """Publish a retained message; False if there is no connection (it is said again later)."""
        try:
            await self._bus.publish(topic, messages.encode(message), qos=1, retain=True)
        except BrokerUnavailableError:
            return False
        return True

    def _dispatch(
        self, message: Inbound, tasks: TaskGroup, want: Callable[[Desired], None]
    ) -> None:
        topic = topics.parse(message.topic)
        if topic.kind == "desired" and message.payload:
            want(messages.decode(message.payload, Desired))
        elif topic.kind == "ack":
            self._outbox.on_ack(messages.decode(message.payload, StreamAck), topic.item)
        elif topic.kind == "round":
            tasks.start_soon(self._answer, messages.decode(message.payload, RoundTask))

    async def _answer(self, task: RoundTask) -> None:
        reply = messages.encode(await self._rounds.answer(task))
        topic = topics.round_reply(self._device, task.task)
        while time.time() * 1000 < task.deadline:
            if await self._sent(topic, reply):
                return
            await anyio.sleep(REPLY_RETRY_S)

    async def _sent(self, topic: str, payload: bytes) -> bool:
        """Publish without retaining; False if there is no connection."""
        try:
            await self._bus.publish(topic, payload, qos=1)
        except BrokerUnavailableError:
            return False
        return True
