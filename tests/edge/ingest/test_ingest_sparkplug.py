"""The ingest on a real broker with a Sparkplug edge node as the plant, and a tap on everything."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio
import msgspec
import pytest
from paho.mqtt.client import Client

from aimass_edge.bus import Bus
from aimass_edge.config import SourceSettings
from aimass_edge.ingest import Ingest
from aimass_shared.messages import Prediction
from aimass_shared.sparkplug import rules
from aimass_shared.sparkplug.payload import BAD, GOOD, STALE, DataType, Metric, Payload, encode
from aimass_shared.sparkplug.rules import Publication
from aimass_shared.sparkplug.session import EdgeOptions, EdgeSession
from aimass_shared.sparkplug.topics import Topic
from aimass_shared.windows import Row

Until = Callable[..., Awaitable[None]]
START, STEP = 1_600_000_000_000, 1000  # a replay of the past
SETTINGS = SourceSettings(
    kind="sparkplug",
    group="acme",
    node="gateway",
    device="reactor",
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
    top_sensors=("T",),
    coverage=1.0,
    place="local",
    service_ms=1.5,
)


class Plant(Protocol):
    client: Client

    def say(self, topic: str, payload: bytes, qos: int = 0) -> None: ...
    def say_all(self, publications: list[Publication]) -> None: ...
    def sparkplug(self) -> list[tuple[Topic, Payload]]: ...
    def die(self) -> None: ...


class Running(Protocol):
    ingest: Ingest
    bus: Bus


RunIngest = Callable[[SourceSettings], AbstractAsyncContextManager[Running]]
MakePlant = Callable[..., Plant]


def metric(name: str, kind: DataType, unit: str | None = None) -> Metric:
    return Metric(name=name, datatype=kind, unit=unit)


def gateway(*, aliases: bool = True) -> EdgeSession:
    """A node with the watched device, and another one whose messages share its seq."""
    devices = {
        "": [metric("load", DataType.FLOAT)],
        "reactor": [metric("temperature", DataType.INT16, "degC"), metric("p", DataType.FLOAT)],
        "pump": [metric("p", DataType.FLOAT)],
    }
    return EdgeSession("acme", "gateway", devices, options=EdgeOptions(aliases=aliases))


def report(session: EdgeSession, step: int, **values: float | None) -> list[Publication]:
    at = START + step * STEP
    other = session.data("pump", [Metric(name="p", value=666.0, timestamp=at)], now_ms=at)
    metrics = [Metric(name=name, value=value, timestamp=at) for name, value in values.items()]
    data = session.data("reactor", metrics, now_ms=at)
    assert other is not None
    assert data is not None
    return [other, data]


async def take(ingest: Ingest, count: int) -> list[tuple[int, list[float | None]]]:
    rows: list[Row] = []
    with anyio.fail_after(20):
        async for row in ingest.rows():
            rows.append(row)
            if len(rows) == count:
                break
    return [
        (
            (row.time_ms - START) // STEP,
            [v if m else None for v, m in zip(row.values.tolist(), row.mask, strict=True)],
        )
        for row in rows
    ]


def kinds(plant: Plant, node: str) -> list[str]:
    return [topic.kind for topic, _ in plant.sparkplug() if topic.node == node]


def rebirth_requests(plant: Plant) -> int:
    return kinds(plant, "gateway").count("NCMD")


@pytest.mark.parametrize("aliases", [False, True])
async def test_rows_of_a_device_come_out_one_for_one(
    make_plant: MakePlant,
    run_ingest: RunIngest,
    until: Until,
    aliases: bool,  # noqa: FBT001 - a pytest parameter
) -> None:
    session = gateway(aliases=aliases)
    plant = make_plant(will=session.will(START))
    async with run_ingest(SETTINGS) as running:
        await until(lambda: running.bus.connected)
        plant.say_all(session.births(START))
        for step in range(300):
            plant.say_all(report(session, step, temperature=-step, p=step / 4))
        rows = await take(running.ingest, 300)
        counters = running.ingest.counters
        assert running.ingest.units == {"temperature": "degC"}
    assert rows == [(step, [-step, step / 4]) for step in range(300)]
    assert (counters.readings, counters.births, counters.rejected) == (600, 1, 0)


async def test_whoever_comes_late_asks_for_the_births_and_for_nothing_else(
    make_plant: MakePlant, run_ingest: RunIngest, until: Until
) -> None:
    session = gateway()
    plant = make_plant(will=session.will(START))
    plant.say_all(session.births(START))
    async with run_ingest(SETTINGS) as running:
        await until(lambda: rebirth_requests(plant) == 1)
        plant.say_all(report(session, 0, temperature=1, p=2))
        plant.say_all(session.births(START))
        plant.say_all(report(session, 1, temperature=3, p=4))
        assert await take(running.ingest, 1) == [(1, [3, 4])]
        assert running.ingest.counters.rebirth_requests == 1
    ((_, request),) = [found for found in plant.sparkplug() if found[0].kind == "NCMD"]
    assert [(m.name, m.value) for m in request.metrics] == [("Node Control/Rebirth", True)]


async def test_what_is_unknown_or_malformed_is_asked_for_every_two_seconds_at_most(
    make_plant: MakePlant, run_ingest: RunIngest, until: Until
) -> None:
    plant = make_plant()
    async with run_ingest(SETTINGS) as running:
        await until(lambda: rebirth_requests(plant) == 1)
        with anyio.move_on_after(2.5):
            while True:
                plant.say("spBv1.0/acme/DDATA/gateway/reactor", b"junk")
                await anyio.sleep(0.02)
        assert rebirth_requests(plant) == 2
        assert running.ingest.counters.rejected_codes.keys() == {"malformed-message"}


async def test_the_values_of_a_dead_node_are_missing_until_it_is_born_again(
    make_plant: MakePlant, run_ingest: RunIngest, until: Until
) -> None:
    settings = msgspec.structs.replace(SETTINGS, step_ms=200)
    session = gateway()
    plant = make_plant(will=session.will(START))
    async with run_ingest(settings) as running:
        await until(lambda: running.bus.connected)
        plant.say_all(session.births(START))
        plant.say_all(report(session, 0, temperature=1, p=2))
        assert [values for _, values in await take(running.ingest, 3)] == [[1, 2]] * 3
        plant.die()
        await until(lambda: running.ingest.counters.deaths == 1)
        rows = [values for _, values in await take(running.ingest, 5)]
        assert rows[-1] == [None, None]
        again = make_plant(will=session.will(START))
        again.say_all(session.births(START))
        await until(lambda: running.ingest.counters.births == 2)
        rows = [values for _, values in await take(running.ingest, 5)]
        assert rows[-1] == [1, 2]


async def test_bad_quality_null_and_history_do_not_reach_the_rows(
    make_plant: MakePlant, run_ingest: RunIngest, until: Until
) -> None:
    session = gateway()
    plant = make_plant(will=session.will(START))
    async with run_ingest(SETTINGS) as running:
        await until(lambda: running.bus.connected)
        plant.say_all(session.births(START))
        plant.say_all(report(session, 0, temperature=1, p=2))
        plant.say_all(report(session, 1, temperature=None, p=float("nan")))
        at = START + 2 * STEP
        for bad in (
            Metric(name="p", value=5.0, timestamp=at, quality=STALE),
            Metric(name="p", value=6.0, timestamp=at, is_historical=True),
            Metric(name="temperature", value=7, timestamp=at, quality=192 + (3 << 16)),
        ):
            data = session.data("reactor", [bad], now_ms=at)
            assert data is not None
            plant.say_all([data])
        plant.say_all(report(session, 3, temperature=8, p=9))
        rows = await take(running.ingest, 4)
        counters = running.ingest.counters
    assert rows == [(0, [1, 2]), (1, [None, None]), (2, [7, None]), (3, [8, 9])]
    assert (counters.historical, counters.bad) == (1, 3)


async def test_our_node_is_born_answers_and_dies(
    plant: Plant, run_ingest: RunIngest, until: Until
) -> None:
    async with run_ingest(SETTINGS) as running:
        await until(lambda: "DBIRTH" in kinds(plant, "aimass-north-1"))
        await running.ingest.publish(PREDICTION, SETTINGS.sensors)
        await until(lambda: "DDATA" in kinds(plant, "aimass-north-1"))
        request = rules.rebirth_request("acme", "aimass-north-1", 1)
        plant.say_all([request])
        await until(lambda: kinds(plant, "aimass-north-1").count("DBIRTH") == 2)
        assert running.ingest.counters.published == 1
    await until(lambda: "NDEATH" in kinds(plant, "aimass-north-1"))
    ours = [found for found in plant.sparkplug() if found[0].node == "aimass-north-1"]
    order = ["NBIRTH", "DBIRTH", "DDATA", "NCMD", "NBIRTH", "DBIRTH", "NDEATH"]
    assert [topic.kind for topic, _ in ours] == order
    assert [payload.seq for _, payload in ours] == [0, 1, 2, None, 0, 1, None]
    empty, data, reborn = (ours[place][1].metrics for place in (1, 2, 5))
    assert {topic.device for topic, _ in ours} == {"", "ai"}
    assert {m.value for m in empty} == {None}
    assert {m.name: m.value for m in data} == {
        "score": 2.5,
        "threshold": 1.0,
        "alarm": True,
        "top_sensor_1": "T",
        "top_sensor_2": None,
        "top_sensor_3": None,
        "model": "tep-monitor",
        "release": "r1",
        "coverage": 1.0,
    }
    assert {(m.timestamp, m.quality) for m in data} == {(START, GOOD)}
    assert [(m.name, m.value) for m in reborn] == [(m.name, m.value) for m in data]
    numbers = [ours[place][1].metrics[0].value for place in (0, 4, 6)]
    assert numbers == [numbers[0]] * 3


async def test_each_connection_of_our_node_is_a_session_of_its_own(
    plant: Plant, make_plant: MakePlant, run_ingest: RunIngest, until: Until
) -> None:
    """Another client with our id makes the broker cut us off, as a network would."""
    async with run_ingest(SETTINGS) as running:
        await until(lambda: "DBIRTH" in kinds(plant, "aimass-north-1"))
        make_plant(name="edge")
        await until(lambda: kinds(plant, "aimass-north-1").count("DBIRTH") == 2)
        await until(lambda: rebirth_requests(plant) == 2)
        await running.ingest.publish(PREDICTION)
        await until(lambda: "DDATA" in kinds(plant, "aimass-north-1"))
    ours = [found for found in plant.sparkplug() if found[0].node == "aimass-north-1"]
    numbers = [
        (topic.kind, payload.metrics[0].value)
        for topic, payload in ours
        if topic.kind in ("NBIRTH", "NDEATH")
    ]
    assert numbers[:3] == [("NBIRTH", 0), ("NDEATH", 0), ("NBIRTH", 1)]


async def test_the_coverage_of_a_window_is_the_quality_of_its_prediction(
    plant: Plant, run_ingest: RunIngest, until: Until
) -> None:
    async with run_ingest(SETTINGS) as running:
        await until(lambda: "DBIRTH" in kinds(plant, "aimass-north-1"))
        for coverage in (0.8, 0.6, 0.4):
            prediction = msgspec.structs.replace(PREDICTION, coverage=coverage)
            await running.ingest.publish(prediction)
        await until(lambda: kinds(plant, "aimass-north-1").count("DDATA") == 3)
    data = [payload for topic, payload in plant.sparkplug() if topic.kind == "DDATA"]
    assert [payload.metrics[0].quality for payload in data] == [GOOD, STALE, BAD]


async def test_nothing_but_the_rebirth_request_is_ever_commanded(
    make_plant: MakePlant, run_ingest: RunIngest, until: Until
) -> None:
    """Everything that could tempt it: alarms, commands to our device, writable metrics, junk."""
    session = gateway()
    plant = make_plant(will=session.will(START))
    async with run_ingest(SETTINGS) as running:
        await until(lambda: "DBIRTH" in kinds(plant, "aimass-north-1"))
        plant.say_all(session.births(START))
        command = encode(Payload(1, (Metric(name="alarm", datatype=DataType.BOOLEAN, value=True),)))
        plant.say("spBv1.0/acme/DCMD/aimass-north-1/ai", command)
        plant.say("spBv1.0/acme/NCMD/aimass-north-1", command)
        plant.say("spBv1.0/acme/NCMD/aimass-north-1", b"junk")
        for step in range(50):
            plant.say_all(report(session, step, temperature=step, p=step))
            await running.ingest.publish(msgspec.structs.replace(PREDICTION, sequence=step))
        plant.say("spBv1.0/acme/DDATA/gateway/reactor", b"junk")
        await take(running.ingest, 50)
        await until(lambda: rebirth_requests(plant) >= 1)
    await until(lambda: "NDEATH" in kinds(plant, "aimass-north-1"))
    said = [
        (t, m.name) for t, p in plant.sparkplug() if t.kind in ("NCMD", "DCMD") for m in p.metrics
    ]
    to_plant = {(t.kind, t.node, name) for t, name in said if t.node != "aimass-north-1"}
    assert to_plant == {("NCMD", "gateway", "Node Control/Rebirth")}
