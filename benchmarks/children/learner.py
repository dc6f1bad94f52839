"""Learns on one batch: `learner {device,torch} DIRECTORY`; told "steps N", it takes N steps.

`device` is what an agent has: ONNX Runtime, numpy and our Adam. `torch` is autograd and its Adam on
the modules that the graph was exported from. Either imports only its own kind.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.children.lines import answer

RATE = 1e-3
Step = Callable[[], float]


def arrays(path: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """All arrays of a file."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def on_device(directory: Path) -> Step:
    """The gradient step that a release ships, and Adam in numpy."""
    from aimass_edge.config import BoardSettings  # noqa: PLC0415  torch must not pay for it
    from aimass_edge.federated.trainers import GRADIENT, Adam  # noqa: PLC0415
    from aimass_edge.runtime import open_session  # noqa: PLC0415

    session = open_session(directory / "train.onnx", BoardSettings())
    batch, parameters = arrays(directory / "batch.npz"), arrays(directory / "weights.npz")
    taken = {spec.name for spec in session.inputs}
    parameters = {name: array for name, array in parameters.items() if name in taken}
    adam = Adam(RATE)

    def step() -> float:
        results = session.run({**batch, **parameters})
        adam.step(parameters, {name: results[GRADIENT + name] for name in parameters})
        return float(results["loss"])

    return step


def by_torch(directory: Path) -> Step:
    """Autograd and `torch.optim.Adam`, one thread."""
    import torch  # noqa: PLC0415  a device must not pay for it

    from aimass_cloud.models.network import LocalLoss, tensors  # noqa: PLC0415
    from aimass_cloud.models.trained import TrainedModel  # noqa: PLC0415
    from aimass_cloud.slicing.templates import network_of  # noqa: PLC0415

    torch.set_num_threads(1)
    model = TrainedModel.load(directory / "model")
    whole, batch = LocalLoss(network_of(model)), tensors(arrays(directory / "batch.npz"))
    named = {f"network.{name}": one for name, one in tensors(model.at(1.0)).items()}
    weights = {name: named[f"network.{name}"].requires_grad_() for name in model.weights}
    adam = torch.optim.Adam(list(weights.values()), lr=RATE)

    def step() -> float:
        adam.zero_grad()
        inputs = (batch["values"], batch["mask"], batch["weight"])
        loss = torch.func.functional_call(whole, named, inputs)
        torch.autograd.backward(loss)
        adam.step()
        return float(loss.detach())

    return step


def learner(kind: str, directory: Path) -> Callable[[list[str]], dict[str, object]]:
    """What answers the parent."""
    step = (on_device if kind == "device" else by_torch)(directory)

    def reply(words: list[str]) -> dict[str, object]:
        count, cpu, wall = int(words[1]), time.process_time(), time.perf_counter()
        losses = [step() for _ in range(count)]
        return {
            "cpu_ms": (time.process_time() - cpu) / count * 1e3,
            "wall_ms": (time.perf_counter() - wall) / count * 1e3,
            "losses": losses,
        }

    return reply


if __name__ == "__main__":
    answer(learner(sys.argv[1], Path(sys.argv[2])))
