"""Releases of the tiny model, sessions with a pace, and a real HTTP server that plays the cloud."""

import asyncio
import itertools
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray

from aimass_edge.config import BoardSettings
from aimass_edge.runtime import Session, open_session
from aimass_edge.runtime.paced import PacedSession
from aimass_shared.inference import (
    InferenceApp,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Parameter,
)
from aimass_shared.manifest import (
    AlarmRule,
    Contract,
    Manifest,
    Sensor,
    SliceEntry,
    TensorSpec,
)
from aimass_shared.slices import SliceCost, SliceSpec
from aimass_shared.windows import Window

DATA = Path(__file__).parent.parent / "data"
Scope = Mapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Any], Any]


class Release(NamedTuple):
    manifest: Manifest
    entry: SliceEntry
    directory: Path


CONTRACT = Contract(
    model="tiny",
    sensors=tuple(Sensor(name, "bar", "continuous") for name in ("A", "B", "C")),
    step_ms=1000,
    window=4,
    horizon=2,
    inputs=(TensorSpec("values", "FP32", (-1, 4, 3)), TensorSpec("mask", "FP32", (-1, 4, 3))),
    outputs=(
        TensorSpec("forecast", "FP32", (-1, 2, 3)),
        TensorSpec("score", "FP32", (-1,)),
        TensorSpec("contribution", "FP32", (-1, 3)),
    ),
    alarm=AlarmRule("score", 10.0, "contribution", consecutive=3, top=2),
)


@pytest.fixture
def contract() -> Contract:
    return CONTRACT


@pytest.fixture
def make_release(tmp_path: Path) -> Callable[..., Release]:
    """A release whose model file is one of tests/edge/data, in a directory of its own."""

    def make(name: str = "r1", file: str = "monitor.onnx") -> Release:
        directory = tmp_path / name
        directory.mkdir()
        shutil.copy(DATA / file, directory / "model.onnx")
        cost = SliceCost(model_bytes=508, memory_mib=1.0, reference_ms=0.1, val_error=0.5)
        entry = SliceEntry(SliceSpec(1.0, "fp32"), cost, (), 1e-4)
        return Release(Manifest(name, "tiny", CONTRACT, (entry,), 0), entry, directory)

    return make


@pytest.fixture
def make_window() -> Callable[..., Window]:
    """A window of constant values per channel, all measured."""

    def make(values: Sequence[float], *, sequence: int = 0, rows: int = 4) -> Window:
        table = np.tile(np.array(values, np.float32), (rows, 1))
        return Window(sequence, 1_700_000_000_000, table, np.ones_like(table), 1.0)

    return make


@pytest.fixture
def make_request() -> Callable[..., InferRequest]:
    def make(value: float = 1.0, *, batch: int = 1, **more: Any) -> InferRequest:  # noqa: ANN401  # fields
        values = np.full((batch, 4, 3), value, np.float32)
        inputs = {"values": values, "mask": np.ones_like(values)}
        return InferRequest(**{"model": "tiny", "inputs": inputs, **more})

    return make


class Pace:
    """An opener of real sessions whose every run takes `seconds` more, or waits at a gate."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()
        self.closed: list[Path] = []

    def __call__(self, path: Path, board: BoardSettings) -> Session:
        inner = Closing(open_session(path, board), lambda: self.closed.append(path))
        # The clock advances a second at each look: every run seems to take one and is stretched.
        clock = itertools.count(0.0, 1.0).__next__
        return PacedSession(inner, 2.0, clock=clock, sleep=self._wait)

    def _wait(self, _: float) -> None:
        time.sleep(self.seconds)
        assert self.gate.wait(30)


class Closing:
    """A session that tells when it is closed."""

    def __init__(self, inner: Session, told: Callable[[], None]) -> None:
        self._told = told
        self.inputs = inner.inputs
        self.outputs = inner.outputs
        self.provider = inner.provider
        self.waits = inner.waits
        self.run = inner.run

    def close(self) -> None:
        self._told()


@pytest.fixture
def make_pace() -> type[Pace]:
    return Pace


class FullModel:
    """The cloud's backend: the same numbers as monitor.onnx, after `delay_s`."""

    name, version = "cloud", "1"

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.asked: list[InferRequest] = []

    def ready(self) -> bool:
        return True

    def models(self) -> Sequence[str]:
        return ["tiny"]

    def metadata(self, model: str, version: str) -> ModelMetadata:
        return ModelMetadata(model, (version,), "numpy", CONTRACT.inputs, CONTRACT.outputs)

    async def infer(self, request: InferRequest) -> InferResponse:
        self.asked.append(request)
        await asyncio.sleep(self.delay_s)
        values: NDArray[Any] = request.inputs["values"]
        contribution = (values**2).mean(axis=1)
        outputs = {
            "forecast": values[:, -1:].repeat(2, axis=1),
            "score": contribution.sum(axis=1),
            "contribution": contribution,
        }
        parameters: dict[str, Parameter] = {"place": "cloud", "service_ms": 1.0}
        return InferResponse(model="tiny", version="r9", outputs=outputs, parameters=parameters)


class CloudServer:
    """A real HTTP server in a thread. `mode` may change while it runs.

    answer: as the coordinator does; busy: 503 with a code; trickle: a byte every 20 ms without
    end; garbage: 200 with bytes that are no answer; huge: more bytes than anybody wants;
    forbidden: 401.
    """

    def __init__(self) -> None:
        self.mode = "answer"
        self.backend = FullModel()
        self.headers: list[dict[bytes, bytes]] = []
        self.retry_after = b""
        self._app = InferenceApp(self.backend, max_body_bytes=1 << 20)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers.append(dict(scope["headers"]))
        if self.mode == "answer":
            await self._app(scope, receive, send)
            return
        status = {"busy": 503, "forbidden": 401}.get(self.mode, 200)
        headers = [(b"retry-after", self.retry_after)] if self.retry_after else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for chunk, pause_s in self._chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(pause_s)
        await send({"type": "http.response.body", "body": b""})

    def _chunks(self) -> Iterator[tuple[bytes, float]]:
        if self.mode == "trickle":
            return iter([(b" ", 0.02)] * 500)
        if self.mode == "huge":
            return iter([(bytes(1 << 20), 0.0)] * 64)
        if self.mode == "garbage":
            return iter([(b"<html>proxy login</html>", 0.0)])
        return iter([(b'{"error": "the queue is full", "code": "overloaded"}', 0.0)])


@pytest.fixture
def cloud() -> Iterator[CloudServer]:
    server = CloudServer()
    server.start()
    yield server
    server.stop()
