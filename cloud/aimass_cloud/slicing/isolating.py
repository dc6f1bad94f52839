"""Starts the process that looks at a user's model, follows it, and says in one error what it met.

A model that crashes its runtime, hangs or eats memory does so in a process that nobody needs.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from aimass_cloud.slicing.pareto import DeviceClass
from aimass_shared.errors import (
    AimassError,
    DeadlineExceededError,
    ModelLoadFailedError,
)
from aimass_shared.manifest import Contract, SliceArtifact

log = logging.getLogger(__name__)

ORDER, SOURCE, SLICES, IMPORTED = "order.json", "source", "slices", "imported.json"
MOST_CUTS: Final = 16
KEPT: Final = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
"""Of the environment: what stands there for others is no business of a stranger's model."""
REPORT_CHARS: Final = 300


class Order(msgspec.Struct, frozen=True):
    """What is wanted of a model.

    Attributes:
        name: of the model. graph: its file. samples: an `.npz` file with an array for each input.
        labels: names of the classes, in the order of the last axis of the first output.
        sizes: of symbolic axes, such as a length. cuts: cut slices, at most.
        classes: of devices that other number formats are tried for.
    """

    name: str
    graph: str
    samples: str = ""
    labels: tuple[str, ...] = ()
    sizes: dict[str, int] = {}
    cuts: Annotated[int, msgspec.Meta(ge=0, le=MOST_CUTS)] = 3
    classes: tuple[DeviceClass, ...] = ("cpu", "tensorrt")


class Imported(msgspec.Struct, frozen=True):
    """What was made of a user's model.

    Attributes:
        parameters: numbers that it stores. metrics: what was found, for people.
    """

    contract: Contract
    slices: tuple[SliceArtifact, ...]
    parameters: int
    metrics: dict[str, Any]


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the child's output: how far it is, or the code of what went wrong."""

    message: str
    progress: float = 0.0
    code: str = ""


class Limits(msgspec.Struct, frozen=True):
    """What the child may take."""

    deadline_s: float
    memory_mib: int


async def isolated(folder: Path, limits: Limits, progress: Callable[[float, str], None]) -> None:
    """Import the model in a folder in a process of its own (see `importing`).

    Raises:
        ModelLoadFailedError: the model ended the process, or is not to be had.
        DeadlineExceededError: it took too long.
        AimassError: what else the child says.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aimass_cloud.slicing.importing", str(folder)),
        *("--memory-mib", str(limits.memory_mib)),
        stdin=asyncio.subprocess.PIPE,  # it ends when this is closed: it cannot be left behind
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: os.environ[name] for name in KEPT if name in os.environ}
        | {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"},
    )
    try:
        async with asyncio.timeout(limits.deadline_s):
            last, silence = await asyncio.gather(
                _followed(process.stdout, progress), _read_all(process.stderr)
            )
            status = await process.wait()
    except TimeoutError as error:
        raise DeadlineExceededError(
            f"the model took more than {limits.deadline_s:g} s to look at: raise"
            " slicing.deadline_s if it is that large"
        ) from error
    finally:
        await _ended(process)
    if status:
        raise _error(last, status, silence)


async def _followed(
    stdout: asyncio.StreamReader | None, progress: Callable[[float, str], None]
) -> Line:
    """Pass on how far it is; its last line."""
    last = Line("starting")
    while stdout is not None and (raw := await stdout.readline()):
        with contextlib.suppress(msgspec.DecodeError):  # a library may print, too
            last = msgspec.json.decode(raw, type=Line)
            if not last.code:
                progress(last.progress, last.message)
    return last


async def _read_all(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _error(last: Line, status: int, stderr: bytes) -> AimassError:
    """What the child said, or what its end tells."""
    if last.code:
        return _kind(last.code)(last.message)
    log.warning("a model ended the process that looked at it: %s", stderr.decode(errors="replace"))
    words = (stderr.decode(errors="replace").strip().splitlines() or ["silence"])[-1]
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return ModelLoadFailedError(
        f"the process that looked at the model ended {how} while {last.message}:"
        f" {words[:REPORT_CHARS]}; the model is refused"
    )


def _kind(code: str) -> type[AimassError]:
    return next((kind for kind in _tree(AimassError) if kind.code == code), ModelLoadFailedError)


def _tree(kind: type[AimassError]) -> Iterator[type[AimassError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
