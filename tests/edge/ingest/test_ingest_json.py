"""The ingest on a real broker with plants that speak JSON."""

import json
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio
import msgspec
import pytest

from aimass_edge.bus import Bus, BusOptions
from aimass_edge.config import SourceSettings
from aimass_edge.ingest import Ingest
from aimass_shared.errors import InvalidSettingError
from aimass_shared.messages import Prediction
from aimass_shared.windows import Row

Until = Callable[..., Awaitable[None]]
START = 1_600_000_000_000  # a replay of the past
STEP = 180_000

JSON = SourceSettings(
    kind="json",
    topic="plant/{line}/telemetry",
    publish_topic="plant/east/predictions",
    sensors=("T", "p", "reactor/level"),
    rename={"temperature": "T"},
    step_ms=STEP,
)
UNS = SourceSettings(
    kind="uns",
    version=4,
    topic="umh/v1/acme/{line}/_raw/{sensor}",
    publish_topic="umh/v1/acme/south/_aimass_v1/prediction",
    sensors=("T", "p"),
    rename={"temperature": "T"},
    step_ms=STEP,
)
PREDICTION = Prediction(
    model="tep-monitor",
    release="r1",
    slice="w0.50-int8",
    sequence=3,
    window_end=START,
    score=2.5,
    threshold=1.0,
    alarm=True,
    top_sensors=("T", "p"),
    coverage=1.0,
    place="local",
    service_ms=1.5,
    forecast=(1.0, 2.0, 3.0),
)


class Plant(Protocol):
    heard: list[tuple[str, bytes]]

    def say(self, topic: str, payload: bytes, qos: int = 0) -> None: ...


class Running(Protocol):
    ingest: Ingest
    bus: Bus


RunIngest = Callable[[SourceSettings], AbstractAsyncContextManager[Running]]


async def take(ingest: Ingest, count: int) -> list[Row]:
    rows: list[Row] = []
    with anyio.fail_after(20):
        async for row in ingest.rows():
            rows.append(row)
            if len(rows) == count:
                break
    return rows


def plain(rows: list[Row]) -> list[tuple[int, list[float | None]]]:
    return [
        (
            row.time_ms,
            [v if m else None for v, m in zip(row.values.tolist(), row.mask, strict=True)],
        )
        for row in rows
    ]


def encoded(**values: object) -> bytes:
    return json.dumps(values).encode()


async def test_rows_of_objects_come_out_one_for_one(
    plant: Plant, run_ingest: RunIngest, until: Until
) -> None:
    async with run_ingest(JSON) as running:
        await until(lambda: running.bus.connected)
        for step in range(300):
            plant.say(
                "plant/east/telemetry",
                encoded(
                    timestamp_ms=START + step * STEP,
                    temperature=step,
                    p=math.nan if step == 7 else step / 4,
                    reactor={"level": step * 2, "other": 1},
                    extra="x",
                ),
            )
        rows = plain(await take(running.ingest, 300))
        counters = running.ingest.counters
    assert rows == [
        (START + step * STEP, [step, None if step == 7 else step / 4, step * 2])
        for step in range(300)
    ]
    assert (counters.messages, counters.readings, counters.rows) == (300, 900, 300)
    assert (counters.bad, counters.rejected, counters.late) == (1, 0, 0)


async def test_malformed_messages_are_counted_and_logged_once_for_each_kind(
    plant: Plant, run_ingest: RunIngest, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    good = encoded(timestamp_ms=START, temperature=1, p=2, **{"reactor/level": 3})
    bad = [b"\xff\x00", b"[1]", b"{}", b'{"timestamp_ms": "now", "p": 1}', b'{"timestamp_ms": 1}']
    settings = msgspec.structs.replace(JSON, max_payload_bytes=1000)
    async with run_ingest(settings) as running:
        await until(lambda: running.bus.connected)
        with caplog.at_level(logging.WARNING, "aimass_edge.ingest"):
            for payload in [*bad, b" " * 1001, good]:
                plant.say("plant/east/telemetry", payload)
            plant.say("plant/west/telemetry", good)
            assert plain(await take(running.ingest, 1)) == [(START, [1, 2, 3])]
            await until(lambda: running.ingest.counters.messages == 8)
        counters = running.ingest.counters
    assert counters.rejected_codes == {"malformed-message": 5, "body-too-large": 1, "conflict": 1}
    assert counters.rejected == 7
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    lines = [record.getMessage() for record in warnings]
    assert len(lines) == 3
    assert "plant/east/telemetry" in lines[0]
    assert "[malformed-message]" in lines[0]


async def test_tags_of_a_uns_come_together_as_rows(
    plant: Plant, run_ingest: RunIngest, until: Until
) -> None:
    async with run_ingest(UNS) as running:
        await until(lambda: running.bus.connected)
        for step in range(100):
            for tag, value in (("temperature", step), ("p", step / 2), ("unknown", 1)):
                payload = encoded(timestamp_ms=START + step * STEP, value=value)
                plant.say(f"umh/v1/acme/south/_raw/{tag}", payload)
        plant.say("umh/v1/acme/north/_raw/p", encoded(timestamp_ms=START, value=666))
        rows = plain(await take(running.ingest, 100))
        await until(lambda: running.ingest.counters.rejected == 1)
        assert running.ingest.counters.rejected_codes == {"conflict": 1}
    assert rows == [(START + step * STEP, [step, step / 2]) for step in range(100)]


async def test_predictions_are_published_as_json(
    plant: Plant, run_ingest: RunIngest, until: Until
) -> None:
    async with run_ingest(JSON) as running:
        await until(lambda: running.bus.connected)
        await running.ingest.publish(PREDICTION, JSON.sensors)
        await until(lambda: plant.heard)
        assert running.ingest.will() is None
        assert running.ingest.counters.published == 1
    ((topic, raw),) = plant.heard
    assert topic == "plant/east/predictions"
    document = json.loads(raw)
    assert document["timestamp_ms"] == START
    assert document["forecast"] == {"T": 1.0, "p": 2.0, "reactor/level": 3.0}
    assert (document["score"], document["alarm"], document["release"]) == (2.5, True, "r1")


async def test_an_absent_broker_is_no_error(free_port: Callable[[], int]) -> None:
    bus = Bus(BusOptions(host="127.0.0.1", port=free_port(), client_id="edge"))
    async with bus, Ingest(JSON, agent_node="north-1", bus=bus) as ingest:
        await ingest.publish(PREDICTION)
        assert (ingest.counters.published, ingest.counters.unpublished) == (0, 1)


async def test_without_a_source_there_are_no_rows_and_no_end_before_the_end() -> None:
    bus = Bus(BusOptions(host="127.0.0.1", port=1, client_id="edge"))
    async with Ingest(SourceSettings(), agent_node="north-1", bus=bus) as ingest:
        with anyio.move_on_after(0.1) as scope:
            async for _ in ingest.rows():
                pytest.fail("a row out of nothing")
        assert scope.cancelled_caught
        await ingest.publish(PREDICTION)
        assert ingest.counters.messages == 0


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        (JSON, {"topic": ""}),
        (JSON, {"topic": "plant/#"}),
        (JSON, {"time_field": "time"}),
        (JSON, {"sensors": ()}),
        (JSON, {"sensors": ("T", "T")}),
        (JSON, {"publish_topic": "spBv1.0/g/DCMD/n/d"}),
        (JSON, {"publish_topic": "plant/+"}),
        (JSON, {"step_ms": 0}),
        (UNS, {"topic": "umh/{tag}"}),
        (UNS, {"kind": "sparkplug", "group": "", "node": "n"}),
        (UNS, {"kind": "sparkplug", "group": "g", "node": "n", "publish_node": "n"}),
    ],
)
def test_settings_that_cannot_work_are_refused(
    base: SourceSettings, changes: dict[str, object]
) -> None:
    bus = Bus(BusOptions(host="127.0.0.1", port=1, client_id="edge"))
    with pytest.raises(InvalidSettingError):
        Ingest(msgspec.structs.replace(base, **changes), agent_node="north-1", bus=bus)
