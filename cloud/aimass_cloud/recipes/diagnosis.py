"""Recipe "diagnosis": which condition or fault a machine is in, from a window of its sensors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from aimass_cloud.datasets import conditions
from aimass_cloud.datasets.conditions import Conditions, Segment, Way
from aimass_cloud.datasets.runs import Run
from aimass_cloud.models.classifier import OUTPUTS, TEMPERATURE
from aimass_cloud.models.diagnosis import DiagnosisNetwork, Layout, neutral
from aimass_cloud.models.nesting import leading_count
from aimass_cloud.models.network import Batch, Network, Tensors, tensors
from aimass_cloud.models.samples import Arrays, Part, Samples
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_cloud.recipes import tep
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.recipes.classification import (
    accuracy_error,
    baselines,
    confusion,
    figures,
    temperatures,
)
from aimass_cloud.recipes.run import Optimizer, RunSettings, Schedule, configured
from aimass_cloud.recipes.task import Source, Task
from aimass_cloud.recipes.windowing import Windows
from aimass_shared.errors import InvalidSettingError, RequestError
from aimass_shared.manifest import Contract, TensorSpec
from aimass_shared.moments import Moments

CARRIED: Final = {"calibration": 500, "test": 1000}
CARRIED_BYTES: Final = 16 << 20
JUDGED, BASELINE_ROWS, AT_ONCE = 20_000, 5000, 1000
LEAST_DEVIATION: Final = 1e-6

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class DiagnosisConfig(Layout, frozen=True):
    """The network, and how recordings are cut.

    Attributes:
        split: what the parts are (see `conditions.cut`): "time", "runs" or "auto".
        draw: seed of the draw of runs. It is not the seed of the run: all are judged on the same.
        gaps: chance that a sensor is missing in a training window, so that the model can do without
            it. noise: added to training windows, in deviations.
    """

    split: Way = "auto"
    draw: int = 0
    gaps: float = 0.05
    noise: float = 0.1


SIZES: Final = {
    "tiny": DiagnosisConfig(hidden=64),
    "base": DiagnosisConfig(),
    "large": DiagnosisConfig(hidden=384, head=32, blocks=4, grown=4),
    "xl": DiagnosisConfig(hidden=1024, head=64, blocks=10, grown=4),
}


@dataclass(frozen=True, eq=False)
class Labelled:
    """Windows, each in one condition.

    Attributes:
        windows: of all segments of a part. labels: number of each one's condition.
    """

    windows: Windows
    labels: Labels

    @classmethod
    def of(cls, segments: Sequence[Segment], names: Sequence[str], length: int) -> "Labelled":
        """All windows of some segments."""
        runs = [Run(segment.run, segment.rows) for segment in segments]
        counts = [max(0, len(run.rows) - length + 1) for run in runs]
        numbers = [names.index(segment.condition) for segment in segments]
        return cls(Windows.of(runs, length), np.repeat(np.array(numbers, np.int64), counts))

    def spread(self, most: int) -> Labels:
        """Numbers of all windows, or of `most` that lie evenly."""
        kept = min(most, len(self.labels))
        return np.linspace(0, len(self.labels) - 1, kept).round().astype(np.int64)

    def part(self, numbers: Labels) -> Part:
        """Some windows as the network takes them."""
        values = self.windows.cut(numbers)
        mask = np.isfinite(values).astype(np.float32)
        inputs = {"values": np.nan_to_num(values), "mask": mask}
        return Part(inputs, {"label": self.labels[numbers]})


@dataclass(frozen=True, eq=False)
class Shaken:
    """Training windows drawn with replacement, with gaps and noise; see `Source`."""

    labelled: Labelled
    config: DiagnosisConfig
    scale: Floats
    seed: int
    batch: int
    rank: int
    world: int

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches from number `start` on, without end."""
        for number in count(start):
            random = np.random.default_rng((self.seed, number))
            chosen = random.integers(len(self.labelled.labels), size=self.batch)
            own = np.random.default_rng((self.seed, number, self.rank + 1))
            yield self._shaken(self.labelled.part(chosen[self.rank :: self.world]), own)

    def _shaken(self, part: Part, random: np.random.Generator) -> Batch:
        values, mask = part.inputs["values"], part.inputs["mask"]
        noise = random.standard_normal(values.shape, np.float32)
        values += noise * (self.config.noise * self.scale)
        mask *= random.random((len(mask), 1, mask.shape[2])) >= self.config.gaps
        return tensors({"values": values, "mask": mask, **part.truth})


class DiagnosisTask(Task):
    """Recordings in three parts, with moments of the training rows."""

    per_width = (TEMPERATURE,)

    def __init__(self, data: Conditions, config: DiagnosisConfig, *, seed: int) -> None:
        """Cut the recordings.

        Raises:
            DataError: a condition has too few rows.
        """
        self.config: DiagnosisConfig = config
        self._seed, self._sensors, names = seed, data.sensors, data.names
        parts = conditions.cut(data, config.window, way=config.split, seed=config.draw)
        self._train, self._held, self._test = (
            Labelled.of(segments, names, config.window) for segments in parts
        )
        self._moments = _moments(np.concatenate([one.rows for one in parts.train]))
        shape = (-1, config.window, len(data.sensors))
        self.contract = Contract(
            model=RECIPE.model,
            inputs=(TensorSpec("values", "FP32", shape), TensorSpec("mask", "FP32", shape)),
            outputs=(
                TensorSpec(OUTPUTS[0], "FP32", (-1, len(names))),
                TensorSpec(OUTPUTS[1], "INT64", (-1,)),
            ),
            task="classify",
            labels=names,
        )

    def network(self) -> Network:
        """A network that has learned nothing."""
        mean, scale = (torch.from_numpy(numbers) for numbers in self._moments)
        return _network(self.config, self.contract, neutral(mean, scale))

    def source(self, *, batch: int, rank: int = 0, world: int = 1) -> Source:
        """Training windows, with gaps and noise."""
        return Shaken(
            *(self._train, self.config, self._moments[1], self._seed),
            batch=batch,
            rank=rank,
            world=world,
        )

    def held_back(self) -> Sequence[Batch]:
        """The held-back windows that travel with the model."""
        part = self._calibration
        return (tensors({**part.inputs, **part.truth}),)

    def samples(self) -> Samples:
        """Some held-back and some test windows, all where they are few."""
        test = self._test.part(self._test.spread(self._room("test")))
        return Samples(self._calibration, test, _vectors(self._calibration))

    def baselines(self) -> dict[str, Any]:
        """Figures of methods that know mean and deviation of each sensor in a window."""
        train = self._train.part(self._train.spread(BASELINE_ROWS))
        rows, first = self._features(train), train.truth["label"]
        numbers = self._test.spread(JUDGED)
        test = np.concatenate(
            [
                self._features(self._test.part(numbers[at : at + AT_ONCE]))
                for at in range(0, len(numbers), AT_ONCE)
            ]
        )
        return baselines((rows, first), (test, self._test.labels[numbers]), self._seed)

    def report(self, model: TrainedModel) -> dict[str, Any]:
        """Sensors in the order of the inputs, counts, and figures of all test windows."""
        counts = {"train": self._train, "held_back": self._held, "test": self._test}
        found = {f"{width:.2f}": self._judge(model, width) for width in model.info.widths}
        full = next(iter(found.values()))[1].argmax(axis=1)
        truth = self._test.labels[self._test.spread(JUDGED)]
        return {
            "sensors": list(self._sensors),
            "windows": {name: len(part.labels) for name, part in counts.items()},
            "all_test": {width: told for width, (told, _) in found.items()},
            "confusion": confusion(full, truth, len(self.contract.labels)),
        }

    def _judge(self, model: TrainedModel, width: float) -> tuple[dict[str, float], Floats]:
        numbers, found = self._test.spread(JUDGED), []
        for at in range(0, len(numbers), AT_ONCE):
            part = self._test.part(numbers[at : at + AT_ONCE])
            found.append(outputs_of(RECIPE, model, part, width=width)[OUTPUTS[0]])
        told = np.concatenate(found)
        return figures(told, self._test.labels[numbers]), told

    def _features(self, part: Part) -> Floats:
        """Mean and deviation of each sensor, `[n, 2 S]`, in training deviations."""
        mean, scale = self._moments
        scaled = np.where(part.inputs["mask"] > 0, (part.inputs["values"] - mean) / scale, 0.0)
        return np.concatenate([scaled.mean(axis=1), scaled.std(axis=1)], axis=1, dtype=np.float32)

    @cached_property
    def _calibration(self) -> Part:
        return self._held.part(self._held.spread(self._room("calibration")))

    def _room(self, name: str) -> int:
        size = 8 * self.config.window * len(self._sensors)
        return min(CARRIED[name], max(1, CARRIED_BYTES // size))


class DiagnosisRecipe:
    """Tells conditions and faults apart."""

    name = "diagnosis"
    model = "fault-diagnosis"
    summary = "tell which condition or fault a machine is in, from a window of its sensors"
    layout = (
        "a table with a column for each sensor, rows in time order, and a column `condition`;\n"
        "or a folder of such tables, a run each; or a folder for each condition with its runs"
    )
    sizes: Mapping[str, msgspec.Struct] = SIZES
    run = RunSettings(
        steps=600,
        batch=32,
        optimizer=Optimizer("muon", rate=1e-2, decay=0.05),
        schedule=Schedule(warm_up=50),
        clip_norm=1.0,
        average=0.99,
        nesting="distil",
        check=100,
        patience=100,
    )

    def open(self, run: RunSettings, base: Moments | None = None) -> Task:
        """Read and cut the recordings of a run; without data, those of the plant that ships.

        Raises:
            DataError: the data are not of the layout.
            InvalidSettingError: there is no such size or option, or sizes do not go together.
            RequestError: `base` was given.
        """
        if base is not None:
            raise RequestError("this recipe has no linear base that sites could add to")
        config = configured(run, SIZES)
        _check(config, run.widths)
        data = conditions.open(run.data) if run.data else _plant()
        return DiagnosisTask(data, config, seed=run.seed)

    def module(self, info: ModelInfo, constants: Arrays) -> Network:
        """The network of a trained model."""
        config = msgspec.convert(info.config, DiagnosisConfig)
        buffers = tensors(constants)
        with torch.device("meta"):
            return _network(config, info.contract, buffers)

    def settle(self, model: TrainedModel) -> Arrays:
        """The temperature of each width, chosen on held-back windows."""
        return {TEMPERATURE: temperatures(self, model)}

    def error(self, outputs: Arrays, truth: Arrays) -> float:
        """Share of windows with the wrong condition."""
        return accuracy_error(outputs, truth)

    def figures(self, outputs: Arrays, truth: Arrays) -> dict[str, float]:
        """Accuracy, F1, log loss and calibration."""
        return figures(outputs[OUTPUTS[0]], truth["label"])


RECIPE: Final = DiagnosisRecipe()


def _network(config: DiagnosisConfig, contract: Contract, constants: Tensors) -> DiagnosisNetwork:
    sensors, classes = contract.inputs[0].shape[-1], len(contract.labels)
    return DiagnosisNetwork(config, constants, sensors=sensors, classes=classes)


def _check(config: DiagnosisConfig, widths: Sequence[float]) -> None:
    if min(config.window, config.patch, config.hidden, config.head, config.blocks) < 1:
        raise InvalidSettingError("window, patch, hidden, head and blocks are 1 at least")
    if config.window % config.patch:
        raise InvalidSettingError(
            f"a window of {config.window} rows is no multiple of patches of {config.patch}: choose "
            "options.window and options.patch so that it is"
        )
    for width in widths:
        if leading_count(config.hidden, width) % config.head:
            raise InvalidSettingError(
                f"options.hidden {config.hidden} at width {width:g} is no multiple of "
                f"options.head {config.head}: a width has whole heads"
            )


def _plant() -> Conditions:
    """The plant that ships: normal operation, and runs that turn faulty."""
    plant, normal = tep.PLANT.load(), "normal"
    whole = np.concatenate([plant.calibration, plant.test])
    segments = [Segment("d00", normal, plant.train), Segment("d00_te", normal, whole)]
    for fault, rows in plant.faults.items():
        run = Segment(f"d{fault:02d}_te", normal, rows)
        told = Segment(run.run, plant.fault_labels[fault], rows)
        segments += [run.part(0, plant.fault_start), told.part(plant.fault_start, len(rows))]
    return Conditions(plant.names, tuple(segments))


def _moments(rows: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of each sensor, over what was measured."""
    exact = rows.astype(np.float64)
    known = np.isfinite(exact)
    counts = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, exact, 0.0).sum(axis=0) / counts
    deviation = np.sqrt((np.where(known, exact - mean, 0.0) ** 2).sum(axis=0) / counts)
    least = np.maximum(np.abs(mean) * LEAST_DEVIATION, LEAST_DEVIATION)
    steady = deviation <= least
    return mean.astype(np.float32), np.where(steady, 1.0, deviation).astype(np.float32)


def _vectors(part: Part) -> Arrays:
    """Four windows that a device proves a slice with, of different conditions; one has gaps."""
    labels = part.truth["label"]
    firsts = [int(np.argmax(labels == label)) for label in np.unique(labels)]
    chosen = np.resize(firsts, 4)
    vectors = {name: array[chosen] for name, array in part.inputs.items()}
    vectors["mask"][3, :, ::4] = 0.0
    return vectors
