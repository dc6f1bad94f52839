"""Replaying no faster than agents take rows; the stage's ports and waiting."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from litestar import Litestar, get

from aimass_cloud.demo import replay, stage
from aimass_cloud.demo.processes import ChildFailedError, Process
from aimass_cloud.demo.replay import AHEAD_ROWS, AgentView, Replay
from aimass_cloud.demo.scenario import Stretch
from aimass_cloud.demo.sites import SITES
from aimass_cloud.demo.stage import PORTS, Stage, free_ports
from aimass_cloud.recipes import tep
from aimass_shared.errors import DeadlineExceededError, PortInUseError

Serve = Callable[[Litestar], Awaitable[str]]


class Agent:
    """A plant and an agent's endpoint in one, which takes one row more each time it is asked."""

    def __init__(self, most: int = 10**6) -> None:
        self.sent: list[tuple[int, list[float]]] = []
        self.taken = 100
        self.ahead = 0
        self._most = 100 + most

    async def send(self, time_ms: int, values: Sequence[float]) -> None:
        self.sent.append((time_ms, list(values)))
        self.ahead = max(self.ahead, 100 + len(self.sent) - self.taken)

    async def view(self, serve: Serve, client: httpx.AsyncClient) -> AgentView:
        @get("/status")
        async def status() -> dict[str, object]:
            self.taken = min(self.taken + 7, 100 + len(self.sent), self._most)
            return {"stats": {"rows": self.taken}, "serving": {"counts": {"predicted": 5}}}

        return AgentView(await serve(Litestar([status], logging_config=None)), client)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=10) as client:
        yield client


def _stretch(rows: int, start_ms: int) -> Stretch:
    return Stretch(np.arange(2 * rows, dtype=np.float32).reshape(rows, 2), start_ms, 1000)


async def test_every_row_is_sent_once_in_order_and_never_far_ahead(
    serve: Serve, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "POLL_S", 0.001)
    agents = {"a": Agent(), "b": Agent()}
    views = {name: await agent.view(serve, client) for name, agent in agents.items()}
    told: list[int] = []
    parts = [_stretch(60, 0), _stretch(5, 900_000)]
    sent = await Replay(agents, views).run({"a": parts, "b": parts[:1]}, told.append)
    assert sent == sum(told) == 125
    times = [time for time, _values in agents["a"].sent]
    assert times == [*range(0, 60_000, 1000), *range(900_000, 905_000, 1000)]
    assert [values for _time, values in agents["b"].sent] == parts[0].rows.tolist()
    for agent, rows in ((agents["a"], 65), (agents["b"], 60)):
        assert agent.taken == 100 + rows, "it waits until all is taken"
        assert agent.ahead <= AHEAD_ROWS + AHEAD_ROWS // 2
    assert await views["a"].predicted() == 5


async def test_an_agent_that_takes_no_more_is_an_error_that_ends_the_other_sites(
    serve: Serve, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "STALL_S", 0.2)
    monkeypatch.setattr(replay, "POLL_S", 0.01)
    agents = {"stuck": Agent(most=30), "slow": Agent()}
    views = {name: await agent.view(serve, client) for name, agent in agents.items()}
    parts = {"stuck": [_stretch(80, 0)], "slow": [_stretch(5000, 0)]}
    with pytest.raises(DeadlineExceededError, match=r"took 130 of \d+ rows"):
        await Replay(agents, views).run(parts, lambda _more: None)
    sent = len(agents["slow"].sent)
    await asyncio.sleep(0.1)
    assert len(agents["slow"].sent) == sent < 5000


def test_ports_are_different_free_and_not_those_of_outgoing_connections() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(port in PORTS for port in ports)
    assert max(PORTS) < 32768
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_port_that_somebody_listens_on_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(stage, "PORTS", range(port, port + 1))
        with pytest.raises(PortInUseError, match=f"no free ports on 127.0.0.1 from {port}"):
            free_ports(1)
    assert free_ports(1) == [port]


@pytest.fixture
async def built(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Stage(tmp_path, tep.PLANT, "auto") as built:
        yield built


async def test_until_waits_and_says_what_did_not_come(built: Stage) -> None:
    turns = iter([False, False, True])
    await built.until(lambda: next(turns), "the third turn")

    async def never() -> bool:
        return False

    with pytest.raises(DeadlineExceededError, match="the coordinator did not come within 0 s"):
        await built.until(never, "the coordinator", 0.2)


async def test_until_does_not_wait_for_a_process_that_ended(built: Stage, tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "echo no space left on device; exit 3"]
    async with Process("agent of north", command, tmp_path / "log", environ={}) as agent:
        built.agents["north"] = agent
        with pytest.raises(ChildFailedError, match=r"(?s)agent of north ended with 3.*no space"):
            await built.until(lambda: False, "devices online", 20)


def test_nothing_is_started_or_written_before_the_block(tmp_path: Path) -> None:
    made = Stage(tmp_path, tep.PLANT, "auto")
    assert list(tmp_path.iterdir()) == []
    assert set(made.agent_ports) == {site.name for site in SITES}
    assert len({made.api_port, *made.agent_ports.values()}) == 4
