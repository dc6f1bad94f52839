"""Store and forward: rows to disk against plain SQLite, rows delivered against plain paho.

Rows are predictions as the agent makes them. The outbox checks each row, commits in groups and
deletes on the cloud's acknowledgement; plain SQLite only inserts, with the same pragmas and tables,
and plain paho keeps nothing: what a broker loses is lost.
"""

import asyncio
import contextlib
import itertools
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from aimass_edge.bus import Bus, BusOptions
from aimass_edge.config import OutboxSettings
from aimass_edge.outbox import Outbox
from aimass_shared import messages, topics
from aimass_shared.errors import BrokerUnavailableError
from aimass_shared.messages import Prediction, StreamAck
from benchmarks.harness.measure import MICRO, Case, Figures, Sample, Scale, Turn
from benchmarks.harness.processes import Child, broker

STREAM, DEVICE = "predictions", "press-7"
SETTINGS = OutboxSettings()
DEADLINE_S = 60.0
BURST = 100
WALL, CPU = "us a row", "CPU us a row"
BODY = msgspec.json.encode(
    Prediction(
        model="tep-monitor",
        release="2026.11.25-1",
        slice="w0.50-int8",
        sequence=123_456,
        window_end=1_800_000_000_000,
        score=1.25,
        threshold=2.5,
        alarm=False,
        top_sensors=("XMEAS_01", "XMEAS_09", "XMV_10"),
        coverage=1.0,
        place="local",
        service_ms=3.25,
        forecast=tuple(100 + number / 7 for number in range(52)),
    )
)
SCHEMA = """
create table meta(key text primary key, value text not null);
create table outbox(
  id integer primary key autoincrement, stream text not null, body blob not null);
create index outbox_by_stream on outbox(stream);
"""


def run(scale: Scale) -> Figures:
    """To disk, then all the way."""
    figures = Figures()
    rows = 4000 if scale.quick else 20_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures.measure(Case("to disk", _to_disk(folder, rows)), scale.rounds)
        with broker(folder) as port, Child("consumer", port) as consumer:
            consumer.hear()
            figures.measure(Case("delivered", _delivered(folder, port, rows)), scale.rounds)
    figures.notes.append(
        f"a row has {len(BODY)} bytes; a turn is {rows} rows; SQLite commits {BURST} or all at"
        f" once, the outbox whatever came within {SETTINGS.commit_ms} ms"
    )
    return figures


def _to_disk(folder: Path, rows: int) -> dict[str, Turn]:
    files = (folder / f"{number}.db" for number in itertools.count())

    def outbox() -> Sample:
        return _timed(rows, kept(next(files), rows))

    def plain(group: int) -> Turn:
        return lambda: _timed(rows, _inserted(next(files), rows, group))

    return {
        "aimass": outbox,
        "sqlite3, one commit": plain(rows),
        f"sqlite3, commits of {BURST}": plain(BURST),
    }


async def kept(path: Path, rows: int) -> None:
    """Rows into the outbox as fast as it takes them, until the last is on the disk."""
    async with Outbox(path, SETTINGS) as outbox:
        await _put(outbox, rows)


async def _put(outbox: Outbox, rows: int) -> None:
    for number in range(1, rows):
        outbox.put_nowait(STREAM, BODY)
        if number % BURST == 0:
            await asyncio.sleep(0)
    await outbox.put(STREAM, BODY)


async def _inserted(path: Path, rows: int, group: int) -> None:
    """The same rows by `executemany`, a commit for each group."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=full")
        db.executescript(SCHEMA)
        for first in range(1, rows + 1, group):
            chunk = [(number, STREAM, BODY) for number in range(first, first + group)]
            db.execute("begin immediate")
            db.executemany("insert into outbox(id, stream, body) values(?,?,?)", chunk)
            db.execute("commit")


def _delivered(folder: Path, port: int, rows: int) -> dict[str, Turn]:
    files = (folder / f"sent-{number}.db" for number in itertools.count())

    def outbox() -> Sample:
        return _timed(rows, _forwarded(next(files), port, rows))

    def plain(together: int) -> Turn:
        return lambda: published(port, rows, together)

    batch = SETTINGS.batch_rows
    return {
        "aimass": outbox,
        "paho, a row a message": plain(1),
        f"paho, {batch} rows": plain(batch),
    }


async def _forwarded(path: Path, port: int, rows: int) -> None:
    """Rows into an outbox that is connected, until the far end has acknowledged them all."""
    outbox = Outbox(path, SETTINGS)
    bus = Bus(BusOptions(host="127.0.0.1", port=port, client_id=DEVICE))
    bus.subscribe(topics.all_down(DEVICE))
    async with bus, outbox, _working(outbox.run(bus, DEVICE), _acks(bus, outbox)):
        async with asyncio.timeout(DEADLINE_S):
            await _put(outbox, rows)
            while outbox.pending():  # noqa: ASYNC110  the outbox has no event for it
                await asyncio.sleep(0.002)


@asynccontextmanager
async def _working(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _acks(bus: Bus, outbox: Outbox) -> None:
    async for message in bus.messages():
        outbox.on_ack(messages.decode(message.payload, StreamAck), topics.parse(message.topic).item)


def published(port: int, rows: int, together: int) -> Sample:
    """Plain QoS 1 publishes of so many rows a message, until the far end says that all are there.

    Raises:
        BrokerUnavailableError: it does not say so within a minute.
    """
    done, ready = threading.Event(), threading.Event()
    client = Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(100)  # as our bus has it
    client.on_message = lambda *_: done.set()
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe("done", 1)
    payload = b"[" + b",".join([BODY] * together) + b"]"
    try:
        ready.wait(DEADLINE_S)
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(rows // together):
            client.publish(f"plain/{together}/{rows}", payload, 1)
        if not done.wait(DEADLINE_S):
            raise BrokerUnavailableError("the broker did not deliver within a minute")
        return _cost(rows, began, cpu)
    finally:
        client.disconnect()
        client.loop_stop()


def _timed(rows: int, work: Coroutine[Any, Any, None]) -> Sample:
    """Wall and CPU time of a row, with opening and closing."""
    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(work)
    return _cost(rows, began, cpu)


def _cost(rows: int, began: float, cpu: float) -> Sample:
    wall = time.perf_counter() - began
    return {WALL: wall / rows * MICRO, CPU: (time.process_time() - cpu) / rows * MICRO}
