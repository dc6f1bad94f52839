"""The models that the coordinator serves: one active version per name, swapped while it answers.

An `aimass_shared.inference.Backend`: HTTP is in front of it, the queue of each model is a
`Batcher`. Which release is served is decided by whoever calls `load`. Requests with packed tensors
(`aimass_shared.inference.parts`) go to the tail of a cut slice, or to the model itself.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from aimass_cloud.config import ServingSettings
from aimass_cloud.serving.batcher import Batcher, BatchLimits, Done
from aimass_cloud.serving.session import OnnxSession, open_session
from aimass_cloud.serving.tails import Key, TailFile, Tails, TailSession, open_tail, outputs_of
from aimass_cloud.serving.timing import RunTimes
from aimass_shared import __version__
from aimass_shared.errors import BadTensorError, NoActiveModelError, NotFoundError
from aimass_shared.inference import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    Parameter,
    Tensor,
    batch_size,
    check_inputs,
    check_outputs,
    example,
    parts,
)
from aimass_shared.manifest import Contract
from aimass_shared.spreading import answered, asks_for_many, spread_of

log = logging.getLogger(__name__)

PLATFORM = "onnxruntime_onnx"
INLINE_BYTES = 1 << 14
"""Messages below this are unpacked on the event loop: a thread would take longer."""
LEAST_S = 0.001
_WARM_RUNS = 3


class SliceFiles(NamedTuple):
    """What a release has beside its model file.

    Attributes:
        vocabulary: where texts are taken or given.
        name: of the whole slice that is served, which requests with packed inputs name.
        tails: of the cut slices, by the slice's name.
    """

    vocabulary: Path | None = None
    name: str = ""
    tails: Mapping[str, TailFile] = {}


NOTHING_BESIDE = SliceFiles()


class _Served(NamedTuple):
    """A model that answers."""

    name: str
    version: str
    contract: Contract
    session: OnnxSession
    batcher: Batcher
    files: SliceFiles

    def tail(self, slice_name: str) -> TailFile:
        """The file of a tail.

        Raises:
            NotFoundError: names the slices that can be asked for.
        """
        if slice_name in self.files.tails:
            return self.files.tails[slice_name]
        known = ", ".join(sorted({self.files.name, *self.files.tails} - {""})) or "none"
        raise NotFoundError(
            f"release {self.version} of {self.name} answers for no slice {slice_name}; slices:"
            f" {known}"
        )

    def windows(self, inputs: Mapping[str, Tensor]) -> int:
        return batch_size(inputs) if self.session.batchable else 1

    def metadata(self) -> ModelMetadata:
        contract = self.contract
        return ModelMetadata(
            self.name, (self.version,), PLATFORM, contract.inputs, contract.outputs
        )


class ModelPool:
    """Serves models; `async with` is the time in which it does.

    Args:
        settings: limits of the queues and batches, and threads of one run.
    """

    name = "aimass"

    def __init__(self, settings: ServingSettings) -> None:
        self.version = __version__
        self._settings = settings
        self._served: dict[str, _Served] = {}
        self._loading = asyncio.Lock()
        self._executor = ThreadPoolExecutor(1, "serving")  # starts its thread with the first run
        self.tails = Tails(
            settings.tails,
            opened=lambda file: open_tail(file, settings.threads),
            queued=self._queue_of,
        )

    async def __aenter__(self) -> Self:
        """Start without any model."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Answer what waits, then stop."""
        served, self._served = self._served, {}
        for one in served.values():
            await one.batcher.drain()
        await self.tails.close()
        self._executor.shutdown()

    async def load(
        self,
        model: str,
        version: str,
        *,
        path: Path,
        contract: Contract,
        files: SliceFiles = NOTHING_BESIDE,
    ) -> None:
        """Open a model, prove it, and put it in the place of the version before it.

        The old version answers until the new one is ready, and what it has begun.

        Args:
            model: its name.
            version: of the release.
            path: its ONNX file.
            contract: what the release says of it.
            files: what the release has beside it.

        Raises:
            ModelLoadFailedError: the old version, if any, goes on answering.
        """
        async with self._loading:
            session, times = await asyncio.to_thread(self._opened, path, contract, files.vocabulary)
            batcher = self._batcher(session, times)
            old = self._served.get(model)
            self._served[model] = _Served(model, version, contract, session, batcher, files)
        log.info("serving %s version %s", model, version)
        if old:
            await old.batcher.drain()
            self.tails.unload(model, but=version)

    def _opened(
        self, path: Path, contract: Contract, vocabulary: Path | None
    ) -> tuple[OnnxSession, RunTimes]:
        threads = self._settings.threads
        session = open_session(path, contract, threads, vocabulary=vocabulary)
        times = RunTimes()
        for windows in {1, self._max_batch(session)}:
            inputs = example(contract.inputs, windows)
            times.add(windows, min(_timed(session, inputs) for _ in range(_WARM_RUNS)))
        return session, times

    def _max_batch(self, session: OnnxSession) -> int:
        return self._settings.max_batch if session.batchable else 1

    def _batcher(self, session: OnnxSession, times: RunTimes) -> Batcher:
        limits = BatchLimits(self._max_batch(session), self._settings.queue_limit)
        return Batcher(session.run, limits, executor=self._executor, times=times)

    def _queue_of(self, tail: TailSession) -> Batcher:
        most = self._settings.max_batch if tail.halves.batched else 1
        limits = BatchLimits(most, self._settings.queue_limit)
        return Batcher(tail.run, limits, executor=self._executor, times=RunTimes())

    def ready(self) -> bool:
        """Whether any model answers."""
        return bool(self._served)

    def models(self) -> Sequence[str]:
        """Names of the models that answer."""
        return sorted(self._served)

    def metadata(self, model: str, version: str) -> ModelMetadata:
        """What a model takes and gives; version "" is the active one.

        Raises:
            NotFoundError: names what there is.
        """
        return self._find(model, version).metadata()

    def _find(self, model: str, version: str) -> _Served:
        served = self._served.get(model)
        if served is None:
            known = ", ".join(self.models()) or "none yet"
            raise NotFoundError(f"no model {model} is served; models: {known}")
        if version not in {"", served.version}:
            raise NotFoundError(
                f"model {model} has no version {version} here; active is {served.version}"
            )
        return served

    async def infer(self, request: InferRequest) -> InferResponse:
        """Run a model; over a long input, or with an explanation, if asked (see `spreading`).

        The response's parameters: `place` "cloud"; `service_ms` of the run, `queue_ms` before it,
        and `batch`, the windows that shared it.

        Raises:
            NoActiveModelError: nothing is served yet.
            NotFoundError: no such model or version.
            BadTensorError: the inputs or wanted outputs are not those of the model or slice.
            MalformedMessageError: packed tensors do not unpack.
            ModelLoadFailedError: the tail that is asked for cannot be loaded.
            OverloadedError: the queue is full, or the deadline cannot be met.
            DeadlineExceededError: the deadline passed nevertheless.
        """
        if not self._served:
            raise NoActiveModelError("no model is served yet: make a release first")
        served = self._find(request.model, request.version)
        name = parts.slice_of(request)
        if name:
            return await self._run_packed(served, request, name)
        if not asks_for_many(request):
            return await self._run(served, request)
        spread = spread_of(served.contract, request)
        return await answered(
            spread,
            request,
            partial(self._run, served),
            batch=self._max_batch(served.session),
            deadline_ms=self._deadline_ms(request),
        )

    def _deadline_ms(self, request: InferRequest) -> int:
        return request.deadline_ms or self._settings.default_deadline_ms

    async def _run(self, served: _Served, request: InferRequest) -> InferResponse:
        check_inputs(served.contract.inputs, request.inputs)
        check_outputs(request, tuple(spec.name for spec in served.contract.outputs))
        windows = served.windows(request.inputs)
        deadline_s = self._deadline_ms(request) / 1000
        done = await served.batcher.submit(request.inputs, windows, deadline_s)
        return _answer(served, request, done)

    async def _run_packed(self, served: _Served, request: InferRequest, name: str) -> InferResponse:
        """Answer a request with packed tensors: by a tail, or by the model itself."""
        if asks_for_many(request):
            raise BadTensorError("a request for a slice is one request: it cannot be spread")
        ends = time.monotonic() + self._deadline_ms(request) / 1000
        file = served.tail(name) if name != served.files.name else None
        inputs = await _unpacked(request)
        if file is None:
            check_inputs(served.session.inputs, inputs)
            check_outputs(request, tuple(spec.name for spec in served.contract.outputs))
            left_s = max(ends - time.monotonic(), LEAST_S)
            done = await served.batcher.submit(inputs, served.windows(inputs), left_s)
        else:
            check_inputs(file.halves.crossing, inputs)
            check_outputs(request, outputs_of(file))
            key = (served.name, served.version, name)
            done = await self._run_tail(key, file, inputs, ends=ends)
        return _answer(served, request, done, slice_name=name)

    async def _run_tail(
        self, key: Key, file: TailFile, inputs: Mapping[str, Tensor], *, ends: float
    ) -> Done:
        """Run a tail; one that is let go for another in the same moment is loaded again."""
        while True:
            tail = await self.tails.get(key, file, ends - time.monotonic())
            left_s = max(ends - time.monotonic(), LEAST_S)
            try:
                return await tail.batcher.submit(inputs, tail.windows(inputs), left_s)
            except NoActiveModelError:
                if time.monotonic() >= ends or self._served.get(key[0]) is None:
                    raise


async def _unpacked(request: InferRequest) -> dict[str, Tensor]:
    """The tensors of a message; of a large one in a thread, so that others are answered."""
    if sum(array.nbytes for array in request.inputs.values()) < INLINE_BYTES:
        return parts.unpacked(request)
    return await asyncio.to_thread(parts.unpacked, request)


def _answer(
    served: _Served, request: InferRequest, done: Done, *, slice_name: str = ""
) -> InferResponse:
    parameters: dict[str, Parameter] = {
        "place": "cloud",
        "service_ms": round(done.run_s * 1000, 3),
        "queue_ms": round(done.queue_s * 1000, 3),
        "batch": done.batch,
    }
    if slice_name:
        parameters[parts.SLICE] = slice_name
    return InferResponse(
        model=served.name,
        version=served.version,
        id=request.id,
        outputs=done.outputs,
        parameters=parameters,
    )


def _timed(session: OnnxSession, inputs: Mapping[str, Tensor]) -> float:
    start = time.perf_counter()
    session.run(inputs)
    return time.perf_counter() - start
