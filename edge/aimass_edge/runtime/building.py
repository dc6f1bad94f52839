"""Builds an engine in a process of its own: TensorRT may crash, and takes minutes on small boards.

    python -m aimass_edge.runtime.building MODEL --engines JSON --capability X.Y

Prints one line of JSON (`Built`) and exits with 0 if the engine is in the cache. It ends with the
process that started it, and by itself when its time is over. What runs in production comes first,
hence nice.
"""

import argparse
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from aimass_edge.config import EngineSettings
from aimass_edge.runtime.cuda import open_cuda
from aimass_edge.runtime.engines import EngineCache, EngineKey
from aimass_edge.runtime.executing import EngineSession
from aimass_edge.runtime.tensorrt import build, key_of, load
from aimass_shared.errors import (
    AimassError,
    DeadlineExceededError,
    ModelLoadFailedError,
    StorageError,
)

NICENESS = 10
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
REASON_CHARS = 300


class Built(msgspec.Struct, frozen=True):
    """What the child prints: `code` and `why` of the error where there is no engine."""

    ok: bool
    code: str = ""
    why: str = ""


def open_engine(model: Path, engines: EngineSettings) -> EngineSession:
    """A session over the engine of a file, from the cache or built now; blocks for as long.

    Raises:
        ModelLoadFailedError: there is no TensorRT or no GPU, or TensorRT refuses the model.
        DeadlineExceededError: building took too long, which is no verdict on the model.
        StorageError: the engine cannot be kept.
    """
    if not model.is_file():
        raise ModelLoadFailedError(f"there is no model file {model}")
    cuda = open_cuda()
    key = key_of(model, engines, capability=cuda.capability())
    cache = EngineCache(Path(engines.folder), engines.kept)
    found = cache.find(key)
    if found is not None:
        try:
            return load(found, engines.most_batch, cuda)
        except ModelLoadFailedError:
            cache.drop(key)  # whole as a file, and yet not for this TensorRT: built again
    return load(built(model, engines, key), engines.most_batch, cuda)


def built(model: Path, engines: EngineSettings, key: EngineKey) -> bytes:
    """The engine of a file, from the cache or built in a child process.

    Raises:
        ModelLoadFailedError, DeadlineExceededError, StorageError: see `open_engine`.
    """
    cache = EngineCache(Path(engines.folder), engines.kept)
    found = cache.find(key)
    if found is None:
        _build_in_child(model, engines, key.capability)
        found = cache.find(key)
    if found is None:
        raise StorageError(f"the engine of {model.name} was built and is not in {engines.folder}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; see the module's text."""
    parser = argparse.ArgumentParser(prog="aimass_edge.runtime.building", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--engines", required=True)
    parser.add_argument("--capability", required=True)
    given = parser.parse_args(arguments)
    engines = msgspec.json.decode(given.engines, type=EngineSettings)
    _end_in_time(engines.deadline_s)
    try:
        _build(given.model, engines, given.capability)
        answer = Built(ok=True)
    except AimassError as error:
        answer = Built(ok=False, code=error.code, why=error.detail)
    except OSError as error:
        answer = Built(ok=False, code=StorageError.code, why=f"{engines.folder}: {error.strerror}")
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    return 0 if answer.ok else 1


def _build(model: Path, engines: EngineSettings, capability: str) -> None:
    cache = EngineCache(Path(engines.folder), engines.kept)
    key = key_of(model, engines, capability=capability)
    with _held(cache.lock):
        if cache.find(key) is None:
            cache.keep(key, build(model, engines, capability=capability))


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Wait for whoever builds now: it may be the same engine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _end_in_time(deadline_s: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, deadline_s)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    os.nice(NICENESS)


def _build_in_child(model: Path, engines: EngineSettings, capability: str) -> None:
    command = [
        *(sys.executable, "-m", "aimass_edge.runtime.building", str(model)),
        *("--engines", msgspec.json.encode(engines).decode(), "--capability", capability),
    ]
    try:
        done = subprocess.run(  # noqa: S603  our own module
            command, capture_output=True, check=False, timeout=engines.deadline_s
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceededError(
            f"building the engine of {model.name} took more than {engines.deadline_s:.0f} s: raise"
            " board.engines.deadline_s"
        ) from error
    answer = _read(done)
    if not answer.ok:
        kinds = (DeadlineExceededError, StorageError)
        kind = next((one for one in kinds if one.code == answer.code), ModelLoadFailedError)
        raise kind(answer.why)


def _read(done: "subprocess.CompletedProcess[bytes]") -> Built:
    """The child's report, or what its death tells."""
    try:
        return msgspec.json.decode(done.stdout, type=Built)
    except msgspec.DecodeError:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["silence"])[-1]
        return Built(
            ok=False,
            code=ModelLoadFailedError.code,
            why=f"TensorRT ended with status {done.returncode}: {last[:REASON_CHARS]}",
        )


if __name__ == "__main__":
    sys.exit(main())
