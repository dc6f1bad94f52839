"""Graphs as files: weights inside, or in one file beside where they are too many for one file."""

import tempfile
from pathlib import Path
from typing import Final

import onnx
from onnx import external_data_helper

from aimass_cloud.models.files import refused
from aimass_cloud.slicing.cuts.reading import is_beside, tensors
from aimass_shared.errors import ModelLoadFailedError

MOST_INSIDE: Final = 1 << 30
"""Bytes of weights in the ONNX file itself, which can have two GiB at most."""
SMALL: Final = 1024


def has_files(model: onnx.ModelProto) -> bool:
    """Whether weights of a graph are in other files."""
    return any(is_beside(tensor) for tensor in tensors(model))


def save(
    model: onnx.ModelProto, folder: Path | None, path: Path, *, most_inside: int = MOST_INSIDE
) -> list[Path]:
    """Write a graph with all its weights; a half-written file never has its final name.

    Args:
        model: the graph; it is not changed.
        folder: where files with its weights are.
        path: of the file. Weights over the limit go to `path` with `.data` at the end.
        most_inside: bytes of weights that go into the file itself.

    Returns:
        The files.

    Raises:
        ModelLoadFailedError: weights cannot be read.
        StorageError: the disk refuses.
    """
    filled = _filled(model, folder)
    beside = sum(len(tensor.raw_data) for tensor in tensors(filled)) > most_inside
    with refused(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            half = Path(directory) / path.name
            weights = f"{path.name}.data"
            onnx.save_model(
                filled,
                half,
                save_as_external_data=beside,
                location=weights if beside else None,
                size_threshold=SMALL,
            )
            written = [half.with_name(weights), half] if beside else [half]
            for file in written:
                file.chmod(half.stat().st_mode)  # onnx gives weights to their owner alone
                file.replace(path.with_name(file.name))
    return [path.with_name(file.name) for file in written[::-1]]


def _filled(model: onnx.ModelProto, folder: Path | None) -> onnx.ModelProto:
    """The graph with all numbers in it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in tensors(copy):
        if not is_beside(tensor):
            continue
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder or "."))
        except Exception as error:  # of its C++, without a common class
            raise ModelLoadFailedError(
                f"the weights of {tensor.name!r} cannot be read: {error}"
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return copy
