"""What the plants hear of their agents: counted by topic and dialect, and nothing else counted."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from aiomqtt import Client

from aimass_cloud.demo.answers import Answers, answer, answer_topic
from aimass_cloud.demo.sites import SITES
from aimass_shared.messages import BrokerAddress
from aimass_shared.sparkplug.datatypes import DataType
from aimass_shared.sparkplug.payload import Metric, Payload, encode

Until = Callable[..., Awaitable[None]]
DEVICES = {site.name: f"{site.name}-1a2b3c" for site in SITES}


class Address(NamedTuple):
    host: str
    port: int


def sparkplug(*, alarm: bool) -> bytes:
    metrics = (
        Metric(name="score", datatype=DataType.DOUBLE, value=2.5, timestamp=1),
        Metric(name="alarm", datatype=DataType.BOOLEAN, value=alarm, timestamp=1),
    )
    return encode(Payload(timestamp=1, metrics=metrics, seq=1))


def test_a_sparkplug_answer_is_data_of_the_agents_own_node() -> None:
    north = next(site for site in SITES if site.kind == "sparkplug")
    assert answer_topic(north, "north-1") == "spBv1.0/acme/DDATA/aimass-north-1/ai"
    others = [site for site in SITES if site.kind != "sparkplug"]
    assert [answer_topic(site, "x") for site in others] == [site.answers for site in others]


def test_answers_are_read_in_both_dialects_and_nonsense_is_empty() -> None:
    assert answer("sparkplug", sparkplug(alarm=True)) == {"score": 2.5, "alarm": True}
    assert answer("json", b'{"score": 1.5, "alarm": false}') == {"score": 1.5, "alarm": False}
    for kind in ("sparkplug", "json", "uns"):
        assert answer(kind, b"\xff\x00nonsense") == {}
    assert answer("json", b"[1, 2]") == {}


async def test_only_predictions_on_the_sites_topics_are_counted(
    mosquitto: Address, until: Until
) -> None:
    address = BrokerAddress(mosquitto.host, mosquitto.port, tls=False, version=5)
    async with Answers(address, DEVICES) as answers, Client(*mosquitto) as agent:
        for site in SITES:
            topic = answer_topic(site, DEVICES[site.name])
            for alarm in (False, True, True):
                body = msgspec.json.encode({"score": 1.0, "alarm": alarm})
                raw = sparkplug(alarm=alarm) if site.kind == "sparkplug" else body
                await agent.publish(topic, raw, qos=1)
            await agent.publish(topic, b"{}", qos=1)
            await agent.publish(f"{topic}-of-another", b'{"score": 1}', qos=1)
        await until(lambda: all(one.predictions == 3 for one in answers.reports()))
        assert [(one.site, one.kind, one.alarms) for one in answers.reports()] == [
            (site.name, site.kind, 2) for site in SITES
        ]
