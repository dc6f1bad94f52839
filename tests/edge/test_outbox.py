"""The outbox with a real database, a real process that dies and a real broker that dies."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from aimass_edge.bus import Bus, BusOptions
from aimass_edge.config import OutboxSettings
from aimass_edge.outbox import Outbox
from aimass_shared import messages, topics
from aimass_shared.errors import (
    BodyTooLargeError,
    BrokerUnavailableError,
    MalformedMessageError,
    StorageFullError,
)
from aimass_shared.messages import StreamAck, StreamBatch
from aimass_shared.streams import advance

Until = Callable[..., Awaitable[None]]
FAST = OutboxSettings(commit_ms=5, rewind_ms=300, window_rows=500, batch_rows=50)
DEVICE = "press-7"


class Line:
    """A bus without a broker: keeps what was published, or refuses."""

    def __init__(self) -> None:
        self.sent: list[StreamBatch] = []
        self.away = False
        self.limit = 1 << 20
        self._up: list[Callable[[], Awaitable[None]]] = []

    def on_connect(self, callback: Callable[[], Awaitable[None]]) -> None:
        self._up.append(callback)

    async def come_back(self) -> None:
        self.away = False
        for callback in self._up:
            await callback()

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False
    ) -> None:
        assert (topics.parse(topic).kind, qos, retain) == ("d", 1, False)
        if self.away:
            raise BrokerUnavailableError("away")
        if len(payload) > self.limit:
            raise BodyTooLargeError("too large")
        self.sent.append(messages.decode(payload, StreamBatch))

    def ids(self) -> list[int]:
        return [item.id for batch in self.sent for item in batch.items]


@contextlib.asynccontextmanager
async def running(outbox: Outbox, line: Line | Bus) -> AsyncIterator[None]:
    async with outbox:
        task = asyncio.create_task(outbox.run(line, DEVICE))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


async def test_rows_go_out_in_order_and_leave_only_on_our_ack(tmp_path: Path, until: Until) -> None:
    outbox, line = Outbox(tmp_path / "o.db", FAST), Line()
    async with running(outbox, line):
        ids = [await outbox.put("predictions", b'{"n":%d}' % number) for number in range(3)]
        assert ids == [1, 2, 3]
        await until(lambda: line.ids() == [1, 2, 3])
        assert json.loads(bytes(line.sent[-1].items[-1].body)) == {"n": 2}
        outbox.on_ack(StreamAck(epoch="another", upto=3))
        outbox.on_ack(StreamAck(epoch=outbox.epoch, upto=99))
        outbox.on_ack(StreamAck(epoch=outbox.epoch, upto=3), "unknown")
        assert outbox.pending() == 3
        outbox.on_ack(StreamAck(epoch=outbox.epoch, upto=2))
        await until(lambda: outbox.pending() == 1)
        await until(lambda: line.ids()[-2:] == [3, 3])  # no progress: sent again
        assert line.sent[-1].after == 0
        assert outbox.rewinds >= 1


async def test_a_new_life_sends_what_the_old_one_left(tmp_path: Path, until: Until) -> None:
    async with Outbox(tmp_path / "o.db", FAST) as first:
        for _ in range(5):
            first.put_nowait("predictions", b"1")
        epoch = first.epoch
    second, line = Outbox(tmp_path / "o.db", FAST), Line()
    async with running(second, line):
        assert (second.epoch, second.pending()) == (epoch, 5)
        await until(lambda: line.ids() == [1, 2, 3, 4, 5])
        second.on_ack(StreamAck(epoch=epoch, upto=5))
        await until(lambda: second.pending() == 0)
        assert await second.put("predictions", b"1") == 6  # an id is never used twice


async def test_hundreds_of_puts_share_a_flush(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "o.db", OutboxSettings()) as outbox:
        began = time.monotonic()
        ids = await asyncio.gather(*(outbox.put("predictions", b"{}") for _ in range(500)))
        assert sorted(ids) == list(range(1, 501))
        assert time.monotonic() - began < 1.0


async def test_a_full_outbox_drops_the_oldest_of_the_stream_and_counts(
    tmp_path: Path, until: Until
) -> None:
    small = OutboxSettings(commit_ms=5, max_rows=100, batch_rows=1000, window_rows=1000)
    outbox, line = Outbox(tmp_path / "o.db", small), Line()
    line.away = True
    async with running(outbox, line):
        await outbox.put("jobs", b"0")
        for _ in range(5):
            await asyncio.gather(*(outbox.put("predictions", b"1") for _ in range(50)))
        assert outbox.dropped == {"predictions": 151}
        assert outbox.pending() == 100
        await line.come_back()
        await until(lambda: sorted(line.ids()) == [1, *range(153, 252)])


async def test_a_wait_for_the_broker_ends_when_it_is_back(tmp_path: Path, until: Until) -> None:
    outbox, line = Outbox(tmp_path / "o.db", FAST), Line()
    line.away = True
    async with running(outbox, line):
        await outbox.put("predictions", b"1")
        began = time.monotonic()
        await asyncio.sleep(0.05)
        await line.come_back()
        await until(lambda: line.ids() == [1])
        assert time.monotonic() - began < 0.6


async def test_bodies_that_can_never_be_read_are_refused_at_the_door(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "o.db", FAST) as outbox:
        with pytest.raises(BodyTooLargeError):
            await outbox.put("predictions", b'"' + b"x" * (250 << 10) + b'"')
        with pytest.raises(MalformedMessageError):
            outbox.put_nowait("predictions", b"{")
        with pytest.raises(MalformedMessageError):
            outbox.put_nowait("a/b", b"{}")
        assert outbox.pending() == 0


async def test_batches_fit_the_broker_and_one_that_never_fits_goes(
    tmp_path: Path, until: Until
) -> None:
    outbox, line = Outbox(tmp_path / "o.db", FAST), Line()
    line.limit = 20_000
    async with running(outbox, line):
        for size in (9000, 9000, 30_000, 9000):
            outbox.put_nowait("predictions", b'"' + b"x" * size + b'"')
        await until(lambda: sorted(set(line.ids())) == [1, 2, 4])
        assert outbox.dropped == {"predictions": 1}


async def test_large_rows_stay_below_the_message_limit(tmp_path: Path, until: Until) -> None:
    outbox, line = Outbox(tmp_path / "o.db", FAST), Line()
    async with running(outbox, line):
        for _ in range(10):
            outbox.put_nowait("predictions", b'"' + b"x" * 100_000 + b'"')
        await until(lambda: len(line.ids()) == 10)
    assert max(len(messages.encode(batch)) for batch in line.sent) < 256 << 10


async def test_a_disk_that_fails_is_told_and_nothing_half_is_kept(tmp_path: Path) -> None:
    async with Outbox(tmp_path / "o.db", FAST) as outbox:
        await outbox.put("predictions", b"1")
        await outbox._in_thread(lambda: outbox._table._db.execute("pragma max_page_count=1"))
        big = b'"' + b"x" * 100_000 + b'"'
        results = await asyncio.gather(
            *(outbox.put("predictions", big) for _ in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [StorageFullError] * 3
        assert outbox.pending() == 1
        await outbox._in_thread(lambda: outbox._table._db.execute("pragma max_page_count=100000"))
        assert await outbox.put("predictions", big) == 5


async def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageFullError, match="check its folder"):
        async with Outbox(tmp_path / "none" / "o.db", FAST):
            pass


async def put_one(path: Path) -> int:
    async with Outbox(path, FAST) as outbox:
        return await outbox.put("predictions", b"1")


def test_a_damaged_file_is_moved_aside_and_a_new_epoch_begins(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    path.write_bytes(b"not a database at all" * 100)
    assert asyncio.run(put_one(path)) == 1
    assert len(list(tmp_path.glob("o.damaged-*"))) == 1


_CHILD = """
import asyncio, sys
from pathlib import Path
from aimass_edge.config import OutboxSettings
from aimass_edge.outbox import Outbox

async def main():
    async with Outbox(Path(sys.argv[1]), OutboxSettings(commit_ms=5)) as outbox:
        while True:
            ids = await asyncio.gather(*(outbox.put("predictions", b"1") for _ in range(20)))
            print(max(ids), flush=True)

asyncio.run(main())
"""


def test_confirmed_rows_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    child = subprocess.Popen([sys.executable, "-c", _CHILD, path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    confirmed = 0
    while confirmed < 200:
        confirmed = int(child.stdout.readline())
    child.kill()
    confirmed = int((child.stdout.read().split() or [b"%d" % confirmed])[-1])
    child.wait(10)
    child.stdout.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        ids = {row for (row,) in db.execute("select id from outbox")}
    assert set(range(1, confirmed + 1)) <= ids


class Mortal:
    """A mosquitto that is killed with SIGKILL and started again on the same port."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self._config = folder / "mortal.conf"
        self._config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
            f"persistence true\npersistence_location {folder}/\nlog_type error\n"
        )
        self._binary = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") or ""
        self.process = subprocess.Popen([self._binary, "-c", self._config])

    def kill_and_restart(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.process = subprocess.Popen([self._binary, "-c", self._config])

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def mortal(free_port: Callable[[], int], tmp_path: Path) -> Iterator[Mortal]:
    broker = Mortal(free_port(), tmp_path)
    yield broker
    broker.end()


async def consume(cloud: Bus, stored: dict[int, int]) -> None:
    """What the bridge does, in memory: store, then acknowledge. Counts how often a row came."""
    upto = 0
    async for message in cloud.messages():
        batch = messages.decode(message.payload, StreamBatch)
        further = advance(upto, batch)
        if further is not None:
            upto = further
            for item in batch.items:
                stored[item.id] = stored.get(item.id, 0) + 1
        ack = messages.encode(StreamAck(epoch=batch.epoch, upto=upto))
        with contextlib.suppress(BrokerUnavailableError):
            await cloud.publish(topics.ack(DEVICE, "predictions"), ack, qos=1)


async def feed_acks(bus: Bus, outbox: Outbox) -> None:
    async for message in bus.messages():
        outbox.on_ack(messages.decode(message.payload, StreamAck), topics.parse(message.topic).item)


async def test_three_dead_brokers_lose_nothing(
    mortal: Mortal, tmp_path: Path, until: Until
) -> None:
    total, stored = 3000, dict[int, int]()
    outbox = Outbox(tmp_path / "o.db", OutboxSettings(commit_ms=10, rewind_ms=700))
    bus = Bus(BusOptions(host="127.0.0.1", port=mortal.port, client_id=DEVICE))
    cloud = Bus(BusOptions(host="127.0.0.1", port=mortal.port, client_id="coordinator"))
    bus.subscribe(topics.all_down(DEVICE))
    cloud.subscribe(topics.all_up())
    async with bus, cloud, running(outbox, bus):
        tasks = [asyncio.create_task(feed_acks(bus, outbox))]
        tasks.append(asyncio.create_task(consume(cloud, stored)))
        for number in range(1, total + 1):
            outbox.put_nowait("predictions", b'{"n":%d}' % number)
            if number % 10 == 0:
                await asyncio.sleep(0.01)
            if number % 750 == 0 and number < total:
                await asyncio.to_thread(mortal.kill_and_restart)
        await until(lambda: outbox.pending() == 0 and len(stored) == total, 30)
        assert set(stored) == set(range(1, total + 1))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
