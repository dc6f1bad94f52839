"""Cuts: head and tail are the whole on every cut of many graphs, and what the hand-off costs."""

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.slicing.cuts import MOST_TENSORS, Cut, Reference, Whole, cuts_of, split, whole
from aimass_cloud.slicing.cuts.running import Runner
from aimass_shared.activations import ActivationCodec, chosen, decode, encode, largest_share
from benchmarks.models.table import Row, at_least, at_most
from benchmarks.slices import trained
from benchmarks.slices.onnx_graphs import SIZES, Graph, built, decomposed, networks

GRAPHS_BAR, ERROR_BAR, SMALLER_BAR, LOST_BAR = 20, 1e-5, 4.0, 0.1
LEAST_BYTES: Final = 4096
"""Of float32 that cross: under it a hand-off is a few packets whatever it is sent as."""
MOST_SAMPLES: Final = 392
CHOSEN_ON: Final = 32
"""Samples that codecs are chosen on; the others are the test."""
BUDGET: Final = 0.05
"""Largest error of the scores, as a share of the largest."""
CLOCK_RUNS: Final = 5
HALVES: Final = {"half precision"}

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Proof:
    """All cuts of one graph."""

    name: str
    cuts: int
    worst: float
    identical: int


def measure(quick: bool) -> list[Row]:  # noqa: FBT001  the only question that benchmarks are asked
    """Errors of all cuts, then bytes and losses of the hand-off."""
    rows = _equality(quick=quick)
    for model in (trained.cnn(), trained.transformer()):
        rows += _hand_off(model)
    return rows


def _equality(*, quick: bool) -> list[Row]:
    proofs = [_proved(graph) for graph in _graphs(quick=quick)]
    rounded = [one for one in proofs if one.name.endswith("int8")]
    floats = [one for one in proofs if one not in rounded and one.name not in HALVES]
    total = sum(one.cuts for one in floats)
    same = sum(one.identical for one in floats)
    return [
        *(Row(one.name, f"{one.cuts} cuts", "max abs error", one.worst) for one in proofs),
        at_least(Row("float graphs", "ours", "graphs", len(floats)), GRAPHS_BAR),
        Row("float graphs", "ours", "cuts", total),
        Row("float graphs", "ours", "identical to the bit, %", 100 * same / total),
        at_most(
            Row("float graphs", "ours", "max abs error", max(one.worst for one in floats)),
            ERROR_BAR,
        ),
    ]


def _graphs(*, quick: bool) -> Iterator[Graph]:
    with tempfile.TemporaryDirectory() as folder:
        yield from built(Path(folder))
    yield from networks(quick=quick)
    yield from decomposed(quick=quick)
    for name in list(trained.RUNS)[: 1 if quick else None]:
        for label, graph, samples in trained.slices(name):
            yield Graph(label, whole(graph), samples)


def _proved(graph: Graph) -> _Proof:
    started = time.perf_counter()
    # Of int8 graphs, which are not judged, one tensor is enough to see what rounding does.
    most = 1 if graph.name.endswith("int8") else MOST_TENSORS
    found = cuts_of(graph.whole, most_tensors=most, sizes=SIZES)
    reference = Reference(graph.whole, graph.inputs, sizes=SIZES)
    agreements = [reference.agreement(*split(graph.whole, cut)) for cut in found.cuts]
    seconds = time.perf_counter() - started
    print(f"  {graph.name}: {len(agreements)} cuts, {seconds:.1f} s {found.note}", file=sys.stderr)
    return _Proof(
        graph.name,
        len(agreements),
        max((one.max_abs_error for one in agreements), default=0.0),
        sum(one.identical for one in agreements),
    )


@dataclass(frozen=True)
class _Sent:
    """What one cut sends: each test sample by itself, behind one codec."""

    codec: ActivationCodec
    smaller: float
    accuracy: float
    error: float
    ms_a_mib: float


@dataclass(frozen=True)
class _Place:
    """A cut with what crosses there, for all samples."""

    tail: Runner
    crossing: Arrays
    bytes: int

    def scores(self, arrays: Arrays, name: str) -> Arrays:
        """The tail's answer alone."""
        return {name: self.tail.run(arrays)[name]}


def _hand_off(model: trained.Trained) -> list[Row]:
    """Bytes against float32 and the loss of accuracy, of all cuts that one would take."""
    given = whole(model.graph)
    inputs = {name: array[:MOST_SAMPLES] for name, array in model.inputs.items()}
    reference = Reference(given, inputs)
    full = 100 * _accuracy(reference.outputs[model.scores][CHOSEN_ON:], model)
    cuts = [one for one in cuts_of(given).cuts if not one.splits and _is_sent(one)]
    places = [_place(given, cut, inputs) for cut in cuts]
    chosen_ones = [_choice(place, model.scores) for place in places]
    sent = {codec: [_sent(place, codec, model) for place in places] for codec in ("int8", "fp16")}
    best = [
        _sent(place, codec, model) if codec == "none" else sent[codec][number]
        for number, (place, codec) in enumerate(zip(places, chosen_ones, strict=True))
    ]
    rows = [
        Row(model.name, "the whole", "accuracy %", full),
        Row(model.name, "the whole", "cuts", len(cuts)),
        *_summary(model.name, "fp16", sent["fp16"], full=full),
        *_summary(model.name, "int8", sent["int8"], full=full),
        *_summary(model.name, "chosen", best, full=full),
    ]
    share = 100 * chosen_ones.count("int8") / len(cuts)
    return [*rows, Row(model.name, "chosen", "int8 at, % of cuts", share)]


def _is_sent(cut: Cut) -> bool:
    """Whether enough crosses, sample by sample along the first axis."""
    apart = all(one.shape and isinstance(one.shape[0], str) for one in cut.crossing)
    return apart and (cut.bytes_per_sample or 0) >= LEAST_BYTES


def _place(given: Whole, cut: Cut, inputs: Arrays) -> _Place:
    head, tail = (Runner(part.model) for part in split(given, cut))
    known = {**inputs, **head.run(inputs)}
    crossing = {name: known[name] for name in cut.names}
    return _Place(tail, crossing, cut.bytes_per_sample or 0)


def _choice(place: _Place, scores: str) -> ActivationCodec:
    """The codec that a release would name, by samples that the test does not use."""
    first = {name: array[:CHOSEN_ON] for name, array in place.crossing.items()}
    found = chosen(first, lambda arrays: place.scores(arrays, scores), budget=BUDGET)
    return found.codec


def _sent(place: _Place, codec: ActivationCodec, model: trained.Trained) -> _Sent:
    count = len(next(iter(place.crossing.values())))
    samples = [_sample(place.crossing, number) for number in range(CHOSEN_ON, count)]
    messages = [encode(sample, codec) for sample in samples]
    arrived = [decode(message) for message in messages]
    together = {name: np.concatenate([one[name] for one in arrived]) for name in place.crossing}
    exact = {name: array[CHOSEN_ON:] for name, array in place.crossing.items()}
    found, expected = (place.scores(one, model.scores) for one in (together, exact))
    return _Sent(
        codec,
        place.bytes / float(np.mean([len(message) for message in messages])),
        100 * _accuracy(found[model.scores], model),
        largest_share(found, expected),
        _fastest_ms(samples[0], codec) / place.bytes * 2**20,
    )


def _summary(name: str, candidate: str, sent: list[_Sent], *, full: float) -> list[Row]:
    smaller = [one.smaller for one in sent]
    accuracy = [one.accuracy for one in sent]
    median = Row(name, candidate, "times smaller, median", float(np.median(smaller)))
    gap = round(full - float(np.mean(accuracy)), 6)
    lost = Row(name, candidate, "points lost, mean of cuts", gap)
    judged = candidate == "chosen"
    return [
        Row(name, candidate, "times smaller, least", min(smaller)),
        at_least(median, SMALLER_BAR) if judged else median,
        Row(name, candidate, "times smaller, most", max(smaller)),
        at_most(lost, LOST_BAR) if judged else lost,
        Row(name, candidate, "points lost, most", full - min(accuracy)),
        Row(name, candidate, "error of outputs, most", max(one.error for one in sent)),
        Row(name, candidate, "encode ms a MiB", float(np.median([one.ms_a_mib for one in sent]))),
    ]


def _sample(arrays: Arrays, number: int) -> Arrays:
    return {name: array[number : number + 1] for name, array in arrays.items()}


def _fastest_ms(arrays: Arrays, codec: ActivationCodec) -> float:
    times = []
    for _ in range(CLOCK_RUNS):
        started = time.perf_counter_ns()
        encode(arrays, codec)
        times.append(time.perf_counter_ns() - started)
    return min(times) / 1e6


def _accuracy(scores: NDArray[np.float32], model: trained.Trained) -> float:
    """Share of right answers of the test samples, those that no codec was chosen on."""
    labels = model.labels[CHOSEN_ON:][: len(scores)]
    return float(np.mean(scores.argmax(axis=-1) == labels))
