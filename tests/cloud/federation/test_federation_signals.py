"""The fleet's transport: who may answer, what is read, what is lost."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from aimass_cloud.federation.signals import FleetTransport
from aimass_cloud.federation.transport import Answer, Invitation
from aimass_cloud.store.blobs import Blobs
from aimass_shared import messages, topics
from aimass_shared.errors import BrokerUnavailableError
from aimass_shared.messages import DeviceState, RoundReply, RoundTask
from aimass_shared.updates import encode

TASK = RoundTask(task="t1", run="r", number=1, kind="train", deadline=0)


def state(*, online: bool) -> DeviceState:
    return DeviceState(online=online, session="s", ts=0)


class Air:
    """Signals that are kept instead of sent, or fail, or hang."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.broken = False
        self.hangs = False

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert not retain, "a retained task would be worked on again after every connect"
        if self.broken:
            raise BrokerUnavailableError("no broker")
        if self.hangs:
            await asyncio.sleep(60)
        self.sent.append((topic, payload))


class Box:
    """An inbox that keeps what comes."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.lost: list[tuple[str, str]] = []

    def on_answer(self, answer: Answer) -> None:
        self.answers.append(answer)

    def on_lost(self, device: str, why: str) -> None:
        self.lost.append((device, why))


class Setup(NamedTuple):
    transport: FleetTransport
    air: Air
    box: Box
    blobs: Blobs

    async def send(self, device: str = "d1", blob: bytes = b"arrays") -> int:
        invitation = Invitation(device, TASK, blob)
        return await asyncio.to_thread(self.transport.send, invitation, self.box)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Setup]:
    air, blobs = Air(), Blobs(tmp_path / "blobs")
    async with FleetTransport(air, blobs, max_update_bytes=1000) as transport:
        await transport.on_state("d1", state(online=True))
        yield Setup(transport, air, Box(), blobs)


async def test_a_task_carries_the_digest_of_its_arrays(fleet: Setup) -> None:
    size = await fleet.send()
    ((topic, payload),) = fleet.air.sent
    task = messages.decode(payload, RoundTask)
    assert topic == topics.round_task("d1", "t1")
    assert task.digest == hashlib.sha256(b"arrays").hexdigest()
    assert task.size == 6
    assert fleet.blobs.path(task.digest).read_bytes() == b"arrays"
    assert size == len(payload) + 6


async def test_a_task_without_arrays_has_no_blob(fleet: Setup) -> None:
    await fleet.send(blob=b"")
    task = messages.decode(fleet.air.sent[0][1], RoundTask)
    assert (task.digest, task.size) == ("", 0)


async def test_an_answer_is_read_once_and_from_its_device_only(fleet: Setup) -> None:
    await fleet.send()
    raw = encode({"b": np.ones(2)}, {})
    reply = RoundReply(task="t1", ok=True, digest=fleet.blobs.put(raw), size=len(raw))
    await fleet.transport.on_round_reply("thief", reply)
    assert fleet.box.answers == []
    await fleet.transport.on_round_reply("d1", reply)
    await fleet.transport.on_round_reply("d1", reply)
    (answer,) = fleet.box.answers
    assert (answer.reply, answer.blob) == (reply, raw)
    assert answer.bytes_up == len(raw) + len(messages.encode(reply))


async def test_a_late_answer_is_dropped(fleet: Setup) -> None:
    await fleet.send()
    fleet.transport.forget("t1")
    await fleet.transport.on_round_reply("d1", RoundReply(task="t1", ok=False, code="x", why="y"))
    assert fleet.box.answers == []


@pytest.mark.parametrize(
    ("size", "kept", "code"),
    [(3, b"four", "bad-update"), (2000, b"x" * 2000, "bad-update"), (4, b"", "not-found")],
    ids=["size", "limit", "missing"],
)
async def test_an_update_that_cannot_be_read_is_a_failure(
    fleet: Setup, size: int, kept: bytes, code: str
) -> None:
    await fleet.send()
    digest = fleet.blobs.put(kept) if kept else "../" + "0" * 61
    reply = RoundReply(task="t1", ok=True, digest=digest, size=size)
    await fleet.transport.on_round_reply("d1", reply)
    (answer,) = fleet.box.answers
    assert (answer.reply.ok, answer.reply.code, answer.blob) == (False, code, b"")


async def test_a_device_that_goes_fails_its_tasks_only(fleet: Setup) -> None:
    await fleet.send()
    await fleet.transport.on_state("d2", state(online=True))
    await fleet.transport.on_state("d2", state(online=False))
    assert fleet.box.lost == []
    await fleet.transport.on_state("d1", state(online=False))
    assert [device for device, _ in fleet.box.lost] == ["d1"]
    assert fleet.transport.devices() == []
    with pytest.raises(BrokerUnavailableError, match="offline"):
        await fleet.send()


async def test_a_task_that_cannot_be_published_is_not_waited_for(
    fleet: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.air.broken = True
    with pytest.raises(BrokerUnavailableError, match="no broker"):
        await fleet.send()
    fleet.air.broken, fleet.air.hangs = False, True
    monkeypatch.setattr("aimass_cloud.federation.signals.SEND_SECONDS", 0.1)
    with pytest.raises(BrokerUnavailableError, match="within"):
        await fleet.send()
    await fleet.transport.on_state("d1", state(online=False))
    assert fleet.box.lost == []


async def test_stopping_fails_what_is_open(tmp_path: Path) -> None:
    box = Box()
    async with FleetTransport(Air(), Blobs(tmp_path)) as transport:
        await transport.on_state("d1", state(online=True))
        await asyncio.to_thread(transport.send, Invitation("d1", TASK, b""), box)
    assert box.lost == [("d1", "the coordinator stops")]
    with pytest.raises(BrokerUnavailableError):
        await asyncio.to_thread(transport.send, Invitation("d1", TASK, b""), box)
