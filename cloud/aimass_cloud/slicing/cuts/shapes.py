"""Types, shapes and bytes of the tensors of a model: inferred, or else seen in a run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from aimass_cloud.slicing.cuts.dag import real_inputs
from aimass_cloud.slicing.cuts.reading import Whole
from aimass_cloud.slicing.cuts.running import Runner, Values, generated
from aimass_shared.activations import TYPES
from aimass_shared.errors import ModelLoadFailedError, UncuttableModelError

Sizes = Mapping[str, int]
"""Sizes of symbolic axes, such as `{"sequence": 128}`."""

UNKNOWN: Final = "?"


class Crossing(msgspec.Struct, frozen=True):
    """A tensor that crosses a cut.

    Attributes:
        dtype: as numpy calls it.
        shape: of each axis the size, the name of it, or "?".
        bytes_per_sample: None where the size of an axis is not known. A batch that is fixed in the
            model counts as one sample.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    bytes_per_sample: int | None


class Tensors:
    """What is known of a model's tensors."""

    def __init__(self, whole: Whole, sizes: Sizes, inputs: Values | None = None) -> None:
        """Infer types and shapes; run nothing yet.

        Args:
            whole: the model.
            sizes: of symbolic axes.
            inputs: arrays to run it with, which tell sizes too; normal numbers if there are none.
        """
        self._whole, self._inputs = whole, inputs
        self._types = _inferred(whole.model)
        self._batch = _batches([_dims(value.type) for value in real_inputs(whole.model.graph)])
        self._sizes = {**self._told_by(inputs or {}), **sizes}
        self._seen: dict[str, Crossing] = {}

    def look(self, names: Sequence[str], *, sizes: bool = True) -> None:
        """Run the model once for the tensors whose type, or size too, cannot be inferred."""
        wanted = [name for name in names if self._is_open(name, sizes=sizes)]
        if not wanted:
            return
        try:
            runner = Runner(self._whole.model, self._whole.folder, extra=wanted)
            values = runner.run(self._sample())
        except (ModelLoadFailedError, UncuttableModelError):
            return  # what is not known stays so, and is said where it matters
        for name in wanted:
            if isinstance(values[name], np.ndarray):
                self._seen[name] = self._observed(name, values[name])

    @property
    def unsized(self) -> tuple[str, ...]:
        """Axes of inputs, other than batches, whose size nobody told: no bytes without it."""
        axes = {
            axis
            for value in real_inputs(self._whole.model.graph)
            for axis in _dims(value.type)
            if isinstance(axis, str)
        }
        return tuple(sorted(axes - set(self._sizes) - self._batch))

    def refusal(self, name: str) -> str:
        """Why a tensor cannot cross; "" if it can."""
        kind = self._types.get(name, onnx.TypeProto()).WhichOneof("value")
        if kind not in (None, "tensor_type"):
            return f"is a {str(kind).removesuffix('_type')}, which does not travel"
        if name in self._seen or self._rank_known(name):
            dtype = self.crossing(name).dtype
            return "" if dtype in TYPES else f"has type {dtype}, which does not travel"
        return "has a type or rank that nothing tells"

    def crossing(self, name: str) -> Crossing:
        """A tensor that may cross."""
        if name in self._seen:
            return self._seen[name]
        dtype = _dtype(self._types[name].tensor_type.elem_type)
        shape = tuple(_dims(self._types[name]))
        return Crossing(name, dtype, shape, self._bytes(dtype, shape))

    def value_info(self, name: str) -> onnx.ValueInfoProto:
        """A tensor as an input or output of a part."""
        if self._rank_known(name):
            value = onnx.ValueInfoProto(name=name)
            value.type.CopyFrom(self._types[name])
            return value
        seen = self._seen[name]
        elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(seen.dtype))
        return onnx.helper.make_tensor_value_info(name, elem, [None] * len(seen.shape))

    def _told_by(self, inputs: Values) -> dict[str, int]:
        """Sizes that the shapes of inputs tell, but for batches."""
        pairs = [
            pair
            for value in real_inputs(self._whole.model.graph)
            if value.name in inputs
            for pair in zip(_dims(value.type), np.shape(inputs[value.name]), strict=False)
        ]
        return {axis: size for axis, size in pairs if isinstance(axis, str)} | dict.fromkeys(
            self._batch, 1
        )

    def _sample(self) -> Values:
        """Inputs of a batch of one."""
        if self._inputs is None:
            return generated(self._whole.model, sizes=self._sizes)
        batches = {
            value.name
            for value in real_inputs(self._whole.model.graph)
            if self._batch.intersection(map(str, _dims(value.type)[:1]))
        }
        return {
            name: array[:1] if name in batches else array for name, array in self._inputs.items()
        }

    def _is_open(self, name: str, *, sizes: bool) -> bool:
        if self._types.get(name, onnx.TypeProto()).WhichOneof("value") not in (None, "tensor_type"):
            return False
        if not self._rank_known(name):
            return True
        return sizes and not self.unsized and self.crossing(name).bytes_per_sample is None

    def _rank_known(self, name: str) -> bool:
        tensor = self._types.get(name, onnx.TypeProto()).tensor_type
        return bool(tensor.elem_type) and tensor.HasField("shape")

    def _observed(self, name: str, value: NDArray[Any]) -> Crossing:
        known = self._rank_known(name)
        shape = tuple(_dims(self._types[name])) if known else (UNKNOWN,) * value.ndim
        size = None if self.unsized else int(value.nbytes)
        return Crossing(name, value.dtype.name, shape, size)

    def _bytes(self, dtype: str, shape: Sequence[int | str]) -> int | None:
        sizes = [self._size(axis) for axis in shape]
        if None in sizes or dtype not in TYPES:
            return None
        return np.dtype(dtype).itemsize * math.prod(size or 0 for size in sizes)

    def _size(self, axis: int | str) -> int | None:
        if isinstance(axis, int):
            return axis
        return self._sizes.get(axis, 1 if axis in self._batch else None)


def _batches(shapes: Sequence[Sequence[int | str]]) -> set[str]:
    """Names of batches: of first axes, but for those of lists, unless there are only lists."""
    wide = [shape for shape in shapes if len(shape) > 1] or [shape for shape in shapes if shape]
    return {shape[0] for shape in wide if isinstance(shape[0], str)}


def _inferred(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        graph = model.graph
    return {value.name: value.type for value in (*graph.value_info, *graph.output, *graph.input)}


def _dims(kind: onnx.TypeProto) -> list[int | str]:
    dims = kind.tensor_type.shape.dim
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or UNKNOWN for dim in dims
    ]


def _dtype(elem: int) -> str:
    if elem not in onnx.TensorProto.DataType.values():
        return f"number {elem}"
    name = str(onnx.TensorProto.DataType.Name(elem)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
