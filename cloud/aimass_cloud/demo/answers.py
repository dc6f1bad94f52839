"""What comes back to the plants: the agents' predictions on the factory's broker, site by site.

A listener of the plant's own, as a dashboard of the factory would be: it knows topics and payloads
and nothing of aimass inside.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

import msgspec
from aiomqtt import MqttError

from aimass_cloud.demo.plant import client_of
from aimass_cloud.demo.report import PlantReport
from aimass_cloud.demo.sites import SITES, Site
from aimass_shared.errors import RequestError
from aimass_shared.messages import BrokerAddress
from aimass_shared.sparkplug.payload import decode

MAX_BYTES = 1 << 16
AGENTS_DEVICE = "ai"


class Answers:
    """Counts predictions by site while its `async with` block lasts."""

    def __init__(self, broker: BrokerAddress, devices: Mapping[str, str]) -> None:
        self._client = client_of(broker, "plant-dashboard")
        self._topics = {answer_topic(site, devices[site.name]): site for site in SITES}
        self._found = {site.name: [0, 0] for site in SITES}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect and listen."""
        await self._client.__aenter__()
        for topic in self._topics:
            await self._client.subscribe(topic)
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, MqttError):
                await self._task
        with suppress(MqttError):
            await self._client.__aexit__(None, None, None)

    def reports(self) -> list[PlantReport]:
        """What each plant has heard so far."""
        return [PlantReport(site.name, site.kind, *self._found[site.name]) for site in SITES]

    async def _listen(self) -> None:
        async for message in self._client.messages:
            site = self._topics.get(str(message.topic))
            raw = message.payload if isinstance(message.payload, bytes) else b""
            values = answer(site.kind, raw) if site else {}
            if site and "score" in values:
                self._found[site.name][0] += 1
                self._found[site.name][1] += bool(values.get("alarm"))


def answer_topic(site: Site, device: str) -> str:
    """Where the predictions of a site's agent come back."""
    if site.kind == "sparkplug":
        return f"spBv1.0/{site.group}/DDATA/aimass-{device}/{AGENTS_DEVICE}"
    return site.answers


def answer(kind: str, raw: bytes) -> dict[str, Any]:
    """A prediction's values by name; nothing where the payload cannot be read."""
    try:
        if kind == "sparkplug":
            return {str(metric.name): metric.value for metric in decode(raw, MAX_BYTES).metrics}
        return dict(msgspec.json.decode(raw))
    except (RequestError, msgspec.DecodeError, TypeError, ValueError):
        return {}
