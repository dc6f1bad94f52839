"""A whole coordinator in this process, over real HTTP; and a tiny model that it can serve."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aimass_cloud.app.coordinator import Coordinator, running
from aimass_cloud.app.server import listen, listening
from aimass_cloud.config import CloudSettings, HttpSettings, MqttSettings
from aimass_cloud.registry import NewModel
from aimass_shared.manifest import AlarmRule, Contract, Sensor, SliceArtifact, TensorSpec
from aimass_shared.slices import SliceCost, SliceSpec

LIMIT = 100_000
SHAPE = (-1, 4, 2)

CONTRACT = Contract(
    model="tiny",
    sensors=(Sensor("A", "K", "continuous"), Sensor("B", "K", "continuous")),
    step_ms=1000,
    window=4,
    horizon=4,
    inputs=(TensorSpec("values", "FP32", SHAPE), TensorSpec("mask", "FP32", SHAPE)),
    outputs=(TensorSpec("forecast", "FP32", SHAPE), TensorSpec("score", "FP32", (-1,))),
    alarm=AlarmRule("score", 1.0, "forecast"),
)


@asynccontextmanager
async def _open(data: Path) -> AsyncIterator[tuple[Coordinator, str]]:
    # The broker that it names is not there: what does not need one works without.
    settings = CloudSettings(
        data_dir=str(data),
        http=HttpSettings(port=0, max_body_bytes=LIMIT),
        mqtt=MqttSettings(url="mqtt://127.0.0.1:1"),
    )
    with listen(settings.http) as listener:
        async with running(settings) as parts, listening(parts, listener) as url:
            yield parts, url


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "cloud"


@pytest.fixture
async def opened(data: Path) -> AsyncIterator[tuple[Coordinator, str]]:
    async with _open(data) as opened:
        yield opened


@pytest.fixture
def parts(opened: tuple[Coordinator, str]) -> Coordinator:
    return opened[0]


@pytest.fixture
async def admin(opened: tuple[Coordinator, str], data: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key of the admin."""
    headers = {"authorization": f"Bearer {(data / 'admin.key').read_text().strip()}"}
    async with httpx.AsyncClient(base_url=opened[1], headers=headers, timeout=30) as client:
        yield client


@pytest.fixture
async def nobody(opened: tuple[Coordinator, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client without any credential."""
    async with httpx.AsyncClient(base_url=opened[1], timeout=30) as client:
        yield client


@pytest.fixture
def key(parts: Coordinator) -> Callable[..., Awaitable[dict[str, str]]]:
    """Headers of a new key with some scopes."""

    async def make(*scopes: str) -> dict[str, str]:
        made = await parts.keys.create(" and ".join(scopes), scopes)
        return {"authorization": f"Bearer {made.key}"}

    return make


def _graph(factor: float) -> onnx.ModelProto:
    """Outputs forecast = values * mask * factor, and score = sum of forecast."""
    shape: list[str | int | None] = ["batch", *SHAPE[1:]]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["values", "mask"], ["known"]),
            helper.make_node("Mul", ["known", "factor"], ["forecast"]),
            helper.make_node("ReduceSum", ["forecast", "axes"], ["score"], keepdims=0),
        ],
        "tiny",
        [info(name, TensorProto.FLOAT, shape) for name in ("values", "mask")],
        [info("forecast", TensorProto.FLOAT, shape), info("score", TensorProto.FLOAT, ["batch"])],
        [
            numpy_helper.from_array(np.array(factor, np.float32), "factor"),
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def release(parts: Coordinator, tmp_path: Path) -> Callable[..., Awaitable[str]]:
    """Sign a release of one slice through the registry; returns its id.

    Its model multiplies by `factor`; `content` are bytes in place of the ONNX file.
    """

    async def make(
        factor: float = 2.0,
        *,
        content: bytes = b"",
        precision: Literal["fp32", "int8"] = "fp32",
    ) -> str:
        path = tmp_path / "model.onnx"
        path.write_bytes(content or _graph(factor).SerializeToString())
        (tmp_path / "selftest.npz").write_bytes(b"of no use here")
        artifact = SliceArtifact(
            spec=SliceSpec(1.0, precision),
            cost=SliceCost(100, 20, 1.0, 0.5),
            files=(("model", str(path)), ("selftest", str(tmp_path / "selftest.npz"))),
            tolerance=0.01,
        )
        folder = str(tmp_path / "model")
        model = await parts.registry.add_model(NewModel("tiny", "tep", 1, {}, folder))
        row = await parts.registry.create_release(model.id, CONTRACT, [artifact], channel="stable")
        return row.id

    return make
