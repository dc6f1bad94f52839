"""`aimass-edge run` as a process, without a coordinator: it starts, answers, and ends in order."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import httpx
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client.parser import text_string_to_metric_families

from aimass_shared import topics
from aimass_shared.messages import DeviceState, decode

DEADLINE_S = 30.0
HEAVY = ("torch", "flwr", "litestar", "sqlalchemy", "onnx")
Enrol = Callable[..., Path]


class Address(NamedTuple):
    host: str
    port: int


class Agent:
    """A process, and what it says of itself."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    def status(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/status", timeout=5).raise_for_status().json())

    def wait(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status for which something holds."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log()
            try:
                status = self.status()
            except httpx.TransportError:
                status = {}
            if status and holds(status):
                return status
            time.sleep(0.05)
        pytest.fail(f"not within {DEADLINE_S} s; the log:\n{self.log()}")

    def log(self) -> str:
        return self._log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


Start = Callable[..., Agent]


def command(data: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "aimass_edge", "run", "--data-dir", str(data), *options]


@pytest.fixture
def environ(free_port: Callable[[], int]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "AIMASS_EDGE_API__PORT": str(free_port())}


@pytest.fixture
def start(environ: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    agents: list[Agent] = []
    logs: list[IO[str]] = []

    def run(data: Path, *options: str, **settings: str) -> Agent:
        path = tmp_path / f"agent-{len(agents)}.log"
        logs.append(path.open("w"))
        process = subprocess.Popen(
            command(data, *options), stderr=logs[-1], env={**environ, **settings}, text=True
        )
        agents.append(Agent(process, int(environ["AIMASS_EDGE_API__PORT"]), path))
        return agents[-1]

    yield run
    for agent in agents:
        if agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait(DEADLINE_S)
    for log in logs:
        log.close()


def refused(data: Path, environ: dict[str, str], *options: str) -> str:
    """The one line that a start ends with."""
    done = subprocess.run(
        command(data, *options),
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    return last


def test_it_runs_alone_with_every_link_away(enrol: Enrol, start: Start) -> None:
    data = enrol()
    source = {
        "AIMASS_EDGE_SOURCE__KIND": "json",
        "AIMASS_EDGE_SOURCE__URL": "mqtt://127.0.0.1:9",
        "AIMASS_EDGE_SOURCE__TOPIC": "plant/t",
        "AIMASS_EDGE_SOURCE__SENSORS": '["a"]',
    }
    agent = start(data, **source)
    status = agent.wait(lambda one: bool(one["device"]))
    assert (status["cloud_connected"], status["plant_connected"]) == (False, False)
    answer = httpx.get(f"{agent.url}/v2/health/ready")
    assert answer.status_code == 503, "there is no model yet"
    body = {"inputs": [{"name": "values", "shape": [1], "datatype": "FP32", "data": [1]}]}
    answer = httpx.post(f"{agent.url}/v2/models/any/infer", json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "no-active-model")
    scraped = httpx.get(f"{agent.url}/metrics")
    assert scraped.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {one.name: one for one in text_string_to_metric_families(scraped.text)}
    assert families["aimass_edge_info"].samples[0].labels["device"] == "press-1"
    assert families["aimass_edge_ready"].samples[0].value == 0
    connected = families["aimass_edge_broker_connected"].samples
    assert {one.labels["broker"]: one.value for one in connected} == {"fleet": 0, "plant": 0}
    outcomes = {
        one.labels["outcome"]: one.value for one in families["aimass_edge_requests"].samples
    }
    assert (outcomes["refused"], sum(outcomes.values())) == (1, 1)
    assert agent.end() == 0
    assert "Traceback" not in agent.log()


def test_it_says_when_it_comes_and_goes(enrol: Enrol, start: Start, mosquitto: Address) -> None:
    told: list[DeviceState] = []

    def hear(_client: Client, _data: object, message: MQTTMessage) -> None:
        told.append(decode(bytes(message.payload), DeviceState))

    listener = Client(CallbackAPIVersion.VERSION2)
    listener.on_message = hear
    listener.connect(*mosquitto)
    listener.subscribe(topics.state("press-1"), 1)
    listener.loop_start()
    try:
        agent = start(enrol(broker_port=mosquitto.port), AIMASS_EDGE_HEARTBEAT_S="0.2")
        status = agent.wait(lambda one: bool(one["cloud_connected"]))
        assert status["reported"]["state"] == "idle"
        assert status["backend"] == {"provider": "CPUExecutionProvider", "passed": {}}
        wait_for(lambda: len(told) >= 2)
        assert agent.end() == 0
        wait_for(lambda: not told[-1].online)
        again = start(agent_data(enrol, mosquitto))
        wait_for(lambda: told[-1].online)
        again.process.kill()
        wait_for(lambda: not told[-1].online)
    finally:
        listener.disconnect()
        listener.loop_stop()
    assert {state.session for state in told[:2]} == {told[0].session}
    assert told[0].stats.rss_mib > 10


def test_a_service_manager_hears_when_it_is_ready_that_it_works_and_that_it_stops(
    enrol: Enrol, start: Start
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(f"{folder}/n")
        manager.settimeout(DEADLINE_S)
        agent = start(enrol(), NOTIFY_SOCKET=f"{folder}/n", WATCHDOG_USEC="300000")
        heard = [manager.recv(4096).decode() for _ in range(4)]
        assert heard == ["READY=1\nSTATUS=device press-1", *3 * ["WATCHDOG=1"]]
        agent.process.send_signal(signal.SIGTERM)
        while (last := manager.recv(4096)) == b"WATCHDOG=1":
            pass
        assert last == b"STOPPING=1"
        assert agent.process.wait(DEADLINE_S) == 0


def agent_data(enrol: Enrol, mosquitto: Address) -> Path:
    return enrol("second", broker_port=mosquitto.port)


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_second_agent_of_the_same_device_is_refused(
    enrol: Enrol, start: Start, environ: dict[str, str]
) -> None:
    """It would take the first one's connection, and write into its files."""
    data = enrol()
    first = start(data)
    first.wait(lambda one: bool(one["device"]))
    line = refused(data, {**environ, "AIMASS_EDGE_API__PORT": "0"})
    assert line.startswith(f"aimass-edge: another agent works in {data}")
    assert line.endswith("[conflict]")
    first.process.kill()
    first.process.wait(DEADLINE_S)
    second = start(data)
    second.wait(lambda one: bool(one["device"]))
    assert second.end(signal.SIGINT) == 0


def test_a_port_that_is_taken_is_one_line(enrol: Enrol, environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(enrol(), {**environ, "AIMASS_EDGE_API__PORT": str(port)})
    assert f"cannot listen on 127.0.0.1:{port}" in line
    assert line.endswith("[port-in-use]")


@pytest.mark.parametrize(
    "source",
    [
        {"KIND": "json", "URL": "amqp://broker", "TOPIC": "t", "SENSORS": '["a"]'},
        {"KIND": "json", "URL": "mqtt://broker:no", "TOPIC": "t", "SENSORS": '["a"]'},
        {"KIND": "json", "SENSORS": '["a"]'},
        {"KIND": "json", "TOPIC": "t"},
        {"KIND": "sparkplug", "SENSORS": '["a"]'},
        {"KIND": "json", "TOPIC": "t", "SENSORS": '["a"]', "PASSWORD_FILE": "/nowhere"},
    ],
)
def test_a_source_that_does_not_fit_is_one_line(
    enrol: Enrol, environ: dict[str, str], source: dict[str, str]
) -> None:
    settings = {f"AIMASS_EDGE_SOURCE__{name}": value for name, value in source.items()}
    assert refused(enrol(), {**environ, **settings}).endswith("[invalid-setting]")


def test_a_monitor_of_the_site_from_too_few_rows_is_one_line(
    enrol: Enrol, environ: dict[str, str]
) -> None:
    line = refused(enrol(), {**environ, "AIMASS_EDGE_MONITOR__SITE_ROWS": "100"})
    assert "monitor.site_rows is 100" in line
    assert line.endswith("[invalid-setting]")


def test_status_of_a_running_agent_as_lines_and_as_json(
    enrol: Enrol, start: Start, environ: dict[str, str]
) -> None:
    start(enrol()).wait(lambda one: bool(one["device"]))
    line = [sys.executable, "-m", "aimass_edge", "status"]
    text = subprocess.run(line, env=environ, capture_output=True, text=True, check=True)
    lines = dict(one.split(": ", 1) for one in text.stdout.splitlines())
    assert (lines["device"], lines["serving.ready"]) == ("press-1", "false")
    assert lines["telemetry.messages"] == "0"
    assert text.stderr == "", "nothing but the answer"
    both = subprocess.run(
        [*line, "--json"], env=environ, capture_output=True, text=True, check=True
    )
    assert json.loads(both.stdout)["reported"]["state"] == "idle"


def test_the_agent_loads_nothing_heavy(enrol: Enrol, start: Start) -> None:
    """Neither modules nor shared objects; figures of its memory are in the test of the system."""
    agent = start(enrol(), PYTHONPROFILEIMPORTTIME="1")
    agent.wait(lambda one: bool(one["device"]))
    maps = Path(f"/proc/{agent.process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert agent.end() == 0
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in agent.log().splitlines()}
    assert {"onnxruntime", "paho", "aimass_edge"} <= imported
    for name in HEAVY:
        assert name not in imported
        assert f"/{name}/" not in maps
