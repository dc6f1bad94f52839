"""Second opinions: a quarter-wide slice answers, the full one is asked about a share of it.

The recipe for pictures on scanned digits, trained for a short while; accuracy on test pictures that
come one by one in random order. A gate sees what the slice says, and of those that it lets through
what the full slice says; nobody sees the truth. The fixed gate's threshold is set on held-back
pictures for the share that is wanted, and keeps it.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_cloud import recipes
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.slicing import make_slices
from aimass_cloud.slicing.costs import Runner
from aimass_cloud.training import train
from aimass_edge.predict.cascade import Gate, features
from aimass_shared.slices import SliceSpec
from benchmarks.models.table import Row, at_least, at_most
from benchmarks.slices.trained import digits

SHARES: Final = (0.2, 0.4)
SEEDS, PASSES = 3, 20
STEPS: Final = 200
OFF: Final = 0.05
"""What the share that goes may be off, of the share that is wanted."""

Floats = NDArray[np.floating[Any]]
Wants = Callable[[Floats, int], bool]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a slice and the full model say of pictures, and what they are."""

    small: Floats
    full: Floats
    labels: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.full.argmax(axis=1) == self.labels)


def measure(quick: bool) -> list[Row]:  # noqa: FBT001  as every benchmark here
    """Accuracy by gate at each share, and the share that went."""
    seeds = 1 if quick else SEEDS
    found = [_answers(seed) for seed in range(seeds)]
    rows = [
        Row("digits", "quarter alone", "accuracy", _mean(found, lambda one: one[1].small)),
        Row("digits", "full alone", "accuracy", _mean(found, lambda one: one[1].full)),
    ]
    for share in SHARES:
        rows += _judged(found, share)
    return rows


def _mean(found: list[tuple[Answers, Answers]], of: Callable[..., Floats]) -> float:
    hits = [np.mean(of(one).argmax(axis=1) == one[1].labels) for one in found]
    return float(np.mean(hits))


def _judged(found: list[tuple[Answers, Answers]], share: float) -> list[Row]:
    label = f"digits, {share:.0%} asked again"
    figures: dict[str, list[tuple[float, float]]] = {}
    for seed, (held, test) in enumerate(found):
        for name, (wants, learn) in _gates(held, share, seed).items():
            figures.setdefault(name, []).append(_stream(test, wants, learn, seed))
    means = {name: np.mean(values, axis=0) for name, values in figures.items()}
    chance = float(means["chance"][0])
    rows = []
    for name, (accuracy, went) in means.items():
        row = Row(label, name, "accuracy", float(accuracy))
        off = Row(label, name, "share off by", abs(float(went) - share) / share)
        rows += [at_least(row, chance), at_most(off, OFF)] if name == "ours" else [row, off]
    return rows


Learn = Callable[[Floats, NDArray[Any]], None]


def _gates(held: Answers, share: float, seed: int) -> dict[str, tuple[Wants, Learn]]:
    gate, random = Gate(share, seed), np.random.default_rng(seed)
    unsure = features(held.small)
    sure = np.quantile(unsure[:, 1], 1 - share)
    mixed = np.quantile(unsure[:, 2], 1 - share)

    def nothing(_given: Floats, _labels: NDArray[Any]) -> None:
        return

    return {
        "ours": (lambda given, _: gate.wants(given), gate.learn),
        "largest probability, fixed": (
            lambda given, _: bool(features(given)[0, 1] > sure),
            nothing,
        ),
        "entropy, fixed": (lambda given, _: bool(features(given)[0, 2] > mixed), nothing),
        "chance": (lambda _given, _: bool(random.random() < share), nothing),
    }


def _stream(test: Answers, wants: Wants, learn: Learn, seed: int) -> tuple[float, float]:
    """Accuracy and share of what went, over some passes in random order."""
    random = np.random.default_rng((seed, 1))
    right, went, count = 0, 0, 0
    for at in _order(len(test.labels), random):
        given = test.small[at : at + 1]
        answer = int(given.argmax())
        if wants(given, at):
            answer = int(test.full[at].argmax())
            learn(given, np.array([answer]))
            went += 1
        right += answer == test.labels[at]
        count += 1
    return right / count, went / count


def _order(count: int, random: np.random.Generator) -> Iterator[int]:
    for _ in range(PASSES):
        yield from random.permutation(count).tolist()


def _answers(seed: int) -> tuple[Answers, Answers]:
    """Of held-back and of test pictures."""
    plan = recipes.find("image")
    with digits() as data:
        run = msgspec.structs.replace(
            plan.run,
            data=str(data),
            steps=STEPS,
            check=STEPS // 3,
            seed=seed,
            widths=(0.25, 1.0),
            options={"stages": [16, 16, 32, 64]},
        )
        model = train("image", run)
    small, full = _runners(model)
    samples = model.samples

    def of(part: Any) -> Answers:  # noqa: ANN401  samples with their truth
        said, told = (runner.run(part.inputs)["probabilities"] for runner in (small, full))
        return Answers(said, told, part.truth["label"].astype(np.int64))

    return of(samples.calibration), of(samples.test)


def _runners(model: TrainedModel) -> tuple[Runner, Runner]:
    import onnx  # noqa: PLC0415  slow to import

    specs = [SliceSpec(width, "fp32") for width in (0.25, 1.0)]
    with tempfile.TemporaryDirectory() as folder:
        made = make_slices(model, Path(folder), specs=specs)
        graphs = [onnx.load_model(dict(one.files)["model"]) for one in made]
    small, full = (Runner(graph) for graph in graphs)
    return small, full
