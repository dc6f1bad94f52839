"""Models and parts of them in ONNX Runtime on one core, weights in other files or not."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from aimass_cloud.slicing.cuts.dag import real_inputs
from aimass_cloud.slicing.cuts.files import has_files, save
from aimass_shared.errors import ModelLoadFailedError, UncuttableModelError

Values = Mapping[str, Any]
"""Arrays by name; a sequence is a list of arrays, a map a dict."""

SIZE: Final = 2
"""Of an axis whose size nobody told."""


class Runner:
    """A graph that is ready to run."""

    def __init__(
        self, model: onnx.ModelProto, folder: Path | None = None, *, extra: Sequence[str] = ()
    ) -> None:
        """Load the graph.

        Args:
            model: the graph.
            folder: where files with its weights are.
            extra: tensors in between that are given out too.

        Raises:
            ModelLoadFailedError: ONNX Runtime refuses it.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        with _loadable(_giving(model, extra), folder) as source, _refusals("refuses the graph"):
            self._session = onnxruntime.InferenceSession(
                source,
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,  # it would try the same again and print
            )
        self._names = [output.name for output in self._session.get_outputs()]
        self.inputs = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Values) -> dict[str, Any]:
        """The outputs.

        Raises:
            ModelLoadFailedError: it cannot be run on these inputs.
        """
        given = {name: _array(inputs[name]) for name in self.inputs if name in inputs}
        with _refusals("cannot run the graph"):
            return dict(zip(self._names, self._session.run(self._names, given), strict=True))


def _array(value: Any) -> Any:  # noqa: ANN401  array, number, list or dict
    return np.asarray(value) if isinstance(value, np.generic | int | float) else value


def generated(
    model: onnx.ModelProto, *, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, NDArray[Any]]:
    """Inputs for a model: normal numbers, and small whole ones that may be indices.

    Raises:
        UncuttableModelError: an input is of a kind that is not made here.
    """
    random = np.random.default_rng(seed)
    inputs = real_inputs(model.graph)
    return {value.name: _drawn(value, random, sizes or {}) for value in inputs}


def _drawn(
    value: onnx.ValueInfoProto, random: np.random.Generator, sizes: Mapping[str, int]
) -> NDArray[Any]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise UncuttableModelError(f"input {value.name!r} has no rank: give inputs to try it with")
    shape = [
        dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param, SIZE)
        for dim in tensor.shape.dim
    ]
    if tensor.elem_type not in onnx.TensorProto.DataType.values()[1:]:
        raise UncuttableModelError(f"input {value.name!r} has a type that is not known")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if dtype.kind == "O":
        return np.full(shape, "a", dtype=object)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def _giving(model: onnx.ModelProto, extra: Sequence[str]) -> onnx.ModelProto:
    known = {value.name for value in model.graph.output}
    asked = [name for name in extra if name not in known]
    if not asked:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend([onnx.ValueInfoProto(name=name) for name in asked])
    return copy


@contextlib.contextmanager
def _loadable(model: onnx.ModelProto, folder: Path | None) -> Iterator[bytes | str]:
    """What ONNX Runtime loads: the bytes, or a file where weights are beside it."""
    if not has_files(model):
        yield model.SerializeToString()
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        save(model, folder, path)
        yield str(path)


@contextlib.contextmanager
def _refusals(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # its errors have no common class of their own
        text = str(error).strip().partition("\n")[0]
        raise ModelLoadFailedError(f"ONNX Runtime {what}: {text}") from error
