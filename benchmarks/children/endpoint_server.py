"""A server on a free port: `endpoint_server {aimass,aimass-h11,by-hand} MODEL.onnx`.

`aimass` is the agent's own endpoint. `aimass-h11` is it without httptools, which uvicorn uses where
it is installed: the extra `edge` does not bring it. `by-hand` is what no HTTP server can beat by
much: no routes, no checks, no queue, no thread, one layout of request, the run in the event loop.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime

from benchmarks.children.lines import say
from benchmarks.children.tiny import CONTRACT, SHAPE, outputs_head

FLOATS = SHAPE[0] * SHAPE[1] * SHAPE[2]
BYTES = 4 * FLOATS
DEADLINE_MS = 20_000


class Hidden(MetaPathFinder):
    """Makes a package look as if it were not installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname.partition(".")[0] == self._name:
            raise ModuleNotFoundError(fullname)
        return None


@asynccontextmanager
async def aimass(model: Path) -> AsyncIterator[int]:
    """The agent's predictor and API with a release of that one model."""
    from aimass_edge.api import Api  # noqa: PLC0415  after httptools was hidden
    from aimass_edge.config import ApiSettings, BoardSettings, CapacitySettings  # noqa: PLC0415
    from aimass_edge.predict import Predictor  # noqa: PLC0415
    from aimass_shared.manifest import Manifest, SliceEntry  # noqa: PLC0415
    from aimass_shared.slices import SliceCost, SliceSpec  # noqa: PLC0415

    cost = SliceCost(model_bytes=508, memory_mib=1.0, reference_ms=0.1, val_error=0.5)
    entry = SliceEntry(SliceSpec(1.0, "fp32"), cost, (), 1e-4)
    # A refusal would be a fast answer: with this deadline there is none.
    predictor = Predictor(BoardSettings(), CapacitySettings(default_deadline_ms=DEADLINE_MS))
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(model, Path(directory) / "model.onnx")
        async with predictor, Api(ApiSettings(port=0), predictor, predictor.status) as api:
            await predictor.activate(
                Manifest("r1", "tiny", CONTRACT, (entry,), 0), entry, Path(directory)
            )
            yield api.port


@asynccontextmanager
async def by_hand(model: Path) -> AsyncIterator[int]:
    """The floor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ByHand(session), "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


class ByHand(asyncio.Protocol):
    """Requests of exactly one layout, answered as soon as they are whole."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._buffer = b""
        self._head = outputs_head()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end < 4:  # noqa: PLR2004  not found
            return
        start = self._buffer.find(b"content-length: ") + 16
        length = int(self._buffer[start : self._buffer.find(b"\r\n", start)])
        if len(self._buffer) < end + length or self._transport is None:
            return
        body, self._buffer = self._buffer[end : end + length], self._buffer[end + length :]
        self._transport.write(self._answer(body))

    def _answer(self, body: bytes) -> bytes:
        rest = len(body) - 2 * BYTES
        values = np.frombuffer(body, np.float32, FLOATS, rest).reshape(SHAPE)
        mask = np.frombuffer(body, np.float32, FLOATS, rest + BYTES).reshape(SHAPE)
        outputs = self._session.run(None, {"values": values, "mask": mask})
        return self._head + b"".join(output.tobytes() for output in outputs)


async def serve(kind: str, model: Path) -> None:
    """Serve until the input is closed."""
    async with aimass(model) if kind.startswith("aimass") else by_hand(model) as port:
        say(port=port)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    if sys.argv[1] == "aimass-h11":
        sys.meta_path.insert(0, Hidden("httptools"))
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
