"""Measures one model file in a process of its own: what crashes or hangs here costs nothing else.

    python -m aimass_edge.bench.measure JSON

The argument is a `Task`; prints one line of JSON (`Answer`). The session is that of production.
What runs in production comes first, hence nice.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_edge.bench.energy import Meter, NoMeter, meter_of, temperature_c
from aimass_edge.bench.nodes import Node, nodes_of
from aimass_edge.config import BoardSettings
from aimass_edge.inventory import peak_mib, rss_mib
from aimass_edge.runtime import ANY_SIZE, CodedSession, Session, coder_beside, open_session
from aimass_edge.runtime.onnx import OnnxSession
from aimass_edge.update.selftest import read_vectors
from aimass_edge.update.slots import FILE_NAMES, Bundle
from aimass_shared.errors import AimassError, SelfTestFailedError
from aimass_shared.inference import dtype_of
from aimass_shared.manifest import BYTES, Contract, TensorSpec

NICENESS = 10
WARM_UP_RUNS = 3
WARM_UP_SHARE = 0.1
LEAST_RUNS, MOST_RUNS = 5, 20_000
PROFILED_RUNS = 50
SEED = 0
Feeds = dict[str, NDArray[Any]]


class Task(msgspec.Struct, frozen=True):
    """What is to be measured.

    Attributes:
        model: the ONNX file. directory: of the install that it is of, "" for a file alone.
        batches: windows in a run, one measurement each. seconds: of each.
        sysfs: where the kernel tells of power. nodes: whether to time every node as well.
        deadline_s: when this process ends itself.
    """

    model: str
    board: BoardSettings
    directory: str = ""
    batches: tuple[int, ...] = (1,)
    seconds: float = 1.0
    sysfs: str = "/sys"
    nodes: bool = False
    deadline_s: float = 60.0


class Sample(msgspec.Struct, frozen=True):
    """The runs of one batch size: wall and processor time of each, in ms, and their energy."""

    batch: int
    wall_ms: list[float]
    thread_ms: list[float]
    joules: float | None = None


class Answer(msgspec.Struct, frozen=True):
    """What the child prints; `code` and `why` are of the error where there is no measurement."""

    ok: bool
    code: str = ""
    why: str = ""
    provider: str = ""
    load_s: float = 0.0
    rss_mib: float = 0.0
    model_mib: float = 0.0
    temperature_c: float | None = None
    samples: tuple[Sample, ...] = ()
    nodes: tuple[Node, ...] = ()


def measure(task: Task) -> Answer:
    """Load, warm up, and time.

    Raises:
        ModelLoadFailedError, BadTensorError, ModelError: the model does not load or run.
    """
    before_mib = rss_mib()
    start = time.perf_counter()
    session = opened(task)
    feeds = windows(task, session, 1)
    session.run(feeds)
    load_s = time.perf_counter() - start
    meter = NoMeter() if task.board.simulate else meter_of(Path(task.sysfs))
    samples = tuple(
        timed(session, windows(task, session, batch), batch=batch, task=task, meter=meter)
        for batch in task.batches
        if batch == 1 or is_batched(session)
    )
    most_mib = peak_mib()
    answer = Answer(
        ok=True,
        provider=session.provider,
        load_s=load_s,
        rss_mib=most_mib,
        model_mib=max(0.0, most_mib - before_mib),
        temperature_c=None if task.board.simulate else temperature_c(Path(task.sysfs)),
        samples=samples,
    )
    session.close()
    return msgspec.structs.replace(answer, nodes=profiled(task, feeds)) if task.nodes else answer


def opened(task: Task) -> Session:
    """The session as production opens it, texts included."""
    path = Path(task.model)
    session = open_session(path, task.board)
    contract = _contract(task)
    if contract is None or "vocabulary" not in contract.needs:
        return session
    return CodedSession(session, contract, coder_beside(path, contract))


def timed(session: Session, feeds: Feeds, *, batch: int, task: Task, meter: Meter) -> Sample:
    """Run again and again, for the task's seconds after warming up for a tenth of them."""
    end = time.perf_counter() + WARM_UP_SHARE * task.seconds
    for _ in range(WARM_UP_RUNS):
        session.run(feeds)
    while time.perf_counter() < end:
        session.run(feeds)
    wall_ms: list[float] = []
    thread_ms: list[float] = []
    meter.begin()
    end = time.perf_counter() + task.seconds
    while len(wall_ms) < LEAST_RUNS or (time.perf_counter() < end and len(wall_ms) < MOST_RUNS):
        wall, thread = time.perf_counter_ns(), time.thread_time_ns()
        session.run(feeds)
        thread_ms.append((time.thread_time_ns() - thread) / 1e6)
        wall_ms.append((time.perf_counter_ns() - wall) / 1e6)
        meter.poll()
    return Sample(batch, wall_ms, thread_ms, meter.end())


def windows(task: Task, session: Session, batch: int) -> Feeds:
    """Inputs of a batch: those of the self-test where they fit, else random numbers."""
    known = _vectors(task)
    return {spec.name: _window(spec, known.get(spec.name), batch) for spec in session.inputs}


def is_batched(session: Session) -> bool:
    """Whether a run may have several windows."""
    return any(spec.shape[:1] == (ANY_SIZE,) for spec in session.inputs)


def profiled(task: Task, feeds: Feeds) -> tuple[Node, ...]:
    """Time of every node for one window, by ONNX Runtime's own profiler, in a second session.

    Texts are numbers in the graph: a model that takes them has no profile.
    """
    if any(array.dtype.kind in "OU" for array in feeds.values()):
        return ()
    with tempfile.TemporaryDirectory(prefix="aimass-bench-") as folder:
        session = OnnxSession(Path(task.model), task.board, profile_to=f"{folder}/nodes")
        for _ in range(PROFILED_RUNS):
            session.run(feeds)
        raw = session.end_profiling().read_bytes()
        session.close()
    return nodes_of(raw, task.board.cpu_time_factor if task.board.simulate else 1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; see the module's text."""
    given = sys.argv[1:] if arguments is None else arguments
    task = msgspec.json.decode(given[0], type=Task)
    signal.setitimer(signal.ITIMER_REAL, task.deadline_s)
    os.nice(NICENESS)
    try:
        answer = measure(task)
    except AimassError as error:
        answer = Answer(ok=False, code=error.code, why=error.detail)
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    return 0 if answer.ok else 1


def _contract(task: Task) -> Contract | None:
    if not task.directory:
        return None
    folder = Path(task.directory)
    documents = [(folder / name).read_bytes() for name in ("manifest.json", "slice.json")]
    return Bundle(*documents).read()[1].contract


def _vectors(task: Task) -> Feeds:
    """Inputs of the self-test, if there is one."""
    if not task.directory:
        return {}
    try:
        return read_vectors(Path(task.directory) / FILE_NAMES["selftest"])[0]
    except SelfTestFailedError:
        return {}


def _window(spec: TensorSpec, known: NDArray[Any] | None, batch: int) -> NDArray[Any]:
    """One input: the first window of the vectors, as often as the batch asks for."""
    if known is not None and _fits(spec, known):
        if spec.shape[:1] != (ANY_SIZE,):
            return known
        array = known.astype(object) if spec.datatype == BYTES else known
        return np.repeat(array[:1], batch, axis=0)
    shape = [batch, *(max(size, 1) for size in spec.shape[1:])] if spec.shape else []
    if spec.shape and spec.shape[0] != ANY_SIZE:
        shape[0] = spec.shape[0]
    if spec.datatype == BYTES:
        return np.full(shape, "", dtype=object)
    dtype = np.dtype(dtype_of(spec.datatype))
    if dtype.kind == "f":
        return np.random.default_rng(SEED).normal(size=shape).astype(dtype)
    return np.zeros(shape, dtype)


def _fits(spec: TensorSpec, array: NDArray[Any]) -> bool:
    """Whether vectors are of a session's input: texts of a coded one, numbers of the graph."""
    kinds = array.dtype.kind in "OU", spec.datatype == BYTES
    same = kinds[0] == kinds[1] and array.ndim == len(spec.shape) and bool(array.size)
    return same and all(
        size in {ANY_SIZE, found} for size, found in zip(spec.shape, array.shape, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
