"""`aimass serve` as a process, and every admin command as a process against it."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aimass_cloud.admin import Admin, ApiError
from aimass_cloud.app.coordinator import running
from aimass_cloud.config import CloudSettings, MqttSettings
from aimass_cloud.registry import NewModel
from aimass_edge.enroll import enroll
from aimass_shared.errors import CloudUnavailableError
from aimass_shared.manifest import AlarmRule, Contract, Sensor, SliceArtifact, TensorSpec
from aimass_shared.messages import Inventory
from aimass_shared.slices import Board, SliceCost, SliceSpec

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

Until = Callable[..., Awaitable[None]]
PortChooser = Callable[[], int]
START_S = 30.0
STOP_S = 8.0
INVENTORY = Inventory(Board("raspberry-pi-5", 512.0, 3.0, 50.0), "aarch64", "3.11", "0.1", "ort")
TENSORS = tuple(TensorSpec(name, "FP32", (-1, 2, 1)) for name in ("values", "mask", "forecast"))
CONTRACT = Contract(
    model="tiny",
    sensors=(Sensor("A", "K", "continuous"),),
    step_ms=1000,
    window=2,
    horizon=2,
    inputs=TENSORS[:2],
    outputs=TENSORS[2:],
    alarm=AlarmRule("forecast", 1.0, "forecast"),
)


class Served(NamedTuple):
    """A coordinator that runs, and how to reach it."""

    process: "subprocess.Popen[bytes]"
    data: Path
    url: str
    log: Path

    @property
    def key(self) -> str:
        return (self.data / "admin.key").read_text().strip()

    def children(self) -> list[int]:
        lists = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(child) for text in lists for child in text.read_text().split()]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_S)


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


def _environment(**more: str) -> dict[str, str]:
    ours = {name: text for name, text in os.environ.items() if not name.startswith("AIMASS_")}
    return ours | {"OMP_NUM_THREADS": "1"} | more


def _aimass(*words: str, **more: str) -> Ended:
    """Run one command to its end."""
    result = subprocess.run(
        [sys.executable, "-m", "aimass_cloud", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=_environment(**more),
    )
    return Ended(result.returncode, result.stdout, result.stderr)


@contextmanager
def _serving(data: Path, *words: str, **more: str) -> Iterator[Served]:
    """A coordinator on a free port, from the line in which it says so; never left behind."""
    log = data.parent / f"{data.name}.log"
    command = [sys.executable, "-m", "aimass_cloud", "serve", "--data-dir", str(data)]
    command += [*words] if "--port" in words else ["--port", "0", *words]
    start = log.stat().st_size if log.exists() else 0
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=_environment(**more))
    try:
        end = time.monotonic() + START_S
        while not (
            found := re.search(r"^aimass .* on (http\S+)$", _tail(log, start), re.MULTILINE)
        ):
            assert process.poll() is None, _tail(log, start)
            assert time.monotonic() < end, _tail(log, start)
            time.sleep(0.05)
        yield Served(process, data, found[1], log)
    finally:
        process.kill()
        process.wait(10)


def _tail(log: Path, start: int) -> str:
    return log.read_bytes()[start:].decode()


def _alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _one_line(ended: Ended, code: str) -> str:
    """What a command that failed said: one line, with a code."""
    assert ended.code == 1, ended
    assert ended.out == ""
    assert ended.err.startswith("aimass: ")
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.endswith(f" [{code}]\n"), ended.err
    return ended.err


# One coordinator with two releases and a device, shared by all tests that leave it as it is.


def _slice(folder: Path, factor: float) -> SliceArtifact:
    """The full slice of a model: forecast = values * mask * factor."""
    _write_model(folder, factor)
    (folder / "selftest.npz").write_bytes(b"of no use here")
    return SliceArtifact(
        spec=SliceSpec(1.0, "fp32"),
        cost=SliceCost(100, 20, 1.0, 0.5),
        files=(
            ("model", str(folder / "model.onnx")),
            ("selftest", str(folder / "selftest.npz")),
        ),
        tolerance=0.01,
    )


def _write_model(folder: Path, factor: float) -> None:
    shape: list[str | int | None] = ["batch", 2, 1]
    infos = [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, shape) for t in TENSORS]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["values", "mask"], ["known"]),
            helper.make_node("Mul", ["known", "factor"], ["forecast"]),
        ],
        "tiny",
        infos[:2],
        infos[2:],
        [numpy_helper.from_array(np.array(factor, np.float32), "factor")],
    )
    opset = [helper.make_opsetid("", 17)]
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")


def _spoil(artifact: SliceArtifact) -> None:
    Path(artifact.files[0][1]).write_bytes(b"no model at all")


async def _fill(data: Path, folder: Path) -> None:
    """A model with slices, a good release of it, and a newer one whose file is no model."""
    settings = CloudSettings(data_dir=str(data), mqtt=MqttSettings(url="mqtt://127.0.0.1:1"))
    artifact = _slice(folder / "slice", 3.0)
    (folder / "model").mkdir()
    async with running(settings) as parts:
        new = NewModel("tiny", "tep", 7, {"val_mse": 0.5}, str(folder / "model"))
        row = await parts.registry.add_model(new)
        await parts.registry.save_slices(row.id, CONTRACT, [artifact])
        await parts.registry.release_slices(row.id, "stable")
        _spoil(artifact)
        await parts.registry.release_slices(row.id, "stable")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("coordinator")
    asyncio.run(_fill(folder / "cloud", folder))
    with _serving(folder / "cloud") as one:
        yield one


@pytest.fixture(scope="module")
def ids(served: Served) -> dict[str, str]:
    """Names of what is there, by what they are of."""

    async def look() -> dict[str, str]:
        async with Admin.connect(served.url, served.key) as admin:
            token = await admin.join_token("north")
            device = await enroll(
                cloud_url=served.url,
                token=token,
                data_dir=served.data.parent / "edge",
                inventory=INVENTORY,
            )
            model = (await admin.call("GET", "/api/v1/models"))[0]["id"]
            bad, good = await admin.call("GET", "/api/v1/releases")
            rollout = await admin.rollout(good["id"])
            return {
                "MODEL": model,
                "RELEASE": good["id"],
                "BAD": bad["id"],
                "DEVICE": device.device,
                "ROLLOUT": rollout["id"],
            }

    return asyncio.run(look())


def _command(served: Served, *words: str, **more: str) -> Ended:
    return _aimass(*words, "--url", served.url, "--data-dir", str(served.data), **more)


def test_it_is_ready_and_its_key_is_private(served: Served) -> None:
    answer = httpx.get(f"{served.url}/health/ready")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "broker": True})
    assert served.url.startswith("http://127.0.0.1:")
    assert (served.data / "admin.key").stat().st_mode & 0o777 == 0o600
    for path in (*(served.data / "keys").iterdir(), served.data / "ca" / "ca.key"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert served.key not in served.log.read_text()


def test_after_a_start_the_newest_release_that_loads_is_served(
    served: Served, ids: dict[str, str]
) -> None:
    headers = {"authorization": f"Bearer {served.key}"}
    data = {"shape": [1, 2, 1], "datatype": "FP32", "data": [1.0, 2.0]}
    body = {"inputs": [data | {"name": "values"}, data | {"name": "mask"}]}
    answer = httpx.post(f"{served.url}/v2/models/tiny/infer", json=body, headers=headers).json()
    assert answer["model_version"] == ids["RELEASE"]
    assert answer["outputs"][0]["data"] == [3.0, 12.0]
    assert f"release {ids['BAD']} is not served" in served.log.read_text()


READING = (
    ("model list", "MODEL"),
    ("model show MODEL", "val_mse"),
    ("release list", "RELEASE"),
    ("release show RELEASE", "w1.00-fp32"),
    ("rollout list", "ROLLOUT"),
    ("rollout show ROLLOUT", "DEVICE"),
    ("device list", "DEVICE"),
    ("device show DEVICE", "raspberry-pi-5"),
    ("round list", ""),
    ("round list --run nothing", ""),
    ("key list", "admin"),
)
WRITING = (
    ("device token --site north --minutes 5", "aimass-join."),
    ("release create MODEL --channel beta", "beta"),
    ("rollout start RELEASE --wait 0.2", "DEVICE"),
    ("rollout start RELEASE --device DEVICE --wait 0.2", "DEVICE"),
)


def _words(line: str, ids: dict[str, str]) -> list[str]:
    return [ids.get(word, word) for word in line.split()]


@pytest.mark.parametrize(("line", "shown"), [*READING, *WRITING], ids=str)
def test_a_command_prints_a_table_or_json(
    served: Served, ids: dict[str, str], line: str, shown: str
) -> None:
    words, wanted = _words(line, ids), ids.get(shown, shown)
    plain, machine = _command(served, *words), _command(served, *words, "--json")
    assert (plain.code, plain.err) == (0, "")
    assert (machine.code, machine.err) == (0, "")
    assert wanted in plain.out
    assert plain.out.strip()
    assert wanted in json.dumps(json.loads(machine.out))


def test_a_key_lives_from_create_to_revoke(served: Served) -> None:
    create = ("key", "create", "eyes", "--scope", "model:read", "--scope", "round:read", "--json")
    made = json.loads(_command(served, *create).out)
    plain = _command(served, "key", "create", "ears", "--scope", "model:read")
    assert re.search(r"^key +aimass_[0-9a-f]{12}_[\w-]{43}$", plain.out, re.MULTILINE)
    assert _command(served, "model", "list", AIMASS_KEY=made["key"]).code == 0
    weak = _aimass("device", "list", AIMASS_KEY=made["key"], AIMASS_URL=served.url)
    assert "'fleet:read'" in _one_line(weak, "forbidden")
    _one_line(_command(served, *create), "conflict")
    assert _command(served, "key", "revoke", made["id"]).out == "done\n"
    late = _aimass("model", "list", "--key", made["key"], "--url", served.url)
    assert made["key"] not in _one_line(late, "unauthenticated")
    assert made["key"] not in _command(served, "key", "list", "--json").out


def test_a_device_is_revoked(served: Served, ids: dict[str, str]) -> None:
    assert ids["DEVICE"].startswith("north-")
    token = _command(served, "device", "token", "--site", "south").out.strip()

    async def join() -> str:
        identity = await enroll(
            cloud_url=served.url,
            token=token,
            data_dir=served.data.parent / "south",
            inventory=INVENTORY,
        )
        return identity.device

    device = asyncio.run(join())
    assert json.loads(_command(served, "device", "show", device, "--json").out)["revoked"] is False
    assert json.loads(_command(served, "device", "revoke", device, "--json").out) == {}
    assert json.loads(_command(served, "device", "show", device, "--json").out)["revoked"] is True


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("model show nothing", "not-found"),
        ("release show nothing", "not-found"),
        ("release create nothing", "not-found"),
        ("rollout show ../keys", "not-found"),
        ("rollout start nothing", "not-found"),
        ("rollout start RELEASE --device nothing", "not-found"),
        ("device show ..", "not-found"),
        ("device revoke nothing", "not-found"),
        ("key revoke nothing", "not-found"),
        ("key create x --scope fly", "malformed-message"),
        ("device token --site a/b", "malformed-message"),
        ("device token --site a --minutes 0", "malformed-message"),
        ("slice nothing", "not-found"),
        ("train bread", "not-found"),
        ("train --base nothing", "not-found"),
        ("train --seed -1", "request"),
        ("round statistics --deadline 2", "no-clients"),
        ("round train --model nothing", "not-found"),
        ("round train --model nothing --rounds 0", "request"),
        ("model list --key aimass_wrong", "unauthenticated"),
    ],
)
def test_what_fails_is_one_line_with_a_code(
    served: Served, ids: dict[str, str], line: str, code: str
) -> None:
    _one_line(_command(served, *_words(line, ids)), code)
    assert httpx.get(f"{served.url}/health/ready").status_code == 200


def test_a_second_coordinator_is_refused_and_the_first_goes_on(served: Served) -> None:
    port = served.url.rpartition(":")[2]
    other = str(served.data.parent / "other")
    said = _one_line(_aimass("serve", "--data-dir", other, "--port", port), "port-in-use")
    assert f"127.0.0.1:{port}" in said
    assert not Path(other).exists(), "nothing was begun"
    same = _aimass("serve", "--data-dir", str(served.data), "--port", "0")
    assert str(served.data) in _one_line(same, "conflict")
    assert httpx.get(f"{served.url}/health/ready").status_code == 200


def test_wrong_settings_are_one_line(tmp_path: Path) -> None:
    config = tmp_path / "aimass.toml"
    line = ("serve", "--config", str(config), "--data-dir", str(tmp_path / "cloud"))
    config.write_text("[http]\nprot = 1\n")
    assert "did you mean `http.port`?" in _one_line(_aimass(*line), "unknown-setting")
    config.write_text("[http]\nport = 'x'\n")
    assert str(config) in _one_line(_aimass(*line), "invalid-setting")
    config.write_text("")
    variable = _aimass(*line, AIMASS_HTTP__PORT="x")
    assert "AIMASS_HTTP__PORT" in _one_line(variable, "invalid-setting")
    _one_line(_aimass(*line, "--port", "0", "--mqtt", "http://h"), "invalid-setting")
    _one_line(_aimass("serve", "--port", "0", "--data-dir", str(config)), "invalid-setting")
    away = _aimass(*line, "--port", "0", AIMASS_MQTT__HOST="192.0.2.1")
    assert "192.0.2.1" in _one_line(away, "invalid-setting")


async def test_after_a_kill_nothing_is_left_and_nothing_is_lost(
    tmp_path: Path, until: Until
) -> None:
    data = tmp_path / "cloud"
    with _serving(data) as first:
        key, port = first.key, (data / "broker" / "port").read_text()
        async with Admin.connect(first.url, key) as admin:
            made = await admin.call("POST", "/api/v1/keys", {"name": "k", "scopes": ["model:read"]})
            job = await admin.start("train", {})
            assert (await admin.call("GET", f"/api/v1/jobs/{job}"))["state"] == "running"
        children = first.children()
        assert children, "the broker is a child"
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        await until(lambda: not any(map(_alive, children)), 5)
    with _serving(data) as second:
        assert second.key == key
        assert (data / "broker" / "port").read_text() == port, "devices know it"
        async with Admin.connect(second.url, made["key"]) as admin:
            await until(admin.ready, 10)
            with pytest.raises(ApiError, match="start it again") as caught:
                await admin.wait(job)
            assert caught.value.code == "job-interrupted"
        children = second.children()
        assert second.stop() == 0
        await until(lambda: not any(map(_alive, children)), 5)


@contextmanager
def _mosquitto(port: int, folder: Path) -> Iterator[None]:
    binary = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert binary, "install mosquitto: apt-get install mosquitto"
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_type error\n")
    process = subprocess.Popen([binary, "-c", str(config)])
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


async def test_a_broker_of_others_may_come_and_go(
    tmp_path: Path, free_port: PortChooser, until: Until
) -> None:
    port = free_port()
    with _serving(tmp_path / "cloud", "--mqtt", f"mqtt://127.0.0.1:{port}") as one:
        assert one.children() == [], "no broker of its own"
        async with Admin.connect(one.url, one.key) as admin, httpx.AsyncClient() as http:
            waiting = await http.get(f"{one.url}/health/ready")
            assert waiting.status_code == 503
            assert waiting.json() == {"status": "waiting for the broker", "broker": False}
            assert await admin.devices() == []
            with _mosquitto(port, tmp_path):
                await until(admin.ready, 20)

            async def away() -> bool:
                return not await admin.ready()

            await until(away, 20)
            assert (await http.get(f"{one.url}/health/live")).status_code == 200
        assert one.stop() == 0


async def test_off_loopback_it_speaks_tls_and_its_ca_proves_it(
    tmp_path: Path, until: Until
) -> None:
    """And on the embedded broker."""
    data = tmp_path / "cloud"
    with _serving(data, "--host", "0.0.0.0", "--broker", "embedded") as one:  # noqa: S104  that is what is tried
        assert one.url.startswith("https://0.0.0.0:")
        assert "pure-Python broker" in one.log.read_text()
        port = one.url.rpartition(":")[2]
        ca = str(data / "tls" / "ca.pem")
        for host in ("127.0.0.1", "localhost"):
            async with Admin.connect(f"https://{host}:{port}", one.key, ca_file=ca) as admin:
                await until(admin.ready, 20)
        url = f"https://127.0.0.1:{port}"
        async with Admin.connect(url, one.key) as admin:
            with pytest.raises(CloudUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
                await admin.devices()
        async with Admin.connect(f"http://127.0.0.1:{port}", one.key) as admin:
            with pytest.raises(CloudUnavailableError):
                await admin.devices()
        ended = _aimass("device", "list", "--url", url, "--key", one.key, "--ca", ca, "--json")
        assert (ended.code, json.loads(ended.out)) == (0, [])
        assert one.stop() == 0


async def test_tls_can_be_asked_for_on_loopback(tmp_path: Path, until: Until) -> None:
    with _serving(tmp_path / "cloud", AIMASS_HTTP__TLS="on") as one:
        assert one.url.startswith("https://127.0.0.1:")
        ca = one.data / "tls" / "ca.pem"
        async with Admin.connect(one.url, one.key, ca_file=str(ca)) as admin:
            await until(admin.ready, 20)
            fetched: httpx.Response = await admin._client.get("/ca.pem")
        assert fetched.text.strip() == ca.read_text().strip()


async def test_an_interrupt_ends_it_even_while_somebody_is_connected(
    tmp_path: Path, until: Until
) -> None:
    with _serving(tmp_path / "cloud") as one:
        async with Admin.connect(one.url, one.key) as admin:
            await until(admin.ready, 20)
            children = one.children()
            assert one.stop(signal.SIGINT) == 0
        await until(lambda: not any(map(_alive, children)), 5)
        assert "Traceback" not in one.log.read_text()
