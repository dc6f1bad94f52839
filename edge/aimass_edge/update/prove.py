"""Runs the self-test of an install in a child process, with a time limit, before it is loaded here.

A model that crashes its runtime, hangs or eats memory then does so in a process that nobody needs.
The child is `aimass_edge.update.selftest`.
"""

import logging
import sys
from pathlib import Path

import anyio
import msgspec

from aimass_edge.config import BoardSettings
from aimass_edge.runtime import backend_of
from aimass_shared.errors import (
    AimassError,
    DeadlineExceededError,
    ModelLoadFailedError,
    SelfTestFailedError,
    StorageError,
)

log = logging.getLogger(__name__)

REPORT_CHARS = 300


class Outcome(msgspec.Struct, frozen=True):
    """What the child prints: one line of JSON.

    Attributes:
        ok: whether every output is within the tolerance.
        code, why: of the error, if not.
        error: largest relative error of any output; tolerance: what is allowed.
        seconds: loading and running. peak_mib: most resident memory of the child.
        latency_ms: of one sample, the fastest; bound_ms: what it should take at most, 0 = unknown.
        p50_ms: of one sample, the median.
    """

    ok: bool
    code: str = ""
    why: str = ""
    error: float = 0.0
    tolerance: float = 0.0
    seconds: float = 0.0
    peak_mib: float = 0.0
    latency_ms: float = 0.0
    bound_ms: float = 0.0
    p50_ms: float = 0.0


async def prove(directory: Path, board: BoardSettings, deadline_s: float) -> Outcome:
    """Run the self-test of the install in a directory.

    Where TensorRT runs the models, its engine is built here, so that the agent finds it built; its
    time comes on top of the deadline.

    Raises:
        SelfTestFailedError: an output is off, or the child crashed.
        ModelLoadFailedError: the runtime refuses the model.
        DeadlineExceededError: it took too long, which is no verdict on the model.
        StorageError: an engine cannot be kept, which is none either.
    """
    if backend_of(board).is_tensorrt:
        deadline_s += board.engines.deadline_s
    command = [
        *(sys.executable, "-m", "aimass_edge.update.selftest", str(directory)),
        *("--board", msgspec.json.encode(board).decode()),
        *("--deadline", str(deadline_s)),
    ]
    try:
        with anyio.fail_after(deadline_s):
            done = await anyio.run_process(command, check=False)
    except TimeoutError as error:
        raise DeadlineExceededError(
            f"the self-test took more than {deadline_s:.0f} s on this device"
        ) from error
    outcome = _read(done.stdout, done.stderr, done.returncode)
    if not outcome.ok:
        raise _error(outcome)
    log.info(
        "self-test passed: error %.2g of %.2g, %.3g ms a sample",
        *(outcome.error, outcome.tolerance, outcome.p50_ms),
    )
    if outcome.latency_ms > outcome.bound_ms > 0:
        log.warning(
            "a sample takes %.1f ms here, at most %.1f ms were expected",
            *(outcome.latency_ms, outcome.bound_ms),
        )
    return outcome


def _error(outcome: Outcome) -> AimassError:
    """What the child said: those that are no verdict keep their kind."""
    for kind in (ModelLoadFailedError, DeadlineExceededError, StorageError):
        if outcome.code == kind.code:
            return kind(outcome.why)
    return SelfTestFailedError(outcome.why)


def _read(stdout: bytes, stderr: bytes, status: int) -> Outcome:
    """The child's report, or what its death tells."""
    try:
        return msgspec.json.decode(stdout, type=Outcome)
    except msgspec.DecodeError:
        last = (stderr.decode(errors="replace").strip().splitlines() or ["silence"])[-1]
        why = f"the self-test ended with status {status} and no report: {last[:REPORT_CHARS]}"
        return Outcome(ok=False, code=SelfTestFailedError.code, why=why)
