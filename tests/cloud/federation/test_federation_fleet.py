"""All of it for real: devices with ONNX Runtime, mosquitto, HTTP, Flower's averaging."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiomqtt
import msgspec
import numpy as np
import onnx
import pytest
import uvicorn
from numpy.typing import NDArray
from onnx import TensorProto, helper

from aimass_cloud.federation.plans import Client, StatisticsPlan, TrainingPlan
from aimass_cloud.federation.rounds import Rounds
from aimass_cloud.federation.signals import FleetTransport
from aimass_cloud.store import Store
from aimass_cloud.store.blobs import Blobs
from aimass_edge.config import BoardSettings
from aimass_edge.federated import ActiveSlice, GradientTrainer, HttpBlobs, StatisticsTrainer
from aimass_edge.federated import Rounds as EdgeRounds
from aimass_shared import messages, topics
from aimass_shared.manifest import AlarmRule, Contract, Sensor
from aimass_shared.messages import DeviceState, RoundReply, RoundTask
from aimass_shared.moments import Segment, moments
from aimass_shared.updates import UpdatePrecision

Until = Callable[..., Awaitable[None]]
Event = MutableMapping[str, Any]
Arrays = dict[str, NDArray[Any]]

SENSORS = ("a", "b")


def state(*, online: bool) -> DeviceState:
    return DeviceState(online=online, session="s", ts=0)


def gradient_step(path: Path, size: int) -> Path:
    """loss = sum_k (level_k - mean(values))^2 as ONNX, for a `level` of a slice's size."""
    shape = [32, 3, len(SENSORS)]
    inputs: dict[str, list[int]] = {"values": shape, "mask": shape, "weight": [32], "level": [size]}
    nodes = [
        helper.make_node("ReduceMean", ["values"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["level", "mean"], ["error"]),
        helper.make_node("Mul", ["error", "error"], ["square"]),
        helper.make_node("ReduceSum", ["square"], ["loss"], keepdims=0),
        helper.make_node("Add", ["error", "error"], ["grad.level"]),
    ]
    outputs: dict[str, list[int]] = {"loss": [], "grad.level": [size]}
    graph = helper.make_graph(nodes, "step", _infos(inputs), _infos(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def _infos(shapes: Mapping[str, Sequence[int]]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]


CONTRACT = Contract(
    model="toy",
    sensors=tuple(Sensor(name, "K", "continuous") for name in SENSORS),
    step_ms=1000,
    window=2,
    horizon=1,
    inputs=(),
    outputs=(),
    alarm=AlarmRule("score", 1.0, "contribution"),
)


class Rows:
    step_ms = 1000

    def __init__(self, seed: int) -> None:
        # 34 rows are 32 windows: one full batch, whose mean is that of the padded input too
        values = np.random.default_rng(seed).normal(4.0, 0.1, (34, 2)).astype(np.float32)
        self.rows: list[Segment] = [(values, np.ones_like(values))]

    async def segments(self, _sensors: Sequence[str]) -> list[Segment]:
        return self.rows


class Site(NamedTuple):
    """A device: its name, its client of the broker, its history and its answers."""

    name: str
    client: aiomqtt.Client
    history: Rows
    rounds: EdgeRounds

    async def serve(self) -> None:
        await self.client.subscribe(topics.all_down(self.name), qos=1)
        await self.tell(online=True)
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            reply = await self.rounds.answer(messages.decode(message.payload, RoundTask))
            topic = topics.round_reply(self.name, reply.task)
            for _ in range(2):  # at least once, in the worst case
                await self.client.publish(topic, messages.encode(reply), qos=1)

    async def tell(self, *, online: bool) -> None:
        payload = messages.encode(state(online=online))
        await self.client.publish(topics.state(self.name), payload, qos=1, retain=True)


class Coordinator:
    """What the bridge does for rounds, over one client of the broker."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        await self._client.publish(topic, payload, qos=1, retain=retain)

    async def listen(self, transport: FleetTransport) -> None:
        await self._client.subscribe(topics.all_up(), qos=1)
        async for message in self._client.messages:
            assert isinstance(message.payload, bytes)
            parsed = topics.parse(str(message.topic))
            if parsed.kind == "state":
                found = messages.decode(message.payload, DeviceState)
                await transport.on_state(parsed.device, found)
            else:
                reply = messages.decode(message.payload, RoundReply)
                await transport.on_round_reply(parsed.device, reply)


@asynccontextmanager
async def blob_server(blobs: Blobs, until: Until) -> AsyncIterator[str]:
    async def app(
        scope: Event,
        receive: Callable[[], Awaitable[Event]],
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        digest, body = scope["path"].removeprefix("/blobs/"), b""
        while (event := await receive())["type"] == "http.request":
            body += event["body"]
            if not event["more_body"]:
                break
        if scope["method"] == "PUT":
            assert blobs.put(body) == digest
        content = b"" if scope["method"] == "PUT" else blobs.path(digest).read_bytes()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": content})

    web = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none"))
    serving = asyncio.create_task(web.serve())
    await until(lambda: web.started)
    yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
    web.should_exit = True
    await serving


class Plant(NamedTuple):
    rounds: Rounds
    sites: dict[str, Site]
    tasks: dict[str, "asyncio.Task[None]"]


WIDTHS = {"full": (1.0, "w1.00-fp32", 4), "half": (0.5, "w0.50-int8", 2), "weak": (0.25, "w", 1)}


@pytest.fixture
async def plant(tmp_path: Path, mosquitto: tuple[str, int], until: Until) -> AsyncIterator[Plant]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        blobs = Blobs(tmp_path / "blobs")
        url = await enter(blob_server(blobs, until))
        sites: dict[str, Site] = {}
        for seed, (name, (_, slice_name, size)) in enumerate(WIDTHS.items()):
            step = gradient_step(tmp_path / f"{name}.onnx", size)
            trainer = GradientTrainer(
                partial(ActiveSlice, slice_name, step, CONTRACT), BoardSettings()
            )
            will = aiomqtt.Will(topics.state(name), messages.encode(state(online=False)), qos=1)
            client = await enter(aiomqtt.Client(*mosquitto, identifier=name, will=will))
            rounds = EdgeRounds(
                history=Rows(seed),
                blobs=await enter(HttpBlobs(url, lambda: "token")),
                trainers={"train": trainer, "statistics": StatisticsTrainer()},
            )
            sites[name] = Site(name, client, Rows(seed), rounds)
        coordinator = Coordinator(await enter(aiomqtt.Client(*mosquitto, identifier="cloud")))
        transport = await enter(FleetTransport(coordinator, blobs))
        store = await enter(Store(f"sqlite+aiosqlite:///{tmp_path / 'aimass.db'}"))
        await store.migrate()
        tasks = {name: asyncio.create_task(site.serve()) for name, site in sites.items()}
        tasks["cloud"] = asyncio.create_task(coordinator.listen(transport))
        await until(lambda: len(transport.devices()) == len(sites))
        yield Plant(Rounds(store, transport, tmp_path / "runs"), sites, tasks)
        for task in tasks.values():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def leading(_name: str, full_shape: tuple[int, ...], width: float) -> tuple[slice, ...]:
    return tuple(slice(0, round(size * width)) for size in full_shape)


PLAN = TrainingPlan(
    run="real",
    model="m",
    rounds=3,
    clients={name: Client(width, slice_name) for name, (width, slice_name, _) in WIDTHS.items()},
    sensors=SENSORS,
    step_ms=1000,
    epochs=5,
    learning_rate=0.2,
    timeout_s=20,
)


def error(arrays: Arrays) -> dict[str, float]:
    return {"val_mse": float(((arrays["level"] - 4.0) ** 2).mean())}


@pytest.mark.parametrize("precision", ["f32", "int8"])
async def test_three_real_devices_learn_over_mqtt_and_http(
    plant: Plant, precision: UpdatePrecision
) -> None:
    start: Arrays = {"level": np.zeros(4, np.float32)}
    plan = msgspec.structs.replace(PLAN, precision=precision)
    began = time.monotonic()
    result = await plant.rounds.run_training(
        plan, start, nesting=leading, evaluate=error, progress=lambda _f, _m: None
    )
    assert time.monotonic() - began < 15
    errors = [record.metrics["val_mse"] for record in result.records]
    assert 16.0 > errors[0] > errors[1] > errors[2]
    # Adam's first step is its learning rate, so five steps a round go about one unit far.
    np.testing.assert_allclose(result.arrays["level"], np.full(4, 3.0), atol=0.3)
    assert all(client.ok for record in result.records for client in record.clients)
    assert all(client.examples == 32 for client in result.records[0].clients)


async def test_real_devices_share_moments_and_a_lost_one_is_named(plant: Plant) -> None:
    plant.tasks["weak"].cancel()
    await plant.sites["weak"].tell(online=False)
    plan = StatisticsPlan(
        run="stats", devices=tuple(WIDTHS), sensors=SENSORS, step_ms=1000, timeout_s=20
    )
    began = time.monotonic()
    result = await plant.rounds.run_statistics(plan, lambda _f, _m: None)
    assert time.monotonic() - began < 10, "nobody waits for a device that said good-bye"
    parts = [
        moments(plant.sites[name].history.rows, sensors=SENSORS, lags=2)
        for name in ("full", "half")
    ]
    expected = parts[0].add(parts[1])
    assert result.moments.n == expected.n == 64
    np.testing.assert_allclose(result.moments.zz, expected.zz, rtol=1e-14)
    outcomes = {client.device: client.ok for client in result.record.clients}
    assert outcomes == {"full": True, "half": True, "weak": False}
