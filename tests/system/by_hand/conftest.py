"""A coordinator, a factory's broker and devices, all started by hand: as a plant engineer types it.

One coordinator and one model for all tests (training and slicing take most of the time); each test
enrols a device of its own, with a hand-written file for its site.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from aimass_cloud.recipes.tep import PLANT
from aimass_shared.messages import Prediction

DEADLINE_S = 60.0
COMMAND_S = 200.0
WINDOW, STEP_MS = PLANT.window, PLANT.step_ms
MAX_PAYLOAD, MAX_BODY = 64 << 10, 256 << 10
MODEL = "tep-monitor"
MIB = 1024  # KiB, as /proc tells them
Rows = Sequence[Sequence[float]]
Json = dict[str, Any]
FreePort = Callable[[], int]


def poll(holds: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> Any:  # noqa: ANN401  what it found
    """What `holds` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.05)
    pytest.fail(f"{what} did not come within {seconds:.0f} s")


class Process:
    """A process with a log of its own."""

    def __init__(self, log: Path, *command: object) -> None:
        self._command = [str(word) for word in command]
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            environ = {**os.environ, "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environ)

    @property
    def pid(self) -> int:
        assert self._process
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        return self._process.pid

    def end(self, number: int = signal.SIGKILL) -> int:
        assert self._process
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(DEADLINE_S)

    def rss_mib(self) -> tuple[float, float]:
        """Resident memory, and what of it is its own and not mapped from files."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        table = dict(line.split(":", 1) for line in lines)
        return tuple(int(table[name].split()[0]) / MIB for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]  # two


def typed(program: str, *words: object, code: int = 0) -> str:
    """Run a command as the README shows it; its standard output."""
    line = [sys.executable, "-m", program, *map(str, words)]
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Cloud:
    """`aimass serve`, and the commands that speak to it."""

    def __init__(self, root: Path, port: int) -> None:
        self.data = root / "cloud"
        self.url = f"http://127.0.0.1:{port}"
        serve = ("serve", "--data-dir", self.data, "--port", port)
        self.process = Process(root / "cloud.log", sys.executable, "-m", "aimass_cloud", *serve)
        self.model = ""

    def until_ready(self) -> None:
        poll(self._ready, "the coordinator")

    def _ready(self) -> bool:
        assert self.process.pid
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).is_success
        except httpx.TransportError:
            return False

    def command(self, *words: object, code: int = 0) -> Json:
        options = ("--data-dir", self.data, "--url", self.url, "--json")
        return dict(json.loads(typed("aimass_cloud", *words, *options, code=code)))

    def release(self) -> str:
        return str(self.command("release", "create", self.model)["id"])

    def get(self, path: str) -> Json:
        key = (self.data / "admin.key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.get(f"{self.url}/api/v1{path}", headers=headers, timeout=30)
        return dict(answer.raise_for_status().json())

    def predictions(self, device: str) -> list[Prediction]:
        """All that are stored, oldest first."""
        found: list[Prediction] = []
        after: str | None = ""
        while after is not None:
            page = self.get(f"/devices/{device}/predictions?after={after}")
            found += msgspec.convert(page["items"], list[Prediction])
            after = page["next"]
        return found


class Ground(NamedTuple):
    """What all tests share."""

    cloud: Cloud
    release: str
    broker: Process
    broker_port: int


def free() -> int:
    """A port for all tests; the fixture `free_port` belongs to single ones."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """A coordinator with a release, made by its commands, and the factory's own broker."""
    root = tmp_path_factory.mktemp("byhand")
    cloud, port = Cloud(root, free()), free()
    config = root / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    broker = Process(root / "mosquitto.log", "/usr/sbin/mosquitto", "-c", config)
    try:
        cloud.until_ready()
        cloud.model = str(cloud.command("train", "--seed", 1)["model"])
        cloud.command("slice", cloud.model)
        yield Ground(cloud, cloud.release(), broker, port)
    finally:
        broker.end()
        cloud.process.end(signal.SIGTERM)


SITE = """\
heartbeat_s = 0.5

[source]
kind = "{kind}"
url = "mqtt://127.0.0.1:{broker}"
step_ms = {step}
sensors = {sensors}
topic = "plant/{{line}}/telemetry-{name}"
publish_topic = "plant/answers/{name}"
group = "acme"
node = "{name}"
device = "reactor"
max_payload_bytes = {most}

[api]
port = {api}
max_body_bytes = {body}

[update]
trial_predictions = 5
"""


class Site:
    """A device, its file, its agent, and a client on the plant's broker."""

    poll = staticmethod(poll)

    def __init__(self, ground: Ground, folder: Path, port: int, kind: str = "json") -> None:
        self.cloud, self.name = ground.cloud, folder.name.replace("_", "-")[-30:]
        self.data, self.config = folder / "edge", folder / "site.toml"
        self.api = f"http://127.0.0.1:{port}"
        self.config.write_text(
            SITE.format(
                kind=kind,
                broker=ground.broker_port,
                step=STEP_MS,
                sensors=json.dumps(PLANT.load().names),
                name=self.name,
                most=MAX_PAYLOAD,
                api=port,
                body=MAX_BODY,
            )
        )
        token = self.cloud.command("device", "token", "--site", "press")["token"]
        enrolled = self.command("enroll", "--cloud", self.cloud.url, "--token", token)
        self.device = str(enrolled["device"])
        self._run = ("-m", "aimass_edge", "run", *self._options)
        self.agent = Process(folder / "agent.log", sys.executable, *self._run)
        self.heard: list[Json] = []
        self._start_ms = int(time.time() * 1000) // STEP_MS * STEP_MS - 500 * STEP_MS
        self._sent = 0
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._hear
        self._client.on_connect = self._listen
        self._client.connect("127.0.0.1", ground.broker_port)
        self._client.loop_start()
        self.until(lambda one: one["cloud_connected"] and one["plant_connected"], "the links")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self.agent.end()

    def _listen(self, client: Client, *_: object) -> None:
        client.subscribe(f"plant/answers/{self.name}", 1)

    def _hear(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self.heard.append(json.loads(message.payload))

    @property
    def _options(self) -> tuple[str, ...]:
        files = ("--config", str(self.config), "--data-dir", str(self.data))
        return ("--profile", "x86-gateway", *files)

    def command(self, *words: object, code: int = 0) -> Json:
        out = typed("aimass_edge", *words, *self._options, "--json", code=code)
        return dict(json.loads(out))

    def status(self) -> Json | None:
        assert self.agent.pid
        try:
            return dict(httpx.get(f"{self.api}/status", timeout=5).raise_for_status().json())
        except httpx.TransportError:
            return None

    def until(self, holds: Callable[[Json], Any], what: str) -> Json:
        """The first status for which something holds."""

        def found() -> Json | None:
            status = self.status()
            return status if status and holds(status) else None

        return dict(poll(found, what))

    def roll_out(self, release: str, *, code: int = 0) -> Json:
        """`aimass rollout start`; how this device took it."""
        words = ("rollout", "start", release, "--device", self.device)
        done = self.cloud.command(*words, code=code)
        return dict(done["devices"][0])

    def say(self, payload: bytes, topic: str = "") -> None:
        poll(self._client.is_connected, "the plant's own connection")
        sent = self._client.publish(topic or f"plant/line-1/telemetry-{self.name}", payload, 1)
        sent.wait_for_publish(DEADLINE_S)

    def send(self, rows: Rows) -> None:
        """The next rows of the plant."""
        for values in rows:
            self.say(json.dumps(self.row(values)).encode())

    def row(self, values: Sequence[float]) -> Json:
        time_ms = self.time_ms(self._sent)
        self._sent += 1
        return {"timestamp_ms": time_ms, **dict(zip(PLANT.load().names, values, strict=True))}

    def time_ms(self, row: int) -> int:
        return self._start_ms + row * STEP_MS

    def ends(self, first: int, after: int) -> list[int]:
        """Times of the rows of a range."""
        return [self.time_ms(row) for row in range(first, after)]

    def stored(self, count: int) -> list[int]:
        """Ends of the windows in the cloud, when there are so many."""

        def found() -> list[int] | None:
            ends = [one.window_end for one in self.cloud.predictions(self.device)]
            return ends if len(ends) >= count else None

        return list(poll(found, f"{count} predictions in the cloud"))

    def kept(self) -> list[int]:
        """Ends of the windows that are in the outbox on the device's disk."""
        with sqlite3.connect(f"file:{self.data}/outbox.db?mode=ro", uri=True) as db:
            bodies = [body for (body,) in db.execute("select body from outbox order by id")]
        return [msgspec.json.decode(body, type=Prediction).window_end for body in bodies]

    def infer(self, body: Json | bytes) -> httpx.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(f"{self.api}/v2/models/{MODEL}/infer", content=raw, timeout=30)


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(ground: Ground, tmp_path: Path, free_port: FreePort) -> Iterator[MakeSite]:
    sites: list[Site] = []

    def make(kind: str = "json", *, release: str = "") -> Site:
        folder = tmp_path / f"{tmp_path.name}{len(sites)}"
        folder.mkdir()
        site = Site(ground, folder, free_port(), kind)
        sites.append(site)
        if release:
            taken = site.roll_out(release)
            assert taken["state"] == "applied", taken
        return site

    yield make
    for site in sites:
        site.close()
