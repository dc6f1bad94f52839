"""Which values activations take on samples: what their rounding is fitted to. No torch in here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from aimass_cloud.models.samples import Arrays
from aimass_cloud.slicing.costs import session_of

Method = Literal["squares", "percentile", "minmax"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
"""How ends are chosen: those with the least squared error of rounding and clipping, those that
leave out one value in ten thousand on each side, or all values."""
BATCH: Final = 32
MOST_SAMPLES: Final = 256
BINS: Final = 2048
LEFT_OUT: Final = 1e-4
STEPS: Final = 255
SHRUNK: Final = np.linspace(1.0, 0.3, 36)
"""Shares of the whole range that are tried for the least squared error."""

Ends = tuple[float, float]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranges:
    """Smallest and largest value of each activation, and how often values in between came.

    Attributes:
        ends: by the name of the activation; 0 is always within.
        counts: of `BINS` equal parts between the ends.
    """

    ends: Mapping[str, Ends]
    counts: Mapping[str, Floats]

    def by(self, method: Method, *, symmetric: bool = False) -> dict[str, Ends]:
        """The ends that are rounded between; `symmetric` around 0 for signed numbers."""
        return {name: self._one(name, method, symmetric=symmetric) for name in self.counts}

    def _one(self, name: str, method: Method, *, symmetric: bool) -> Ends:
        low, high = self.ends[name]
        if method == "percentile":
            low, high = _percentile(low, high, self.counts[name])
        if symmetric:
            low, high = -max(-low, high), max(-low, high)
        if method == "squares":
            low, high = _least(low, high, _values(*self.ends[name], self.counts[name]))
        return low, high


def observed(graph: onnx.ModelProto, inputs: Arrays, names: Sequence[str]) -> Ranges:
    """What a float graph's activations are on samples (at most 256, evenly taken)."""
    ends: dict[str, Ends] = {}
    for name, array in _seen(graph, inputs, names):
        low, high = ends.get(name, (0.0, 0.0))
        ends[name] = min(low, float(array.min())), max(high, float(array.max()))
    counts = {name: np.zeros(BINS) for name in ends}
    for name, array in _seen(graph, inputs, names):
        low, high = ends[name]
        counts[name] += np.histogram(array, BINS, (low, max(high, low + 1e-12)))[0]
    return Ranges(ends, counts)


def largest(graph: onnx.ModelProto, inputs: Arrays, names: Sequence[str]) -> dict[str, float]:
    """The largest absolute value of each of these floats on samples."""
    found: dict[str, float] = {}
    for name, array in _seen(graph, inputs, names):
        found[name] = max(found.get(name, 0.0), float(np.abs(array).max()))
    return found


def _seen(
    graph: onnx.ModelProto, inputs: Arrays, names: Sequence[str]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Values of floats, batch by batch; names of graph inputs are as good as any."""
    given = {name: array for name, array in inputs.items() if name in names}
    inner = [name for name in names if name not in given]
    session = session_of(_giving(graph, inner))
    count = len(next(iter(inputs.values())))
    rows = np.unique(np.linspace(0, count - 1, min(count, MOST_SAMPLES)).astype(int))
    for at in range(0, len(rows), BATCH):
        batch = {name: array[rows[at : at + BATCH]] for name, array in inputs.items()}
        values = dict(zip(inner, session.run(inner, batch), strict=True)) if inner else {}
        for name, array in {**values, **{name: batch[name] for name in given}}.items():
            if array.dtype == np.float32 and array.size:
                yield name, array


def _giving(graph: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The same graph with these values as outputs."""
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    there = {value.name for value in graph.graph.output}
    result.graph.output.extend(onnx.ValueInfoProto(name=one) for one in names if one not in there)
    return result


def _values(low: float, high: float, counts: Floats) -> tuple[Floats, Floats]:
    """Middles of the parts that have values, and how many."""
    width = (high - low) / BINS
    middles = (low + width * (np.arange(BINS) + 0.5)).astype(np.float64)
    return middles[counts > 0], counts[counts > 0]


def _percentile(low: float, high: float, counts: Floats) -> Ends:
    share = np.cumsum(counts) / max(counts.sum(), 1.0)
    width = (high - low) / BINS
    first = low + width * int(np.searchsorted(share, LEFT_OUT))
    last = low + width * (int(np.searchsorted(share, 1 - LEFT_OUT)) + 1)
    return min(first, 0.0), max(min(last, high), 0.0)


def _least(low: float, high: float, values: tuple[Floats, Floats]) -> Ends:
    """The share of a range whose rounding loses least: fine steps against what is clipped."""
    middles, counts = values

    def lost(share: float) -> float:
        clipped = middles - np.clip(middles, share * low, share * high)
        step = share * (high - low) / STEPS
        inside = counts[clipped == 0].sum()
        return float((counts * clipped**2).sum() + inside * step**2 / 12)

    best = min((float(share) for share in SHRUNK), key=lost)
    return best * low, best * high
