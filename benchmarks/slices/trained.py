"""Models that were trained for a short while on real data, as ONNX graphs with samples."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from aimass_cloud import recipes
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.models.windows import cut
from aimass_cloud.recipes import tep
from aimass_cloud.slicing.export import filled, folded
from aimass_cloud.slicing.quantize import quantized
from aimass_cloud.slicing.templates import OPSET, Templates
from aimass_cloud.training import train

SMALL: Final = {"hidden": 8, "steps": 1}
RUNS: Final[Mapping[str, Mapping[str, Any]]] = {
    "sensor-graph": {"steps": 40, "check": 20, "options": SMALL},
    "price-series": {"steps": 40, "check": 20, "options": {**SMALL, "window": 12, "horizon": 4}},
    "diagnosis": {"steps": 40, "check": 20, "size": "tiny"},
    "image": {"steps": 60, "check": 30, "options": {"stages": [16, 16, 32]}},
    "text-match": {"steps": 60, "check": 30, "size": "tiny"},
    "recommend": {"steps": 40, "check": 20, "size": "tiny"},
}
SIDE: Final = 4
ROWS, CLASSES, WIDE = 32, 8, 64
"""Of a window of the plant: its rows; what happened in it; the width of the transformer."""
NOISE: Final = 1.5
"""Of the sensors, in their deviations: without it every window is told right."""
TOLD: Final = 0.6
"""Share of a recording's rows that are learned from; the rest is for the test."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Trained:
    """A classifier as a graph, with test samples and their labels."""

    name: str
    graph: onnx.ModelProto
    inputs: Arrays
    labels: NDArray[np.int64]
    scores: str


def slices(name: str) -> Iterator[tuple[str, onnx.ModelProto, Arrays]]:
    """The float and the int8 slice of a recipe at its full width, with samples."""
    plan = recipes.find(name)
    run = msgspec.structs.replace(plan.run, widths=(1.0,), **RUNS[name])
    model = train(name, run)
    samples = {key: array[:4] for key, array in model.samples.test.inputs.items()}
    whole = _exported(model)
    yield f"{name} fp32", whole, samples
    kept = plan.module(model.info, model.constants).KEPT_FLOAT
    yield f"{name} int8", quantized(whole, model.samples.calibration.inputs, kept), samples


def cnn() -> Trained:
    """The recipe for pictures, on scanned digits of 32 x 32 pixels."""
    plan = recipes.find("image")
    with digits() as data:
        run = msgspec.structs.replace(
            plan.run,
            data=str(data),
            steps=150,
            check=50,
            widths=(1.0,),
            options={"stages": [16, 16, 32, 64]},
        )
        model = train("image", run)
    test = model.samples.test
    labels = test.truth["label"].astype(np.int64)
    return Trained("CNN, digits", _exported(model), dict(test.inputs), labels, "probabilities")


def transformer() -> Trained:
    """Two blocks over windows of the plant that ships: which of its faults is it?"""
    torch.manual_seed(0)
    learned, test = _windows()
    network = _Classifier(len(tep.load().sensors))
    network.scale(learned[0])
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    random = np.random.default_rng(0)
    for _ in range(250):
        rows = random.integers(0, len(learned[0]), 32)
        answers = network(torch.from_numpy(learned[0][rows]))
        loss = nn.functional.cross_entropy(answers, torch.from_numpy(learned[1][rows]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # of torch
        optimizer.step()
    graph = _of_torch(network.eval(), torch.from_numpy(test[0][:2]))
    return Trained("transformer, plant", graph, {"values": test[0]}, test[1], "scores")


class _Classifier(nn.Module):
    def __init__(self, sensors: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(sensors))
        self.register_buffer("deviation", torch.ones(sensors))
        self.embed = nn.Linear(sensors, WIDE)
        self.place = nn.Parameter(0.02 * torch.randn(ROWS, WIDE))
        self.blocks = nn.ModuleList(_Block() for _ in range(2))
        self.answer = nn.Linear(WIDE, CLASSES)

    def scale(self, windows: NDArray[np.float32]) -> None:
        self.mean = torch.from_numpy(windows.mean(axis=(0, 1)))
        self.deviation = torch.from_numpy(windows.std(axis=(0, 1))) + 1e-6

    def forward(self, values: Tensor) -> Tensor:
        x = self.embed((values - self.mean) / self.deviation) + self.place
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.answer(x.mean(dim=1))
        return result


class _Block(nn.Module):
    """Attention and a gate of two layers, each after a normalisation and beside a short cut."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDE) for _ in range(2))
        self.mix, self.join = nn.Linear(WIDE, 3 * WIDE), nn.Linear(WIDE, WIDE)
        self.up, self.down = nn.Linear(WIDE, 2 * WIDE), nn.Linear(2 * WIDE, WIDE)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(self.norms[0](x)).reshape(-1, ROWS, 3, 4, WIDE // 4)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-2, -1) / (WIDE // 4) ** 0.5).softmax(-1)
        x = x + self.join((weights @ value).transpose(1, 2).reshape(-1, ROWS, WIDE))
        result: Tensor = x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))
        return result


def _windows() -> Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Windows and labels to learn from, and later ones of the same recordings for the test."""
    data = tep.load()
    parts: list[list[NDArray[np.float32]]] = [[], []]
    for rows in list(data.faults.values())[:CLASSES]:
        after = rows[data.fault_start :]
        place = int(TOLD * len(after))
        parts[0].append(cut(after[:place], ROWS))
        parts[1].append(cut(after[place:], ROWS))
    random, deviation = np.random.default_rng(0), data.train.std(axis=0)
    found = []
    for part in parts:
        clean = np.concatenate(part)
        noise = NOISE * deviation * random.standard_normal(clean.shape)
        labels = np.repeat(np.arange(len(part)), [len(one) for one in part])
        order = random.permutation(len(labels))
        found.append(((clean + noise).astype(np.float32)[order], labels[order]))
    return found


@contextmanager
def digits() -> Iterator[Path]:
    """The digits that scikit-learn ships, four times as large."""
    found = load_digits()
    pixels = torch.from_numpy(found.images.astype(np.float32))[:, None] * (255 / 16)
    large = nn.functional.interpolate(pixels, scale_factor=SIDE, mode="bilinear")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.npz"
        np.savez(path, x=large[:, 0].round().to(torch.uint8).numpy(), y=found.target)
        yield path


def _exported(model: TrainedModel) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        template = Templates(model, Path(folder)).forward(1.0)
    return folded(filled(template, model.at(1.0)))


def _of_torch(network: nn.Module, example: Tensor) -> onnx.ModelProto:
    program = torch.onnx.export(
        network,
        (example,),
        input_names=["values"],
        output_names=["scores"],
        opset_version=OPSET,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise TypeError("torch exported to a file instead of a program")
    return program.model_proto
