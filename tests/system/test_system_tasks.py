"""The whole way of a model that takes requests only: release, rollout, device, hand-off, round.

A real coordinator with its own broker, and a real agent, in one process over loopback.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import onnx
import pytest
from tests import graphs
from tests.tiny_models import NAMES, RANKER, SPEC, Tiny, assert_same

from aimass_cloud.app.coordinator import Coordinator, running
from aimass_cloud.app.server import listen, listening
from aimass_cloud.cli import main
from aimass_cloud.config import CloudSettings, HttpSettings
from aimass_cloud.federation.plans import Client, TrainingPlan
from aimass_cloud.registry import NewModel
from aimass_cloud.slicing.cuts.running import Runner
from aimass_edge.agent import Agent
from aimass_edge.cli.check import check
from aimass_edge.config import ApiSettings, CapacitySettings, EdgeSettings, UpdateSettings
from aimass_edge.enroll import Identity, enroll
from aimass_edge.inventory import take_inventory
from aimass_shared import manifest as manifests
from aimass_shared.errors import NoClientsError
from aimass_shared.inference import (
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    decode_response,
    encode_request,
    parts,
)
from aimass_shared.manifest import SliceArtifact
from aimass_shared.slices import SliceCost

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

Until = Callable[..., Awaitable[None]]


class Cloud(NamedTuple):
    parts: Coordinator
    url: str

    async def release(self, tiny: Tiny, folder: Path) -> str:
        """Sign a release of a tiny model's full slice; returns its id."""
        tiny.write(folder)
        files = tuple((role, str(folder / NAMES[role])) for role in tiny.contents)
        artifact = SliceArtifact(SPEC, SliceCost(100, 20, 1.0, 0.5), files, 1e-4)
        new = NewModel(tiny.contract.model, "recommend", 1, {}, str(folder))
        model = await self.parts.registry.add_model(new)
        row = await self.parts.registry.create_release(
            model.id, tiny.contract, [artifact], channel="stable"
        )
        return row.id


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    settings = CloudSettings(data_dir=str(tmp_path / "cloud"), http=HttpSettings(port=0))
    with listen(settings.http) as listener:
        async with running(settings) as parts, listening(parts, listener) as url:
            yield Cloud(parts, url)


class Device:
    """An enrolled device without telemetry; `alive` is one life of its agent."""

    def __init__(self, folder: Path, cloud: Cloud, port: int) -> None:
        self._folder, self._cloud, self._port = folder, cloud, port
        self.id = ""

    def settings(self, queue_limit: int = 64) -> EdgeSettings:
        return EdgeSettings(
            data_dir=str(self._folder),
            api=ApiSettings(port=self._port),
            capacity=CapacitySettings(default_deadline_ms=10_000, queue_limit=queue_limit),
            update=UpdateSettings(trial_predictions=1),
            heartbeat_s=0.2,
        )

    async def enrol(self) -> None:
        token = await self._cloud.parts.fleet.create_join_token("shop", "stable")
        identity = await enroll(
            cloud_url=self._cloud.url,
            token=token.text(),
            data_dir=self._folder,
            inventory=take_inventory(self.settings().board),
        )
        self.id = identity.device

    @asynccontextmanager
    async def alive(self, queue_limit: int = 64) -> AsyncIterator[httpx.AsyncClient]:
        """A client of the local endpoint while the agent runs."""
        agent = Agent(self.settings(queue_limit), Identity.load(self._folder))
        task = asyncio.create_task(agent.run())
        url = f"http://127.0.0.1:{self._port}"
        async with AsyncExitStack() as stack:
            client = httpx.AsyncClient(base_url=url, timeout=20, trust_env=False)
            try:
                yield await stack.enter_async_context(client)
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


@pytest.fixture
async def device(tmp_path: Path, cloud: Cloud, free_port: Callable[[], int]) -> Device:
    made = Device(tmp_path / "edge", cloud, free_port())
    await made.enrol()
    return made


async def ask(client: httpx.AsyncClient, tiny: Tiny) -> InferResponse:
    request = InferRequest(model=tiny.contract.model, inputs=tiny.asked, binary_output=True)
    body, headers = encode_request(request)
    path = f"/v2/models/{tiny.contract.model}/infer"
    answer = await client.post(path, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    response = decode_response(answer.content, int(answer.headers[HEADER_LENGTH]))
    assert_same(response.outputs, tiny.answer)
    return response


async def status(client: httpx.AsyncClient) -> dict[str, dict[str, object]]:
    try:
        return dict((await client.get("/status")).raise_for_status().json())
    except httpx.TransportError:
        return {"serving": {}, "reported": {}}


async def test_a_model_that_takes_requests_only_lives_on_a_device(
    cloud: Cloud, device: Device, tmp_path: Path, until: Until
) -> None:
    release = await cloud.release(RANKER, tmp_path / "slice")

    async def runs() -> bool:
        return (await status(client))["serving"].get("release") == release

    async def reported() -> bool:
        told = (await cloud.parts.fleet.device(device.id)).reported
        return told is not None and (told.state, told.v) == ("applied", 1)

    async with device.alive() as client:
        await cloud.parts.rollouts.start(release)
        await until(runs, 30)
        await until(reported, 10)
        serving = (await status(client))["serving"]
        assert (serving["task"], serving["telemetry"], serving["ready"]) == ("rank", False, True)
        assert (await ask(client, RANKER)).parameters["place"] == "local"
        told = await check(device.settings())
        assert f"w1.00-fp32 of {release}, requests only" in str(told["model"])
        await until(lambda: _is_kept(device), 10)
        await _declines_a_round(cloud, device)

    async with device.alive(queue_limit=0) as client:
        await until(runs, 30)
        handed = await ask(client, RANKER)
        assert (handed.parameters["place"], handed.version) == ("cloud", release)
        assert handed.parameters["batch"] == 2
        counts = (await status(client))["serving"]["counts"]
        assert isinstance(counts, dict)
        assert (counts["handed_off"], counts["answered"], counts["windows"]) == (1, 0, 0)


class Asked(NamedTuple):
    """A request to the model of the tests, and what it must answer."""

    request: InferRequest
    answer: dict[str, Any]


def _asked() -> Asked:
    image = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    given = InferRequest(
        model="mobilenet", inputs={"image": image}, binary_output=True, deadline_ms=10_000
    )
    return Asked(given, Runner(graphs.mobilenet()).run(given.inputs))


def _for_tail(cloud: Cloud, release: manifests.Manifest, request: InferRequest) -> InferRequest:
    """The request as a device sends it that ran the head of the release's cut."""
    entry = next(one for one in release.slices if one.halves is not None)
    assert entry.halves is not None
    path = cloud.parts.blobs.path(entry.file("model").sha256)
    between = {**request.inputs, **Runner(onnx.load_model(path)).run(request.inputs)}
    crossing = {one.name: between[one.name] for one in entry.halves.crossing}
    return parts.asked(request, crossing, parts.Destination(release.release, entry.spec.name))


async def _answers(client: httpx.AsyncClient, request: InferRequest, expected: Asked) -> str:
    """Where a request was answered, rightly."""
    body, headers = encode_request(request)
    version = f"/versions/{request.version}" if request.version else ""
    path = f"/v2/models/{request.model}{version}/infer"
    answer = await client.post(path, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    response = decode_response(answer.content, int(answer.headers[HEADER_LENGTH]))
    assert_same(response.outputs, expected.answer)
    return str(response.parameters["place"])


async def test_a_users_own_model_is_imported_and_lives_on_a_device(
    cloud: Cloud, device: Device, tmp_path: Path, until: Until, capsys: pytest.CaptureFixture[str]
) -> None:
    file = graphs.with_files(graphs.mobilenet(), tmp_path / "mobilenet.onnx")
    where = ["--url", cloud.url, "--data-dir", str(tmp_path / "cloud"), "--json"]
    typed = ["slice", "import", str(file), "--cuts", "1", "--for", "cpu", "--channel", "stable"]
    assert await asyncio.to_thread(main, [*typed, *where]) == 0
    made = json.loads(capsys.readouterr().out)
    row = await cloud.parts.registry.release(made["release"])
    release, asked = manifests.decode(row.manifest), _asked()
    key = {"authorization": f"Bearer {(tmp_path / 'cloud' / 'admin.key').read_text().strip()}"}

    async def runs() -> bool:
        return (await status(local))["serving"].get("release") == release.release

    async with (
        device.alive() as local,
        httpx.AsyncClient(base_url=cloud.url, headers=key, trust_env=False) as there,
    ):
        await cloud.parts.rollouts.start(release.release)
        await until(runs, 30)
        assert await _answers(local, asked.request, asked) == "local"
        assert await _answers(there, asked.request, asked) == "cloud"
        for_tail = _for_tail(cloud, release, asked.request)
        assert await _answers(there, for_tail, asked) == "cloud"
        await asyncio.to_thread(_has_only_the_whole, tmp_path / "edge")
        planned = ["slice", "plan", "--release", release.release, "--link", "4mbit,30ms", *where]
        assert await asyncio.to_thread(main, planned) == 0
        ranked = json.loads(capsys.readouterr().out)["ranked"]
        assert {one["candidate"]["place"] for one in ranked} == {"edge", "cloud", "split"}


def _has_only_the_whole(folder: Path) -> None:
    assert [path.name for path in folder.rglob("*.onnx")] == ["model.onnx"]


async def _is_kept(device: Device) -> bool:
    told = await check(device.settings())
    return "on trial" not in str(told["model"])


async def _declines_a_round(cloud: Cloud, device: Device) -> None:
    """As a plan of the workshop would ask: the device says why not, at once."""
    plan = TrainingPlan(
        run="r",
        model="m",
        rounds=1,
        clients={device.id: Client(1.0, SPEC.name)},
        sensors=(),
        step_ms=0,
        timeout_s=20.0,
    )
    with pytest.raises(NoClientsError, match="a model that takes requests only is not trained"):
        await cloud.parts.rounds.run_training(
            plan,
            {},
            nesting=lambda _name, shape, _width: tuple(slice(size) for size in shape),
            evaluate=lambda _arrays: {},
            progress=lambda _fraction, _message: None,
        )
