"""The best form of a float graph in each number format, chosen among several on held-back samples.

Ranges of activations are chosen in three ways, half precision goes three ways; the form whose
outputs are nearest to the float graph's is taken. Where that one loses more than the budget, the
products whose rounding costs most are found, one group at a time, and left in float: at most
`GROUPS` + 4 more forms are made. Test samples are never looked at. No torch in here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from aimass_cloud.models.samples import Arrays
from aimass_cloud.slicing.costs import Runner
from aimass_cloud.slicing.half import WAYS, Halves
from aimass_cloud.slicing.quantize import FORMS, activations, dynamic, products, rounded
from aimass_cloud.slicing.ranges import MOST_SAMPLES, Method, Ranges, observed
from aimass_shared.slices import Precision

GROUPS: Final = 8
"""Groups of products, in the order of the graph, whose rounding is tried alone."""
FAITHFUL: Final = 1e-5
"""Deviation up to which half precision is as good as float."""
RUNS: Final = 60

Array = NDArray[Any]
Measure = Callable[[Arrays], float]
Graph = onnx.ModelProto


@dataclass(frozen=True)
class Budget:
    """What a slice may lose against float, in the recipe's measure.

    Attributes:
        lost: points of the measure. share: of the float error; the larger of the two counts.
    """

    lost: float = 0.005
    share: float = 0.02

    def limit(self, error: float, grain: float = 0.0) -> float:
        """The largest error that is allowed; one sample of a share (`grain`) is no loss."""
        return error + max(self.lost, self.share * error, grain) + 1e-9


class Variant(msgspec.Struct, frozen=True):
    """A form that was tried.

    Attributes:
        slice: that it would be. name: how it was made.
        error: on held-back samples, in the recipe's measure; deviation: squared, of its outputs
            from float's, as a share of their variance.
        ms: of one sample on one core. taken: whether the slice is this one. why: reason.
    """

    slice: str
    name: str
    error: float
    deviation: float
    ms: float
    bytes: int
    taken: bool = False
    why: str = ""


@dataclass(frozen=True, eq=False)
class Form:
    """A graph with how well it does on held-back samples."""

    name: str
    graph: Graph
    error: float
    deviation: float
    ms: float

    def told(self, slice_name: str, best: "Form | None", why: str) -> Variant:
        """As a row of a table."""
        return Variant(
            slice=slice_name,
            name=self.name,
            error=self.error,
            deviation=self.deviation,
            ms=round(self.ms, 4),
            bytes=self.graph.ByteSize(),
            taken=self is best,
            why=why if self is best or best is None else "",
        )


@dataclass(frozen=True, eq=False)
class Best:
    """The form that is taken, if any keeps within the budget, and all that were tried.

    Attributes:
        why: why this one, or why none.
    """

    form: Form | None
    tried: Sequence[Form]
    why: str

    def told(self, slice_name: str) -> list[Variant]:
        """As rows of a table."""
        return [form.told(slice_name, self.form, self.why) for form in self.tried]


class Forms:
    """The forms of one float graph.

    Args:
        graph: float, folded.
        inputs: held-back samples; see `sampled`.
        kept: prefixes of the names of weights and constants whose products stay float.
        measure: the error of outputs for these samples.
        budget: what may be lost.
        grain: the smallest step of the measure.
    """

    def __init__(  # noqa: PLR0913  named
        self,
        graph: Graph,
        inputs: Arrays,
        *,
        kept: Sequence[str],
        measure: Measure,
        budget: Budget,
        grain: float = 0.0,
    ) -> None:
        self._graph, self._kept, self._measure = graph, kept, measure
        self._inputs = inputs
        self._first = {name: array[:1] for name, array in inputs.items()}
        self._outputs = Runner(graph).run(self._inputs)
        self._products = products(graph, kept)
        self.error = measure(self._outputs)
        self.limit = budget.limit(self.error, grain)

    def best(self, precision: Precision) -> Best:
        """The form that is taken in a number format."""
        if precision == "fp32":
            return self._only("float", self._graph, "what all others are compared with")
        if precision == "fp16":
            return self._half()
        if precision == "int8-dyn":
            return self._dynamic()
        return self._static(precision)

    @cached_property
    def halves(self) -> Halves:
        """The half precision forms."""
        return Halves(self._graph, self._inputs, self._kept)

    @cached_property
    def _ranges(self) -> Ranges:
        return observed(self._graph, self._inputs, activations(self._graph, self._products))

    def _form(self, name: str, graph: Graph) -> Form:
        runner = Runner(graph)
        outputs = runner.run(self._inputs)
        return Form(
            name,
            graph,
            error=self._measure(outputs),
            deviation=deviation(outputs, self._outputs),
            ms=runner.fastest_ms(self._first, RUNS),
        )

    def _only(self, name: str, graph: Graph, why: str) -> Best:
        form = self._form(name, graph)
        return self._judged(form, [form], why)

    def _judged(self, form: Form, tried: Sequence[Form], why: str) -> Best:
        if form.error <= self.limit:
            return Best(form, tried, why)
        return Best(None, tried, self._too_much(tried))

    def _too_much(self, tried: Iterable[Form]) -> str:
        least = min(form.error for form in tried)
        return (
            f"error {least:.4g} on held-back samples, float has {self.error:.4g},"
            f" the budget ends at {self.limit:.4g}"
        )

    def _half(self) -> Best:
        tried: list[Form] = []
        for way in WAYS:
            if not self.halves.chosen(way):
                continue
            tried.append(self._form(way, self.halves.form(way)))
            if tried[-1].deviation <= FAITHFUL and tried[-1].error <= self.limit:
                return Best(tried[-1], tried, "the most in half precision that deviates little")
        if not tried:
            return Best(None, [], "nothing can be in half precision")
        return self._judged(_nearest(tried), tried, "nearest to float")

    def _dynamic(self) -> Best:
        graph = dynamic(self._graph, self._products)
        if graph is self._graph:
            return Best(None, [], "no product of matrices with weights")
        return self._only("dynamic", graph, "the only one")

    def _static(self, precision: Precision) -> Best:
        if not self._products:
            return Best(None, [], "no product with weights")
        form = FORMS[precision]

        def made(method: Method, left: Sequence[str] = ()) -> Graph:
            ends = self._ranges.by(method, symmetric=form.symmetric)
            chosen = [name for name in self._products if name not in left]
            return rounded(self._graph, ends, chosen, form=form)

        methods: tuple[Method, ...] = ("squares", "percentile", "minmax")
        by = {method: self._form(method, made(method)) for method in methods}
        tried = list(by.values())
        first = _nearest(tried)
        if first.error <= self.limit:
            return Best(first, tried, "nearest to float")
        method = next(name for name, one in by.items() if one is first)
        return self._relieved(tried, lambda left: made(method, left), method)

    def _relieved(
        self, tried: list[Form], made: Callable[[Sequence[str]], Graph], method: str
    ) -> Best:
        """With more and more of the sensitive products in float, until the loss is small."""
        order = self._sensitive(made)
        for count in _steps(len(order)):
            left = [name for group in order[:count] for name in group]
            name = f"{method}, {len(left)} of {len(self._products)} in float"
            tried.append(self._form(name, made(left)))
            if tried[-1].error <= self.limit:
                return Best(tried[-1], tried, f"in float: {', '.join(left)}")
        return Best(None, tried, self._too_much(tried))

    def _sensitive(self, made: Callable[[Sequence[str]], Graph]) -> list[list[str]]:
        """Groups of products, the one whose rounding alone deviates most first."""
        parts = np.array_split(np.array(self._products, object), min(GROUPS, len(self._products)))
        groups = [[str(name) for name in part] for part in parts]

        def alone(group: Sequence[str]) -> float:
            others = [name for name in self._products if name not in group]
            return deviation(Runner(made(others)).run(self._inputs), self._outputs)

        return sorted(groups, key=alone, reverse=True)


def sampled(arrays: Arrays) -> Arrays:
    """At most 256 samples, evenly taken."""
    count = len(next(iter(arrays.values())))
    rows = np.unique(np.linspace(0, count - 1, min(count, MOST_SAMPLES)).astype(int))
    return {name: array[rows] for name, array in arrays.items()}


def deviation(outputs: Arrays, expected: Arrays) -> float:
    """Mean squared difference as a share of the variance, of the output where it is largest.

    Each entry of the last axis counts alike, whatever its unit; whole numbers are no quantities.
    """
    shares = [
        _share(outputs[name], wanted)
        for name, wanted in expected.items()
        if np.issubdtype(wanted.dtype, np.floating)
    ]
    return max(shares, default=0.0)


def _share(found: Array, wanted: Array) -> float:
    width = wanted.shape[-1] if wanted.ndim > 1 else 1
    first, second = (array.reshape(-1, width).astype(np.float64) for array in (found, wanted))
    variance = second.var(axis=0)
    alive = variance > np.finfo(np.float32).eps * (second**2).mean(axis=0)
    if not alive.any():
        return float(((first - second) ** 2).mean())
    share = float((((first - second) ** 2).mean(axis=0)[alive] / variance[alive]).mean())
    return share if np.isfinite(share) else float("inf")


def _nearest(forms: Sequence[Form]) -> Form:
    return min(forms, key=lambda form: form.deviation)


def _steps(count: int) -> Iterator[int]:
    """1, 2, 4 and so on, and last all but one."""
    step = 1
    while step < count - 1:
        yield step
        step *= 2
    if count > 1:
        yield count - 1
