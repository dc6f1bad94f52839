"""The fleet's connection over a real broker: what comes in, what is said, and what is refused."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio
import pytest

from aimass_edge.agent import fleet
from aimass_edge.agent.fleet import FleetLink
from aimass_edge.bus import Bus, BusOptions
from aimass_shared import messages, topics
from aimass_shared.messages import (
    AgentStats,
    Desired,
    DeviceState,
    Reported,
    RoundReply,
    RoundTask,
    StreamAck,
)

DEVICE = "d1"
Until = Callable[..., Awaitable[None]]


class Address(NamedTuple):
    host: str
    port: int


@dataclass
class Part:
    """Takes part in rounds and waits for acknowledgements; remembers both."""

    acks: list[tuple[str, StreamAck]] = field(default_factory=list)
    tasks: list[RoundTask] = field(default_factory=list)
    wants: list[Desired] = field(default_factory=list)
    rows: int = 0

    def on_ack(self, ack: StreamAck, stream: str = "predictions") -> None:
        self.acks.append((stream, ack))

    async def answer(self, task: RoundTask) -> RoundReply:
        self.tasks.append(task)
        return RoundReply(task=task.task, ok=True, examples=7)

    def stats(self) -> AgentStats:
        self.rows += 1
        return AgentStats(rows=self.rows)


class Cloud:
    """The other end: hears every `up`, sends `down`."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.heard: list[tuple[str, bytes, bool]] = []

    async def listen(self) -> None:
        async for message in self.bus.messages():
            self.heard.append((message.topic, message.payload, message.retain))

    async def send(self, topic: str, message: messages.Message) -> None:
        await self.bus.publish(topic, messages.encode(message), qos=1)

    def states(self) -> list[DeviceState]:
        raw = [body for topic, body, _ in self.heard if topic == topics.state(DEVICE)]
        return [messages.decode(body, DeviceState) for body in raw]

    def replies(self) -> list[RoundReply]:
        raw = [body for topic, body, _ in self.heard if "/round/" in topic]
        return [messages.decode(body, RoundReply) for body in raw]


@dataclass
class Fleet:
    """A link that runs, its parts, its bus, and the cloud."""

    link: FleetLink
    part: Part
    bus: Bus
    cloud: Cloud


Run = Callable[[], AbstractAsyncContextManager[Fleet]]


@pytest.fixture
def run(mosquitto: Address, until: Until) -> Run:
    @asynccontextmanager
    async def running() -> AsyncIterator[Fleet]:
        theirs = Bus(BusOptions(mosquitto.host, mosquitto.port, "coordinator"))
        theirs.subscribe(topics.all_up())
        options = BusOptions(mosquitto.host, mosquitto.port, DEVICE, session_expiry_s=60)
        ours = Bus(options, will=lambda: fleet.will(DEVICE))
        ours.subscribe(topics.all_down(DEVICE))
        part = Part()
        link = FleetLink(ours, DEVICE, rounds=part, outbox=part)
        cloud = Cloud(theirs)
        async with theirs, ours, anyio.create_task_group() as tasks:
            tasks.start_soon(cloud.listen)
            await until(lambda: theirs.connected and ours.connected)
            tasks.start_soon(link.listen, tasks, part.wants.append)
            yield Fleet(link, part, ours, cloud)
            tasks.cancel_scope.cancel()

    return running


def task(name: str, seconds: float = 30.0) -> RoundTask:
    deadline = int((time.time() + seconds) * 1000)
    return RoundTask(task=name, run="run", number=1, kind="statistics", deadline=deadline)


async def test_each_message_goes_to_the_part_that_it_is_for(run: Run, until: Until) -> None:
    async with run() as running:
        part, cloud = running.part, running.cloud
        await cloud.send(topics.desired(DEVICE), Desired(v=3, ts=1))
        await cloud.send(topics.ack(DEVICE, "predictions"), StreamAck(epoch="e", upto=9))
        await cloud.send(topics.ack(DEVICE, "events"), StreamAck(epoch="e", upto=2))
        await cloud.send(topics.round_task(DEVICE, "t1"), task("t1"))
        await until(lambda: cloud.replies() == [RoundReply(task="t1", ok=True, examples=7)])
        assert [desired.v for desired in part.wants] == [3]
        assert [(stream, ack.upto) for stream, ack in part.acks] == [
            ("predictions", 9),
            ("events", 2),
        ]
        assert [one.task for one in part.tasks] == ["t1"]
        assert running.link.rejected_messages == 0


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (topics.desired(DEVICE), b"{"),
        (topics.desired(DEVICE), b"null"),
        (topics.desired(DEVICE), b'{"v": "one", "ts": 1}'),
        (topics.desired(DEVICE), b'{"v": 9, "ts": 1, "schema": 99}'),
        (topics.desired(DEVICE), b"[" * 100_000),
        (topics.desired(DEVICE), b"\xff\xfe"),
        (topics.ack(DEVICE, "predictions"), b'{"epoch": "e"}'),
        (topics.round_task(DEVICE, "t"), b'{"kind": "backdoor"}'),
        (f"aimass/v1/{DEVICE}/down/format-disk", b"now"),
    ],
)
async def test_a_malformed_message_is_counted_and_the_next_one_is_taken(
    run: Run, until: Until, topic: str, payload: bytes
) -> None:
    async with run() as running:
        await running.cloud.bus.publish(topic, payload, qos=1)
        await running.cloud.send(topics.desired(DEVICE), Desired(v=1, ts=1))
        await until(lambda: [desired.v for desired in running.part.wants] == [1])
        assert running.link.rejected_messages == 1
        assert (running.part.acks, running.part.tasks) == ([], [])


async def test_a_cleared_desired_state_says_nothing(run: Run, until: Until) -> None:
    """An empty retained message deletes the one before; it is no desired state and no error."""
    async with run() as running:
        await running.cloud.bus.publish(topics.desired(DEVICE), b"", qos=1, retain=True)
        await running.cloud.send(topics.desired(DEVICE), Desired(v=1, ts=1))
        await until(lambda: [desired.v for desired in running.part.wants] == [1])
        assert running.link.rejected_messages == 0


async def test_heartbeat_says_who_is_there_and_what_it_did(run: Run, until: Until) -> None:
    async with run() as running:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(running.link.heartbeat, 0.02, running.part.stats)
            await until(lambda: len(running.cloud.states()) >= 3)
            tasks.cancel_scope.cancel()
        first, second, *_ = running.cloud.states()
        assert first.online
        assert (first.stats.rows, second.stats.rows) == (1, 2)
        assert first.session == second.session
        assert abs(first.ts - time.time() * 1000) < 10_000


async def test_a_device_that_leaves_says_so_and_it_is_retained(
    run: Run, until: Until, mosquitto: Address
) -> None:
    async with run() as running:
        await running.link.report(Reported(v=2, ts=1, state="applied"))
        await running.link.leave()
        await until(lambda: [state.online for state in running.cloud.states()] == [False])
        async with Bus(BusOptions(mosquitto.host, mosquitto.port, "late")) as late:
            late.subscribe(topics.all_up())
            heard: dict[str, bool] = {}
            with anyio.fail_after(10):
                async for message in late.messages():
                    heard[message.topic] = message.retain
                    if len(heard) == 2:
                        break
        assert heard == {topics.state(DEVICE): True, topics.reported(DEVICE): True}


async def test_the_last_will_is_published_when_the_device_dies(run: Run, until: Until) -> None:
    async with run() as running:
        link = running.bus._link
        assert link is not None
        with contextlib.closing(link._client.socket()) as wire:  # type: ignore[type-var]  # a socket while connected
            wire.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]  # as above
        await until(lambda: [state.online for state in running.cloud.states()][:1] == [False])
        await until(lambda: running.bus.connected)
        await running.cloud.send(topics.desired(DEVICE), Desired(v=5, ts=1))
        await until(lambda: [desired.v for desired in running.part.wants] == [5])


async def test_what_cannot_be_said_now_is_not_an_error() -> None:
    part = Part()
    async with Bus(BusOptions("127.0.0.1", 9, DEVICE)) as bus:
        link = FleetLink(bus, DEVICE, rounds=part, outbox=part)
        assert not await link.publish(topics.state(DEVICE), Desired(v=1, ts=1))
        await link.report(Reported(v=1, ts=1, state="idle"))
        await link.leave()


async def test_a_reply_waits_for_the_connection_until_its_deadline(
    mosquitto: Address, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "REPLY_RETRY_S", 0.02)
    part = Part()
    async with Bus(BusOptions("127.0.0.1", 9, DEVICE)) as away:
        link = FleetLink(away, DEVICE, rounds=part, outbox=part)
        await asyncio.wait_for(link._answer(task("late", seconds=0.1)), 5)
    bus = Bus(BusOptions(mosquitto.host, mosquitto.port, DEVICE))
    bus.subscribe(topics.round_reply(DEVICE, "soon"))
    link = FleetLink(bus, DEVICE, rounds=part, outbox=part)
    waiting = asyncio.create_task(link._answer(task("soon")))
    await until(lambda: len(part.tasks) == 2)
    async with bus:
        await asyncio.wait_for(waiting, 10)
