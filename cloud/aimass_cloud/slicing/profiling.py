"""What each way to answer a request costs: measured here, in the units of the planner.

Slices on the edge, the whole model in the cloud behind each codec of its inputs, heads here and
tails there. Times are processor time of one core; losses are of samples.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aimass_shared.activations import CODECS, ActivationCodec, decode, encode
from aimass_shared.errors import BadTensorError
from aimass_shared.planning.profiles import Candidate, Profile

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]

BLOCK, LEAST_BLOCKS, BLOCKS, MOST_SECONDS = 10, 4, 40, 6.0
NORMAL_75: Final = 0.6745
"""Upper quartile of a normal distribution, in standard deviations."""


def timed(run: Callable[[], object], *, most_seconds: float = MOST_SECONDS) -> tuple[float, float]:
    """Median in ms, and standard deviation of the logarithm, from the upper quartile.

    CPU time of the thread, in the quietest quarter of some blocks of runs: what is left tells least
    of the machine's other work. Blocks are shorter where one run takes long.
    """
    started = time.perf_counter()
    run()
    once = time.perf_counter() - started
    size = max(2, min(BLOCK, int(most_seconds / LEAST_BLOCKS / max(once, 1e-9))))
    blocks: list[list[int]] = []
    started = time.perf_counter()
    while len(blocks) < LEAST_BLOCKS or (
        len(blocks) < BLOCKS and time.perf_counter() - started < most_seconds
    ):
        blocks.append([_once(run) for _ in range(size)])
    quiet = sorted(blocks, key=np.median)[: max(2, len(blocks) // 4)]
    median, high = np.percentile(quiet, (50, 75))
    return float(median) / 1e6, float(np.log(high / max(median, 1.0))) / NORMAL_75


def _once(run: Callable[[], object]) -> int:
    before = time.thread_time_ns()
    run()
    return time.thread_time_ns() - before


@dataclass(frozen=True, eq=False)
class Subject:
    """What a model is measured on.

    Attributes:
        one: what a request carries, as inputs of the graph.
        requests: samples that losses are of, as requests.
        error: of the outputs for those, in the model's own measure.
        share: what an error is as a share of the accuracy of the whole model in float, 0 to 1.
        seconds: that one time may take to measure.
    """

    one: Arrays
    requests: Sequence[Arrays]
    error: Callable[[Sequence[Arrays]], float]
    share: Callable[[float], float]
    seconds: float = MOST_SECONDS

    def error_of(self, answer: Run) -> float:
        """The error of what answers requests."""
        return self.error([answer(request) for request in self.requests])

    def loss_of(self, answer: Run) -> float:
        """The accuracy that is lost by what answers requests."""
        return round(min(1.0, max(0.0, self.share(self.error_of(answer)))), 5)


@dataclass(frozen=True)
class Packing:
    """How arrays travel: to bytes, and back."""

    pack: Callable[[Arrays], bytes]
    unpack: Callable[[bytes], Arrays]


def packing(codec: ActivationCodec) -> Packing:
    """A codec of what crosses."""
    return Packing(lambda arrays: encode(arrays, codec), decode)


def on_edge(subject: Subject, candidate: Candidate, run: Run, *, memory_mib: float) -> Profile:
    """A slice that runs on the device."""
    ms, spread = timed(lambda: run(subject.one), most_seconds=subject.seconds)
    return Profile(
        candidate=candidate,
        edge_ms=round(ms, 4),
        edge_spread=round(spread, 4),
        memory_mib=memory_mib,
        loss=subject.loss_of(run),
    )


@dataclass(frozen=True, eq=False)
class Way:
    """A head here, a packing, a tail there.

    Attributes:
        head: gives what crosses, and outputs that are ready by then; of a whole model, the inputs.
        crossing: names of what crosses; all that the head gives if there are none.
    """

    head: Run
    packing: Packing
    tail: Run
    crossing: Sequence[str] = ()

    def sent(self, between: Arrays) -> bytes:
        """What goes up."""
        names = self.crossing or tuple(between)
        return self.packing.pack({name: between[name] for name in names})

    def answer(self, arrays: Arrays) -> Arrays:
        """The outputs of a request."""
        between = self.head(arrays)
        return {**between, **self.tail(self.packing.unpack(self.sent(between)))}


def handed_off(
    subject: Subject, candidate: Candidate, way: Way, *, memory_mib: float = 0.0
) -> Profile:
    """A request that is begun on the device and answered in the cloud.

    Raises:
        BadTensorError: the packing does not hold the numbers.
    """
    raw = way.sent(way.head(subject.one))
    here = timed(lambda: way.sent(way.head(subject.one)), most_seconds=subject.seconds)
    there = timed(lambda: way.tail(way.packing.unpack(raw)), most_seconds=subject.seconds)
    return Profile(
        candidate=candidate,
        edge_ms=round(here[0], 4),
        edge_spread=round(here[1], 4),
        cloud_ms=round(there[0], 4),
        cloud_spread=round(there[1], 4),
        bytes_up=len(raw),
        memory_mib=memory_mib,
        loss=subject.loss_of(way.answer),
    )


def in_cloud(subject: Subject, whole: Run, *, width: float = 1.0) -> list[Profile]:
    """The whole model there, its inputs plain and in each codec that makes them smaller."""
    found: list[Profile] = []
    for codec in CODECS:
        way = Way(dict, packing(codec), whole)
        try:
            size = len(way.sent(subject.one))
            if not found or size < min(one.bytes_up for one in found):
                one = Candidate(width, "fp32", "cloud", codec=codec)
                found.append(handed_off(subject, one, way))
        except BadTensorError:  # numbers that the codec cannot hold
            continue
    return found
