"""Replays stretches of a scenario at all sites at once, as fast as the agents take the rows.

A plant does not wait for anybody; the demo does, so that a slow machine sees the same rows as a
fast one: it stays a bounded number of rows ahead of what each agent says it has taken.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import msgspec

from aimass_cloud.demo.plant import Plant
from aimass_cloud.demo.scenario import Stretch
from aimass_cloud.demo.together import together
from aimass_shared.errors import DeadlineExceededError

AHEAD_ROWS = 24
POLL_S = 0.05
STALL_S = 30.0

Told = Callable[[int], None]


class AgentView:
    """What an agent's own endpoint says of it (`GET /status`)."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._client = client

    async def status(self) -> dict[str, Any]:
        """The status document."""
        answer = await self._client.get(f"{self.url}/status")
        return dict(msgspec.json.decode(answer.raise_for_status().content))

    async def rows(self) -> int:
        """Rows of telemetry taken so far."""
        return int((await self.status())["stats"]["rows"])

    async def predicted(self) -> int:
        """Windows of telemetry predicted so far."""
        return int((await self.status())["serving"]["counts"]["predicted"])


class Replay:
    """Plants and agents of all sites, by the site's name."""

    def __init__(self, plants: Mapping[str, Plant], agents: Mapping[str, AgentView]) -> None:
        self._plants = plants
        self._agents = agents

    async def run(self, stretches: Mapping[str, Sequence[Stretch]], told: Told) -> int:
        """Send every site its stretches; returns how many rows were sent in all.

        Args:
            stretches: by site.
            told: hears of every row that was sent.

        Raises:
            DeadlineExceededError: an agent took no row for `STALL_S` seconds.
        """
        tasks = [self._site(name, parts, told) for name, parts in stretches.items()]
        return sum(await together(tasks))

    async def _site(self, name: str, stretches: Sequence[Stretch], told: Told) -> int:
        plant, agent = self._plants[name], self._agents[name]
        before = await agent.rows()
        sent = 0
        for stretch in stretches:
            for row, values in enumerate(stretch.rows.tolist()):
                await plant.send(stretch.time_ms(row), values)
                sent += 1
                told(1)
                if sent % (AHEAD_ROWS // 2) == 0:
                    await _caught_up(agent, before + sent - AHEAD_ROWS)
        await _caught_up(agent, before + sent)
        return sent


async def _caught_up(agent: AgentView, rows: int) -> None:
    """Wait until an agent has taken so many rows."""
    loop = asyncio.get_running_loop()
    seen, since = await agent.rows(), loop.time()
    while seen < rows:
        await asyncio.sleep(POLL_S)
        now = await agent.rows()
        if now > seen:
            seen, since = now, loop.time()
        elif loop.time() - since > STALL_S:
            raise DeadlineExceededError(
                f"the agent at {agent.url} took {seen} of {rows} rows and no more for {STALL_S} s"
            )
