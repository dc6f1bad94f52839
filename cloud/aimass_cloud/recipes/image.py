"""Recipe "image": classifies pictures, with probabilities; surfaces, parts, digits, whatever."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, Final, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from aimass_cloud.datasets import pictures, symmetry
from aimass_cloud.datasets.augmentation import Augmentation
from aimass_cloud.datasets.pictures import Pictures, PictureSet
from aimass_cloud.models.classifier import OUTPUTS, TEMPERATURE
from aimass_cloud.models.images import ImageNetwork, Layout, neutral
from aimass_cloud.models.network import Batch, Network, Tensors, tensors
from aimass_cloud.models.samples import Arrays, Part, Samples
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.recipes.classification import (
    accuracy_error,
    baselines,
    figures,
    stratified,
    temperatures,
)
from aimass_cloud.recipes.run import Optimizer, RunSettings, Schedule, configured
from aimass_cloud.recipes.task import Source, Task
from aimass_shared.errors import RequestError
from aimass_shared.manifest import Contract, TensorSpec
from aimass_shared.moments import Moments

SHARES: Final = (0.7, 0.1, 0.2)
HELD_BACK: Final = 0.125
CARRIED: Final = {"calibration": 500, "test": 1000}
CARRIED_BYTES: Final = 16 << 20
BASELINE_ROWS, BASELINE_SIDE = 5000, 32
BLEND = 0.15

Labels = NDArray[np.int64]
Floats = NDArray[np.float32]


class ImageConfig(Layout, frozen=True):
    """The network, and what is done to pictures.

    Attributes:
        side: longest side in pixels; larger pictures are made smaller.
        split: seed of the split into training, held-back and test pictures, where there is one.
            It is not the seed of the run: other runs are judged on the same pictures.
        turns: how training pictures may be turned. "auto" asks the pictures themselves, "mirror" is
            left to right, "flips" also top to bottom, "all" also by 90 degrees.
        shift: largest shift of training pictures, as a share of the sides.
        light: largest change of brightness and contrast, as a share of the pixels' spread.
    """

    side: int = 64
    split: int = 0
    turns: Literal["auto", "none", "mirror", "flips", "all"] = "auto"
    shift: float = 0.1
    light: float = 0.3


SIZES: Final = {
    "tiny": ImageConfig(stages=(16, 16, 32, 64)),
    "base": ImageConfig(),
    "large": ImageConfig(stages=(64, 128, 256, 512), blocks=2, side=96),
    "xl": ImageConfig(stages=(128, 256, 512, 1024), blocks=5, side=128),
}
TURNS: Final = {"none": 0, "mirror": 1, "flips": 2, "all": 3}


@dataclass(frozen=True, eq=False)
class Shuffled:
    """Batches of pictures in a new order each time all were seen, each changed a little.

    Batch k depends on the seed and k alone.
    """

    pictures: Pictures
    rows: Labels
    change: Augmentation
    seed: int
    batch: int
    rank: int
    world: int

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches from number `start` on, without end."""
        orders: dict[int, Labels] = {}
        for number in count(start):
            # A part of all orders behind each other; seldom of two, more often of the last one.
            places = np.arange(number * self.batch, (number + 1) * self.batch)
            rounds, within = (part.tolist() for part in np.divmod(places, len(self.rows)))
            orders = {
                one: orders[one] if one in orders else self._order(one) for one in set(rounds)
            }
            chosen = [orders[one][at] for one, at in zip(rounds, within, strict=True)]
            yield self._changed(np.array(chosen)[self.rank :: self.world], number)

    def _order(self, round_number: int) -> Labels:
        return np.random.default_rng((self.seed, round_number, 0)).permutation(self.rows)

    def _changed(self, rows: Labels, number: int) -> Batch:
        random = np.random.default_rng((self.seed, number, self.rank + 1))
        pixels = self.change(self.pictures.pixels[rows], random)
        labels = torch.from_numpy(self.pictures.labels[rows])
        return {"image": torch.from_numpy(pixels), "label": labels}


class ImageTask(Task):
    """Pictures in three parts, with what their pixels say."""

    per_width = (TEMPERATURE,)

    def __init__(self, data: PictureSet, config: ImageConfig, *, seed: int) -> None:
        """Split the pictures and look at the training pixels.

        Raises:
            DataError: a class has too few pictures.
        """
        self.config: ImageConfig = config
        self._seed = seed
        self._all, self._classes = data.pictures, data.classes
        if data.test is None:
            self._train, self._held, test = stratified(data.pictures.labels, SHARES, config.split)
            self._test, self._judged = data.pictures, test
        else:
            shares = (1 - HELD_BACK, HELD_BACK)
            self._train, self._held = stratified(data.pictures.labels, shares, config.split)
            self._test, self._judged = data.test, np.arange(len(data.test))
        self._turns = self._turned()
        shape = data.pictures.pixels.shape[1:]
        self.contract = Contract(
            model=RECIPE.model,
            inputs=(TensorSpec("image", "FP32", (-1, *shape)),),
            outputs=(
                TensorSpec(OUTPUTS[0], "FP32", (-1, len(data.classes))),
                TensorSpec(OUTPUTS[1], "INT64", (-1,)),
            ),
            task="classify",
            labels=data.classes,
        )

    def network(self) -> Network:
        """A network that has learned nothing."""
        mean, spread = (torch.from_numpy(values) for values in self._pixel_moments)
        return _network(self.config, self.contract, neutral(mean, spread))

    def source(self, *, batch: int, rank: int = 0, world: int = 1) -> Source:
        """Training pictures, changed at random."""
        mean, spread = self._pixel_moments
        sides = self._all.pixels.shape[2:]
        change = Augmentation(
            self._turns,
            shift=round(self.config.shift * min(sides)),
            light=self.config.light,
            mean=mean,
            spread=spread,
        )
        return Shuffled(
            *(self._all, self._train, change, self._seed), batch=batch, rank=rank, world=world
        )

    def held_back(self) -> Sequence[Batch]:
        """The held-back pictures as they are, as many as travel with the model."""
        part = self._calibration
        return (tensors({**part.inputs, **part.truth}),)

    def samples(self) -> Samples:
        """Some held-back and some test pictures; all, where they are few."""
        test = self._part(self._test, self._judged, CARRIED["test"])
        return Samples(self._calibration, test, {"image": _vectors(self._calibration)})

    def baselines(self) -> dict[str, Any]:
        """Figures of methods without a network, on at most 5,000 training pictures."""
        train = self._chosen(self._all, self._train, BASELINE_ROWS)
        parts = ((self._all, train), (self._test, self._judged))
        first, second = (
            (_coarse(source.pixels[rows]), source.labels[rows]) for source, rows in parts
        )
        return baselines(first, second, self.config.split)

    def report(self, model: TrainedModel) -> dict[str, Any]:
        """How many pictures there were, which turns were used, and figures on all test pictures."""
        counts = {"train": self._train, "held_back": self._held, "test": self._judged}
        return {
            "pictures": {name: len(rows) for name, rows in counts.items()},
            "turns": list(self._turns),
            "all_test": {f"{width:.2f}": self._judge(model, width) for width in model.info.widths},
        }

    def _judge(self, model: TrainedModel, width: float) -> dict[str, float]:
        size = CARRIED["test"]
        found = []
        for at in range(0, len(self._judged), size):
            rows = self._judged[at : at + size]
            part = Part({"image": _scaled(self._test.pixels[rows])}, {})
            found.append(outputs_of(RECIPE, model, part, width=width)[OUTPUTS[0]])
        return figures(np.concatenate(found), self._test.labels[self._judged])

    def _turned(self) -> tuple[str, ...]:
        names = tuple(symmetry.TURNS)
        if self.config.turns != "auto":
            return names[: TURNS[self.config.turns]]
        rows = self._chosen(self._all, self._train, BASELINE_ROWS)
        return symmetry.found(self._all.pixels[rows], self._all.labels[rows], self.config.split)

    @cached_property
    def _calibration(self) -> Part:
        return self._part(self._all, self._held, CARRIED["calibration"])

    @cached_property
    def _pixel_moments(self) -> tuple[Floats, Floats]:
        rows = self._chosen(self._all, self._train, BASELINE_ROWS)
        pixels = _scaled(self._all.pixels[rows])
        axes = (0, 2, 3)
        return pixels.mean(axis=axes), np.maximum(pixels.std(axis=axes), 1e-3)

    def _chosen(self, source: Pictures, rows: Labels, most: int) -> Labels:
        """At most so many of the rows, with the shares of their classes."""
        if len(rows) <= most:
            return rows
        share = most / len(rows)
        _, chosen = stratified(source.labels[rows], (1 - share, share), self.config.split)
        return rows[chosen]

    def _part(self, source: Pictures, rows: Labels, most: int) -> Part:
        room = CARRIED_BYTES // (4 * int(np.prod(source.pixels.shape[1:])))
        rows = self._chosen(source, rows, min(most, room))
        return Part({"image": _scaled(source.pixels[rows])}, {"label": source.labels[rows]})


class ImageRecipe:
    """Classifies pictures."""

    name = "image"
    model = "image-classifier"
    summary = "classify pictures, with a probability for each class"
    layout = (
        "a folder for each class with PNG, JPEG or BMP files, if you like below train/ and test/;\n"
        "or one .npz with x and y; or Parquet with the columns image and label"
    )
    sizes: Mapping[str, msgspec.Struct] = SIZES
    run = RunSettings(
        steps=1800,
        batch=32,
        optimizer=Optimizer("muon", rate=1e-2, decay=0.05),
        schedule=Schedule(warm_up=100),
        nesting="distil",
        check=200,
        patience=100,
    )

    def open(self, run: RunSettings, base: Moments | None = None) -> Task:
        """Read and split the pictures of a run; without data, scikit-learn's digits.

        Raises:
            DataError: the data are not of the layout.
            RequestError: `base` was given.
        """
        if base is not None:
            raise RequestError("this recipe has no linear base that sites could add to")
        config = configured(run, SIZES)
        data = pictures.read(run.data, config.side) if run.data else _digits()
        return ImageTask(data, config, seed=run.seed)

    def module(self, info: ModelInfo, constants: Arrays) -> Network:
        """The network of a trained model."""
        config = msgspec.convert(info.config, ImageConfig)
        buffers = tensors(constants)
        with torch.device("meta"):
            return _network(config, info.contract, buffers)

    def settle(self, model: TrainedModel) -> Arrays:
        """The temperature of each width, chosen on held-back pictures."""
        return {TEMPERATURE: temperatures(self, model)}

    def error(self, outputs: Arrays, truth: Arrays) -> float:
        """Share of wrong labels."""
        return accuracy_error(outputs, truth)

    def figures(self, outputs: Arrays, truth: Arrays) -> dict[str, float]:
        """Accuracy, log loss and calibration."""
        return figures(outputs[OUTPUTS[0]], truth["label"])


RECIPE: Final = ImageRecipe()


def _network(config: ImageConfig, contract: Contract, constants: Tensors) -> ImageNetwork:
    shape = contract.inputs[0].shape[1:]
    return ImageNetwork(config, constants, shape=shape, classes=len(contract.labels))


def _digits() -> PictureSet:
    """1,797 handwritten digits of 8 by 8 pixels in 17 shades, which come with scikit-learn."""
    digits = load_digits()
    pixels = np.minimum(digits.images[:, None] * 16, 255).astype(np.uint8)
    classes = tuple(str(name) for name in digits.target_names)
    return PictureSet(classes, Pictures(pixels, digits.target.astype(np.int64)), None)


def _scaled(pixels: NDArray[np.uint8]) -> Floats:
    return np.divide(pixels, 255, dtype=np.float32)


def _coarse(pixels: NDArray[np.uint8]) -> Floats:
    """Rows of pixels; every second one and so on where sides are long."""
    stride = -(-max(pixels.shape[2:]) // BASELINE_SIDE)
    return _scaled(pixels[..., ::stride, ::stride]).reshape(len(pixels), -1)


def _vectors(part: Part) -> Floats:
    """Pictures `[4, C, H, W]` that a device proves a slice with: two as they are, two less clear.

    All are like pictures: what int8 says of darkness or noise is as good as drawn, and a self-test
    that allows for it would allow for anything.
    """
    images, labels = part.inputs["image"], part.truth["label"]
    firsts = [int(np.argmax(labels == label)) for label in np.unique(labels)]
    chosen: Floats = images[np.resize(firsts, 4)]
    chosen[2:] += BLEND * (chosen[[1, 0]] - chosen[2:])
    return chosen
