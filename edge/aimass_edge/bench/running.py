"""Runs the measurements of all targets: in turns, each in a child process, and puts them together.

Every target has its turn several times, so that a slow spell of the machine meets all of them. The
times of all turns are pooled.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from aimass_edge.bench.measure import Answer, Sample, Task
from aimass_edge.bench.nodes import Node
from aimass_edge.bench.targets import OF_A_FILE, Target
from aimass_edge.config import BoardSettings
from aimass_edge.runtime import Backend, backend_of
from aimass_shared.errors import DeadlineExceededError, ModelError
from aimass_shared.messages import SliceMeasured

TURNS = 3
GRACE_S = 60.0
"""For starting, loading and warming up, on a slow board."""
REASON_CHARS = 300
Progress = Callable[[str], None]


class Order(msgspec.Struct, frozen=True):
    """How to measure: see `measure.Task`."""

    batches: tuple[int, ...] = (1, 8)
    seconds: float = 2.0
    sysfs: str = "/sys"
    nodes: bool = False
    turns: int = TURNS


class Benched(msgspec.Struct, frozen=True):
    """What became of each target: its measurements, or why there are none.

    Attributes:
        failed: why, by `release/slice`.
        nodes: time of every node, by `release/slice`, where that was asked for.
        backend: what ran them, and why not what was asked for before.
    """

    measured: tuple[SliceMeasured, ...]
    failed: dict[str, str]
    nodes: dict[str, tuple[Node, ...]]
    backend: Backend


def bench(
    targets: Sequence[Target], board: BoardSettings, order: Order, *, progress: Progress
) -> Benched:
    """Measure all targets; what fails costs only itself."""
    answers: dict[Target, list[Answer]] = {target: [] for target in targets}
    failed: dict[str, str] = {}
    for turn in range(order.turns):
        for number, target in enumerate(targets, 1):
            if _key(target) in failed:
                continue
            progress(f"turn {turn + 1}/{order.turns}, {number}/{len(targets)}: {_key(target)}")
            answer = _ask(_task(target, board, order, is_last=turn == order.turns - 1))
            if answer.ok:
                answers[target].append(answer)
            else:
                failed[_key(target)] = f"{answer.why} [{answer.code}]"
                progress(f"  {failed[_key(target)]}")
    backend = backend_of(board)
    done = {target: found for target, found in answers.items() if _key(target) not in failed}
    return Benched(
        measured=tuple(
            row
            for target, found in done.items()
            for row in _rows(target, found, board=board, runtime=backend.runtime)
        ),
        failed=failed,
        nodes={_key(target): found[-1].nodes for target, found in done.items() if order.nodes},
        backend=backend,
    )


def _task(target: Target, board: BoardSettings, order: Order, *, is_last: bool) -> Task:
    seconds = order.seconds / order.turns
    slowest = board.cpu_time_factor if board.simulate else 1.0
    built_s = board.engines.deadline_s if backend_of(board).is_tensorrt else 0.0
    return Task(
        model=str(target.path),
        board=board,
        directory=str(target.directory or ""),
        batches=order.batches,
        seconds=seconds,
        sysfs=order.sysfs,
        nodes=order.nodes and is_last,
        deadline_s=GRACE_S * max(slowest, 1.0) + 2 * seconds * len(order.batches) + built_s,
    )


def _ask(task: Task) -> Answer:
    """The answer of a child, or what its death tells."""
    command = [
        *(sys.executable, "-m", "aimass_edge.bench.measure"),
        msgspec.json.encode(task).decode(),
    ]
    try:
        done = subprocess.run(  # noqa: S603  our own module
            command, capture_output=True, check=False, timeout=task.deadline_s
        )
    except subprocess.TimeoutExpired:
        why = f"it took more than {task.deadline_s:.0f} s"
        return Answer(ok=False, code=DeadlineExceededError.code, why=why)
    try:
        return msgspec.json.decode(done.stdout, type=Answer)
    except msgspec.DecodeError:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["silence"])[-1]
        why = f"the process ended with status {done.returncode}: {last[:REASON_CHARS]}"
        return Answer(ok=False, code=ModelError.code, why=why)


def _rows(
    target: Target, answers: Sequence[Answer], *, board: BoardSettings, runtime: str
) -> list[SliceMeasured]:
    """One row for each batch size, of all turns together."""
    samples: dict[int, list[Sample]] = {}
    for answer in answers:
        for sample in answer.samples:
            samples.setdefault(sample.batch, []).append(sample)
    return [
        _row(target, answers, found, name=_board(board), runtime=runtime)
        for found in samples.values()
    ]


def _row(
    target: Target,
    answers: Sequence[Answer],
    samples: Sequence[Sample],
    *,
    name: str,
    runtime: str,
) -> SliceMeasured:
    batch = samples[0].batch
    wall = np.array([ms for sample in samples for ms in sample.wall_ms]) / batch
    thread = np.array([ms for sample in samples for ms in sample.thread_ms]) / batch
    return SliceMeasured(
        model=target.model,
        release=target.release,
        slice=target.slice,
        board=name,
        provider=answers[-1].provider,
        runtime=runtime,
        batch=batch,
        runs=len(wall),
        p50_ms=_rounded(np.percentile(wall, 50)),
        p99_ms=_rounded(np.percentile(wall, 99)),
        thread_ms=_rounded(np.median(thread)),
        per_s=_rounded(1e3 / wall.mean()),
        load_s=_rounded(min(answer.load_s for answer in answers)),
        rss_mib=round(max(answer.rss_mib for answer in answers), 1),
        model_mib=round(max(answer.model_mib for answer in answers), 1),
        energy_mj=_energy_mj(samples, len(wall) * batch),
        temperature_c=answers[-1].temperature_c,
        at=time.time_ns() // 1_000_000,
    )


def _energy_mj(samples: Sequence[Sample], windows: int) -> float | None:
    joules = [sample.joules for sample in samples if sample.joules is not None]
    return _rounded(sum(joules) * 1e3 / windows) if len(joules) == len(samples) else None


def _board(board: BoardSettings) -> str:
    return f"{board.name} (simulated)" if board.simulate else board.name


def _key(target: Target) -> str:
    is_file = target.release == OF_A_FILE
    return target.slice if is_file else f"{target.release}/{target.slice}"


def _rounded(value: float) -> float:
    """Four digits: no time of a busy machine has more."""
    return float(f"{value:.4g}")
