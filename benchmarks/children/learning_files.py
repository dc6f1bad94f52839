"""Writes what both learners need: `learning_files DIRECTORY CONFIG`, CONFIG a JSON of sizes.

A model that was hardly trained (its numbers do not matter), the exported gradient step of its full
width as a release has it, and one batch of the recipe's own rows.
"""

import sys
from pathlib import Path

import msgspec
import numpy as np

from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.models.windows import cut
from aimass_cloud.recipes import tep
from aimass_cloud.slicing.export import filled
from aimass_cloud.slicing.templates import BATCH, Templates
from aimass_cloud.training import RunSettings, train


def write(directory: Path, options: dict[str, object]) -> None:
    """Train a little, export, and write the files."""
    model = train("sensor-graph", RunSettings(steps=2, check=2, options=options))
    model.save(directory / "model")
    arrays = model.at(1.0)
    constants = {name: array for name, array in arrays.items() if name not in model.weights}
    step = filled(Templates(model, directory).step(1.0), constants)
    (directory / "train.onnx").write_bytes(step.SerializeToString())
    np.savez(
        directory / "weights.npz",
        allow_pickle=False,
        **{name: arrays[name] for name in model.weights},
    )
    np.savez(directory / "batch.npz", allow_pickle=False, **batch(model))


def batch(model: TrainedModel) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """The first windows of the recipe's training rows, all measured."""
    contract = model.info.contract
    rows = tep.load().train
    values = np.ascontiguousarray(cut(rows, contract.window + contract.horizon)[:BATCH])
    return {
        "values": values,
        "mask": np.ones_like(values),
        "weight": np.ones(BATCH, np.float32),
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=dict[str, object]))
