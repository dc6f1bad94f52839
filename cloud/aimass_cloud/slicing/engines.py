"""Whether TensorRT builds an engine of an ONNX file: asked here, before a device meets the file.

    verdict_of(model)        "builds", "refused (ScatterND: reduction is not supported)", or ""
    tried(path).verdict      the same of a file, with the size of the engine and how long it took

Each file is tried in a process of its own, `python -m aimass_cloud.slicing.engines`: TensorRT may
crash or hang, which is then the verdict. No GPU is needed. Without tensorrt_rtx nobody knows: "".
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import msgspec

from aimass_shared.slices import BUILDS, REFUSED

MOST_BATCH = 64
DEADLINE_S = 120.0
UNKNOWN = "TensorRT"
"""What is blamed where no operator can be."""


class Trial(msgspec.Struct, frozen=True):
    """What TensorRT made of a file.

    Attributes:
        verdict: "builds", "refused (operator: reason)", or "" where TensorRT is not installed.
        engine_bytes: size of the engine.
        seconds: that parsing and building took, on this machine.
        architectures: of GPUs that the one engine is for, such as SM86.
        tensorrt: its version.
    """

    verdict: str
    engine_bytes: int = 0
    seconds: float = 0.0
    architectures: tuple[str, ...] = ()
    tensorrt: str = ""

    @property
    def builds(self) -> bool:
        """Whether there is an engine."""
        return self.verdict == BUILDS


def refused(operator: str, reason: str) -> str:
    """The verdict of an operator that is refused: one line."""
    return f"{REFUSED} ({operator}: {' '.join(reason.split())})"


def verdict_of(
    model: bytes, *, most_batch: int = MOST_BATCH, deadline_s: float = DEADLINE_S
) -> str:
    """Whether TensorRT builds a model whose weights are in it.

    Args:
        model: an ONNX file.
        most_batch: largest size of a leading axis that may have any.
        deadline_s: for the process that tries it; it is killed then.

    Returns:
        "builds", "refused (operator: reason)", or "" where TensorRT is not installed.
    """
    return verdicts_of([model], most_batch=most_batch, deadline_s=deadline_s)[0]


def verdicts_of(
    models: Sequence[bytes], *, most_batch: int = MOST_BATCH, deadline_s: float = DEADLINE_S
) -> list[str]:
    """Verdicts of several models, tried beside each other: as many as there are cores."""
    if not is_installed():
        return [""] * len(models)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.onnx" for number in range(len(models))]
        for path, model in zip(paths, models, strict=True):
            path.write_bytes(model)
        trials = all_tried(paths, most_batch=most_batch, deadline_s=deadline_s)
    return [trial.verdict for trial in trials]


def all_tried(
    paths: Sequence[Path], *, most_batch: int = MOST_BATCH, deadline_s: float = DEADLINE_S
) -> list[Trial]:
    """What TensorRT makes of several files, tried beside each other."""

    def one(path: Path) -> Trial:
        return tried(path, most_batch=most_batch, deadline_s=deadline_s)

    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(one, paths))


def tried(
    path: Path,
    *,
    most_batch: int = MOST_BATCH,
    deadline_s: float = DEADLINE_S,
    sizes: Mapping[str, int] | None = None,
) -> Trial:
    """What TensorRT makes of a file; weights in files beside it are found.

    Args:
        path: of an ONNX file.
        most_batch: largest size of a leading axis that may have any.
        deadline_s: for the process that tries it; it is killed then.
        sizes: of other axes that may have any size, by name.
    """
    if not is_installed():
        return Trial("")
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", __name__, str(path.absolute()), str(answer)]
        command += ["--most-batch", str(most_batch), "--seconds", str(deadline_s)]
        for name, size in (sizes or {}).items():
            command += ["--size", f"{name}={size}"]
        return ended(command, answer, deadline_s)


def ended(command: Sequence[str], answer: Path, deadline_s: float) -> Trial:
    """What a process writes to a file, or how it failed to."""
    started = time.perf_counter()
    # Our own interpreter and arguments. Its output only repeats TensorRT's log; it ends when its
    # input is closed, as that is when we die.
    process = subprocess.Popen(  # noqa: S603  no shell, nothing from outside
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        failure = f"crashed (status {process.wait(deadline_s)})"
    except subprocess.TimeoutExpired:
        failure = f"took over {deadline_s:g} s"
    finally:
        process.kill()
        process.communicate()
    # It may have found an answer, and died looking for the operator that is to blame.
    if answer.is_file():
        return msgspec.json.decode(answer.read_bytes(), type=Trial)
    return Trial(refused(UNKNOWN, failure), seconds=round(time.perf_counter() - started, 3))


def is_installed() -> bool:
    """Whether TensorRT can be asked at all."""
    return find_spec("tensorrt_rtx") is not None


def _end_with_parent() -> None:
    """End at once when the other end of standard input is closed, as it is when a parent dies."""

    def watch() -> None:
        os.read(0, 1)  # not through sys.stdin, whose lock an interpreter that ends needs
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Try one file, in this process."""
    from aimass_cloud.slicing.building import Building  # noqa: PLC0415  only this process needs it

    parser = argparse.ArgumentParser(prog="python -m aimass_cloud.slicing.engines")
    parser.add_argument("model", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--most-batch", type=int, default=MOST_BATCH)
    parser.add_argument("--seconds", type=float, default=DEADLINE_S)
    parser.add_argument("--size", action="append", default=[])
    arguments = parser.parse_args()
    _end_with_parent()
    named = [size.rpartition("=") for size in arguments.size]
    building = Building(arguments.most_batch, {name: int(size) for name, _, size in named})
    for trial in building.trials(arguments.model, arguments.seconds):
        half = arguments.answer.with_suffix(".tmp")
        half.write_bytes(msgspec.json.encode(trial))
        half.replace(arguments.answer)


if __name__ == "__main__":
    main()
