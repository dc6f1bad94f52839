"""The self-test of an install: run its vectors on this device, compare with the reference.

    python -m aimass_edge.update.selftest DIR [--board JSON] [--deadline SECONDS]

`selftest.npz` has the inputs as `in.<name>` and what the reference build gave as `out.<name>`. For
a tensor of BYTES that is either the numbers of the graph, or the texts themselves (Unicode arrays),
which then prove the vocabulary too. Outputs of floats may be off by the slice's tolerance for what
runs it; whole numbers, truth values and texts must be equal. A sample that takes longer than the
slice's bound is told; over 20 times the bound is a failure: something else than this file runs.
Prints one line of JSON (`prove.Outcome`) and exits with 0 if all is well, else with 1.
"""

import argparse
import os
import signal
import sys
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_edge.config import BoardSettings
from aimass_edge.inventory import peak_mib
from aimass_edge.runtime import ANY_SIZE, Session, backend_of, coder_beside, open_session
from aimass_edge.update.prove import Outcome
from aimass_edge.update.slots import FILE_NAMES, Bundle
from aimass_shared.errors import AimassError, SelfTestFailedError

Arrays = Mapping[str, NDArray[Any]]
TEXT = "U"
EXACT = "biuU"

EPSILON = 1e-6
MOST_RUNS, MOST_SECONDS = 20, 0.5
ABSURD = 20.0
NICENESS = 10


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """`max|found - expected| / (max|expected| + 1e-6)`; infinite where it cannot be compared.

    What is no float must be equal: then it is 0, else infinite.
    """
    if found.shape != expected.shape:
        return float("inf")
    if expected.dtype.kind in EXACT:
        return 0.0 if bool((found == expected).all()) else float("inf")
    if found.dtype.kind not in "fiub" or not np.isfinite(found).all():
        return float("inf")
    if not expected.size:
        return 0.0
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    return float(difference / (np.abs(expected.astype(np.float64)).max() + EPSILON))


def compare(found: Arrays, expected: Arrays, tolerance: float) -> float:
    """The largest relative error of all expected outputs.

    Raises:
        SelfTestFailedError: it is over the tolerance, or an output is missing.
    """
    if not expected:
        raise SelfTestFailedError("selftest.npz expects no outputs: it would prove nothing")
    worst = 0.0
    for name, array in expected.items():
        if name not in found:
            raise SelfTestFailedError(f"the model has no output {name}")
        error = relative_error(found[name], array)
        if not error <= tolerance:
            raise SelfTestFailedError(_off(name, error, tolerance))
        worst = max(worst, error)
    return worst


def _off(name: str, error: float, tolerance: float) -> str:
    if error == float("inf"):
        return f"output {name} is not what is expected: another shape, not finite, or not equal"
    return f"output {name} is off by {error:.3g} of its size, allowed is {tolerance:.3g}"


def read_vectors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Inputs and expected outputs, without their prefixes.

    Raises:
        SelfTestFailedError: the file is no such archive.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SelfTestFailedError(f"{path.name} cannot be read: {error}") from error
    return _prefixed(arrays, "in."), _prefixed(arrays, "out.")


def run(directory: Path, board: BoardSettings) -> Outcome:
    """Test the install in a directory.

    Raises:
        SelfTestFailedError: an output is off.
        ModelLoadFailedError: the runtime refuses the model.
    """
    start = time.monotonic()
    documents = [(directory / name).read_bytes() for name in ("manifest.json", "slice.json")]
    _, manifest, entry = Bundle(*documents).read()
    feeds, expected = read_vectors(directory / FILE_NAMES["selftest"])
    model = directory / FILE_NAMES["model"]
    coder = coder_beside(model, manifest.contract)
    asked = {**feeds, **coder.encode(_texts(feeds))}
    bound = entry.latency_ms * board.cpu_time_factor
    session = open_session(model, board)
    try:
        found = session.run(asked)
        times = sample_times(session, asked)
    finally:
        session.close()
    told = {name: array for name, array in found.items() if name in _texts(expected)}
    tolerance = entry.allowed(backend_of(board).arithmetic)
    worst = compare({**found, **coder.decode(told)}, expected, tolerance)
    took = min(times)
    if took > ABSURD * bound > 0:
        raise SelfTestFailedError(f"a sample takes {took:.1f} ms, {bound:.1f} ms are expected")
    return Outcome(
        ok=True,
        error=worst,
        tolerance=tolerance,
        latency_ms=took,
        p50_ms=median(times),
        bound_ms=bound,
        seconds=time.monotonic() - start,
        peak_mib=peak_mib(),
    )


def sample_times(session: Session, feeds: Arrays) -> list[float]:
    """Milliseconds of some runs over the first sample, or over all where the batch is fixed."""
    open_ones = {spec.name for spec in session.inputs if spec.shape[:1] == (ANY_SIZE,)}
    first = {name: array[:1] if name in open_ones else array for name, array in feeds.items()}
    times: list[float] = []
    end = time.monotonic() + MOST_SECONDS
    while len(times) < MOST_RUNS and (not times or time.monotonic() < end):
        start = time.perf_counter()
        session.run(first)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; see the module's text."""
    parser = argparse.ArgumentParser(prog="aimass_edge.update.selftest", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--board", default="{}", help="`config.BoardSettings` as JSON")
    parser.add_argument("--deadline", type=float, default=0.0)
    given = parser.parse_args(arguments)
    # The parent stops this process in time; if the parent is gone, the timer does. What runs in
    # production comes first, hence nice.
    signal.setitimer(signal.ITIMER_REAL, given.deadline)
    os.nice(NICENESS)
    board = msgspec.json.decode(given.board, type=BoardSettings)
    try:
        outcome = run(given.directory, board)
    except AimassError as error:
        outcome = Outcome(ok=False, code=error.code, why=error.detail)
    sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")
    return 0 if outcome.ok else 1


def _texts(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Those arrays that hold texts, as a request has them."""
    found = {name: array for name, array in arrays.items() if array.dtype.kind == TEXT}
    return {name: array.astype(object) for name, array in found.items()}


def _prefixed(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


if __name__ == "__main__":
    sys.exit(main())
